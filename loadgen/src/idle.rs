//! Connections that do nothing, and what the broker keeps for each.

use std::time::Duration;

use mio::Events;

use crate::clock::Clock;
use crate::connection::Received;
use crate::failure::Failure;
use crate::options::Common;
use crate::process;
use crate::report::{BrokerMemory, Cost, Report};
use crate::setup::{self, BUFFER_SIZE};
use crate::wire;
use crate::workload::{client_identifier, topic};

/// All PINGRESPs must be here by then.
const PING_NS_MAX: u64 = 30_000_000_000;

pub fn run(common: &Common, count: u32, subscribe: bool) -> Result<Report, Failure> {
    let clock = Clock::start();
    let memory = |process_id: u32| {
        process::memory(process_id).map_err(|source| Failure::Process { process_id, source })
    };
    let before = common.broker_pid.map(memory).transpose()?;
    let topics: Vec<_> = (0..count)
        .map(|index| subscribe.then(|| topic(index)))
        .collect();
    let filters = topics.iter().map(|topic| topic.as_deref());
    let mut connected = setup::connect_all(common, clock, filters)?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; BUFFER_SIZE];

    let cost_before = Cost::sample(common.broker_pid)?;
    let start_ns = clock.now_ns();
    let end_ns = start_ns + (common.duration * 1e9) as u64;
    let mut after = None;
    let mut cost = None;
    let mut pinged = false;
    let mut answered_count = 0;
    while answered_count < count {
        let now_ns = clock.now_ns();
        if now_ns >= end_ns && !pinged {
            pinged = true;
            cost = Some(Cost::sample(common.broker_pid)?.since(&cost_before));
            after = common.broker_pid.map(memory).transpose()?;
            for (index, connection) in connected.connections.iter_mut().enumerate() {
                connection.out.extend_from_slice(&wire::PINGREQ_PACKET);
                connection.flush().map_err(|_| closed(index))?;
            }
        }
        if now_ns > end_ns + PING_NS_MAX {
            return Err(Failure::Deadline {
                what: "connections answered PINGREQ",
                done: answered_count.into(),
                wanted: count.into(),
                seconds: PING_NS_MAX as f64 / 1e9,
            });
        }
        setup::wait(&mut connected.poll, &mut events, Duration::from_millis(20))?;
        for event in &events {
            let index = event.token().0;
            let connection = &mut connected.connections[index];
            if event.is_writable() {
                connection.handle_writable().map_err(|_| closed(index))?;
            }
            let received = connection.receive(&mut buffer, |_, frame, bytes| {
                match frame.first_byte {
                    wire::PINGRESP if pinged => answered_count += 1,
                    wire::SERVER_DISCONNECT => {
                        let code = bytes[frame.body].first().copied().unwrap_or(0);
                        let client = client_identifier(index);
                        return Err(Failure::Disconnected { client, code });
                    }
                    unexpected => return Err(Failure::Unexpected(unexpected)),
                }
                Ok(())
            })?;
            if received == Received::Closed {
                return Err(closed(index));
            }
        }
    }
    let mut report = Report::new("idle", common, count.into());
    report.seconds = common.duration;
    if let Some(cost) = cost {
        report.set_cost(&cost, common.duration.max(1e-3), 0);
    }
    report.broker_memory = before.zip(after).map(|(before, after)| BrokerMemory {
        before_kib: before.now_kib,
        now_kib: after.now_kib,
        bytes_per_connection: (after.now_kib as f64 - before.now_kib as f64) * 1024.0
            / f64::from(count),
    });
    Ok(report)
}

fn closed(index: usize) -> Failure {
    Failure::Closed {
        client: client_identifier(index),
        when: "while it was idle",
    }
}
