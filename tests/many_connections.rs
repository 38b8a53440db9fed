//! 5,000 connections at once, and every one of them works.

#![forbid(unsafe_code)]

mod support;

use std::sync::{Mutex, PoisonError};

use support::raw::{self, Raw};
use support::{Broker, allow_open_files};

const CONNECTION_COUNT: usize = 5000;

#[test]
fn five_thousand_connections_exchange_messages_on_one_core() {
    exchange_in_a_circle(1);
}

#[test]
fn five_thousand_connections_exchange_messages_on_two_cores() {
    exchange_in_a_circle(2);
}

/// Everybody subscribes, then everybody publishes to the next, then everybody reads one message.
fn exchange_in_a_circle(cores: usize) {
    // One at a time: both tests are threads of one process and share its open files.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    allow_open_files(CONNECTION_COUNT as u64 + 500);
    let mut broker = Broker::on_cores(cores);
    let mut clients: Vec<_> = (0..CONNECTION_COUNT)
        .map(|index| Raw::connect(broker.port(), 4, &format!("many-{index}")))
        .collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.send(&raw::subscribe(&format!("circle/{index}"), 0));
    }
    for client in &mut clients {
        assert_eq!(client.receive(), Some((0x90, vec![0, 1, 0])), "SUBACK");
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let next = (index + 1) % CONNECTION_COUNT;
        client.send(&raw::publish(&format!("circle/{next}"), b"pass it on"));
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let topic_name = format!("circle/{index}");
        let (first_byte, body) = client.receive().expect("a message, not the end");
        assert_eq!(first_byte, 0x30);
        assert_eq!(body[2..], [topic_name.as_bytes(), b"pass it on"].concat());
    }
    assert!(broker.is_running());
}
