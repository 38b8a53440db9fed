//! What memory the broker has in use: for those that never complete their CONNECT, and after a burst.

#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::raw::{self, Raw};
use support::{Broker, PATIENCE, allow_open_files};

const STRANGERS: usize = 3000;
/// What a stranger sends of his CONNECT: more than fits into what each may hold.
const SENT: usize = 60_000;

/// Bytes of memory that the broker has in use.
fn resident(broker: &Broker) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", broker.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() * 1024
}

/// A v3.1.1 CONNECT whose Will has so many bytes.
fn connect_with_will(client_identifier: &str, will_size: usize) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\x06\0\x3c".to_vec();
    body.extend(raw::string(client_identifier));
    body.extend(raw::string("will"));
    body.extend(raw::string(vec![b'w'; will_size]));
    raw::packet(0x10, &body)
}

#[test]
fn strangers_with_half_a_large_connect_cost_a_few_kib_each_and_keep_nobody_out() {
    allow_open_files(STRANGERS as u64 + 500);
    let mut broker = Broker::on_cores(2);
    let mut before = Raw::connect(broker.port(), 4, "before");
    let memory_before = resident(&broker);

    let strangers: Vec<TcpStream> = (0..STRANGERS)
        .map(|number| {
            let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
            stream.set_nonblocking(true).unwrap();
            let packet = connect_with_will(&format!("stranger-{number}"), 65_000);
            // As far as the kernel takes it.
            let _ = stream.write(&packet[..SENT]);
            stream
        })
        .collect();

    // Those who are connected, and those who come with a little, do not notice.
    before.send(&[0xc0, 0]);
    assert_eq!(before.receive(), Some((0xd0, Vec::new())), "PINGRESP");
    let mut small = Raw::connect(broker.port(), 4, "small");
    small.send(&raw::subscribe("will", 0));
    assert_eq!(small.receive(), Some((0x90, vec![0, 1, 0])), "SUBACK");

    // One with a large Will, who sends it, is served.
    let began = Instant::now();
    let mut large = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    large.set_read_timeout(Some(PATIENCE)).unwrap();
    large
        .write_all(&connect_with_will("large", 65_000))
        .unwrap();
    let mut connack = [0; 4];
    large.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    println!("a large CONNECT took {:?}", began.elapsed());

    // 180 MB were sent. What each may hold takes twice that to grow, and the pages of sockets'
    // tables are in it as well.
    let grown = resident(&broker).saturating_sub(memory_before);
    println!("grown by {} KiB", grown >> 10);
    assert!(grown < STRANGERS * 10 * 1024, "grown by {grown} bytes");

    // And the Will arrives whole.
    drop(large);
    let (first_byte, body) = small.receive().expect("the Will");
    assert_eq!((first_byte, body.len()), (0x30, 2 + 4 + 65_000));
    assert!(broker.is_running());
    drop(strangers);
}

#[test]
fn large_message_for_many_who_do_not_read_is_in_memory_once_and_reaches_all_of_them() {
    const READERS: usize = 100;
    const SIZE: usize = 1_900_000;
    for qos in [0, 1] {
        let broker = Broker::on_cores(2);
        let mut readers: Vec<Raw> = (0..READERS)
            .map(|number| {
                let mut reader = Raw::connect(broker.port(), 4, &format!("reader-{number}"));
                reader.send(&raw::subscribe("large", qos));
                assert_eq!(reader.receive(), Some((0x90, vec![0, 1, qos])), "SUBACK");
                reader
            })
            .collect();
        let before = resident(&broker);
        let mut publisher = Raw::connect(broker.port(), 4, "publisher");
        let payload = vec![b'b'; SIZE];
        let identifier: &[u8] = if qos == 0 { &[] } else { &[0, 1] };
        let body = [&raw::string("large"), identifier, &payload[..]].concat();
        publisher.send(&raw::packet(0x30 | qos << 1, &body));
        publisher.send(&[0xc0, 0]);
        while publisher.receive().expect("PINGRESP").0 != 0xd0 {}
        let grown = resident(&broker).saturating_sub(before);
        assert!(grown < READERS * SIZE / 3, "grown by {grown} bytes");
        for reader in &mut readers {
            let (first_byte, received) = reader.receive().expect("the message");
            assert_eq!((first_byte, received.len()), (0x30 | qos << 1, body.len()));
        }
    }
}

#[test]
fn memory_of_a_burst_is_given_back_though_nothing_happens_afterwards() {
    const MESSAGES: usize = 60;
    const SIZE: usize = 1_000_000;
    let broker = Broker::on_cores(1);
    let mut reader = Raw::connect(broker.port(), 4, "reader");
    reader.send(&raw::subscribe("burst", 0));
    assert_eq!(reader.receive(), Some((0x90, vec![0, 1, 0])), "SUBACK");
    let mut publisher = Raw::connect(broker.port(), 4, "publisher");
    for _ in 0..MESSAGES {
        publisher.send(&raw::publish("burst", &vec![b'b'; SIZE]));
    }
    publisher.send(&[0xc0, 0]);
    assert_eq!(publisher.receive(), Some((0xd0, Vec::new())), "PINGRESP");
    let most = resident(&broker);
    assert!(most > MESSAGES * SIZE / 2, "it is kept: {most} bytes");
    for _ in 0..MESSAGES {
        let (first_byte, body) = reader.receive().expect("a message");
        assert_eq!((first_byte, body.len()), (0x30, 2 + 5 + SIZE));
    }
    let began = Instant::now();
    while resident(&broker) > MESSAGES * SIZE / 2 {
        assert!(began.elapsed() < PATIENCE, "{}", resident(&broker));
        std::thread::sleep(Duration::from_millis(50));
    }
}
