//! Mosquitto as the bridge between its own Clients and those of this broker. Where Debian's Mosquitto is not installed
//! this says so and does nothing.

#![forbid(unsafe_code)]

mod support;

use support::Broker;
use support::client::{Client, Options, Version};
use support::folder::Folder;
use support::mosquitto::{self, Mosquitto};

/// What comes until the `last`, with its topic and RETAIN flag.
fn received_until(client: &mut Client, last: &str) -> Vec<(String, String, bool)> {
    let mut received = Vec::new();
    loop {
        let message = client.receive();
        if message.payload == last {
            return received;
        }
        received.push((message.topic_name, message.payload, message.retain));
    }
}

fn was(topic_name: &str, payload: &str, retain: bool) -> (String, String, bool) {
    (topic_name.to_owned(), payload.to_owned(), retain)
}

/// It tells by a bit of the Protocol Level that it is a bridge, and does not connect for seconds if that is refused.
#[test]
fn bridge_of_mosquitto_carries_each_message_both_ways_once_and_what_is_retained_as_such() {
    let Some(program) = mosquitto::program() else {
        return;
    };
    let broker = Broker::on_cores(2);
    let mut here = Options::new(Version::V311, "here").connect(broker.port());
    here.publish_with_retain("kept/before", "1", 1, true);
    let folder = Folder::new();
    let lines = format!(
        "allow_anonymous true\nuser root\nconnection here\naddress 127.0.0.1:{}\n\
         topic # both 2\nkeepalive_interval 5\n",
        broker.port()
    );
    let other = Mosquitto::start(&program, folder.path(), &lines);
    let mut there = Options::new(Version::V311, "there").connect(other.port);
    there.subscribe("#", 2);
    here.subscribe("#", 2);
    // The bridge has subscribed here.
    assert_eq!(there.receive().payload, "1");
    assert_eq!(here.receive().payload, "1");

    // Whoever is sent a message back sees it before the last one.
    for (qos, payload) in [(0, "a"), (1, "b"), (2, "c")] {
        here.publish("from/here", payload, qos);
        there.publish("from/there", payload, qos);
    }
    here.publish_with_retain("kept/here", "2", 1, true);
    here.publish("last", "from here", 2);
    received_until(&mut there, "from here");
    there.publish_with_retain("kept/there", "3", 1, true);
    there.publish("last", "from there", 2);
    let mut seen = received_until(&mut here, "from there");
    let own = seen.extract_if(.., |(_, payload, _)| payload == "from here");
    assert_eq!(own.count(), 1, "its own subscription");
    seen.sort();
    let each = |topic_name| ["a", "b", "c"].map(|payload| was(topic_name, payload, false));
    let mut expected = [each("from/here"), each("from/there")].concat();
    expected.extend([was("kept/here", "2", false), was("kept/there", "3", false)]);
    assert_eq!(seen, expected);

    // What was retained at one end is retained at the other.
    for port in [broker.port(), other.port] {
        let mut later = Options::new(Version::V311, "later").connect(port);
        later.subscribe("kept/+", 1);
        let mut kept = [(); 3].map(|()| {
            let message = later.receive();
            was(&message.topic_name, &message.payload, message.retain)
        });
        kept.sort();
        let names = [("before", "1"), ("here", "2"), ("there", "3")];
        let expected = names.map(|(name, payload)| was(&format!("kept/{name}"), payload, true));
        assert_eq!(kept, expected);
    }
}
