//! What Clients cost that say nothing.

#[path = "support/hex.rs"]
mod hex;

use std::time::Duration;

use hex::{Broker, hex};

/// Counted in wakes of the shard: a wake that finds nothing to do is what idle time would be spent on.
#[test]
fn a_thousand_silent_clients_wake_nobody_once_their_connect_time_out_has_passed() {
    let mut broker = Broker::new();
    for index in 0..1000 {
        let name = hex(format!("{index:04}").as_bytes());
        let connect = format!("10 10 0004 4d515454 04 02 0000 0004 {name}");
        let (_, connack) = broker.connect(&connect);
        assert_eq!(connack, "20020000");
    }
    let end = broker.now + Duration::from_secs(3600);
    let mut wakes = 0;
    while let Some(at) = broker.shard.next_deadline().filter(|&at| at <= end) {
        broker.now = broker.now.max(at);
        broker.shard.handle_timeout(broker.now, &mut broker.effects);
        wakes += 1;
    }
    assert!(wakes <= 1, "{wakes} wakes in an hour");
    assert_eq!(broker.shard.next_deadline(), None);
    assert_eq!(broker.shard.census().connections, 1000);
}

/// A Keep Alive is looked at when it would have run out, not with every packet, and not before.
#[test]
fn a_client_that_keeps_alive_wakes_the_shard_about_once_in_that_time() {
    let mut broker = Broker::new();
    // Keep Alive 60 s, a PINGREQ every 50 s.
    let client = broker.v311('a');
    let mut wakes = 0;
    for _ in 0..72 {
        let next = broker.now + Duration::from_secs(50);
        while let Some(at) = broker.shard.next_deadline().filter(|&at| at <= next) {
            broker.now = broker.now.max(at);
            broker.shard.handle_timeout(broker.now, &mut broker.effects);
            wakes += 1;
        }
        broker.now = next;
        assert_eq!(broker.send(client, "c000"), "d000");
    }
    assert!(!broker.is_closed(client));
    assert!(wakes <= 72, "{wakes} wakes in 72 times 50 seconds");
}
