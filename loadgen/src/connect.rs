//! How many Clients a second can come and go: TCP connect, CONNECT, CONNACK, DISCONNECT, closed.

use std::time::Duration;

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::clock::Clock;
use crate::connection::{Connection, Received};
use crate::failure::Failure;
use crate::options::Common;
use crate::report::{Cost, Report};
use crate::setup::{self, BUFFER_SIZE, address, allow_files, connect_failure};
use crate::wire;
use crate::workload::client_identifier;

struct Visit {
    connection: Connection,
    started_ns: u64,
    welcomed: bool,
}

pub fn run(common: &Common, count: u32, concurrency: u32) -> Result<Report, Failure> {
    let clock = Clock::start();
    let address = address(common)?;
    allow_files(concurrency.into())?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; BUFFER_SIZE];
    let mut latency_ns =
        Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds are constant and valid");
    let places = concurrency.min(count) as usize;
    let mut visits: Vec<Option<Visit>> = std::iter::repeat_with(|| None).take(places).collect();
    let (mut opened, mut done) = (0, 0);
    let before = Cost::sample(common.broker_pid)?;
    let seconds = 10.0 + f64::from(count) / 200.0;
    let deadline_ns = clock.now_ns() + (seconds * 1e9) as u64;
    let start_ns = clock.now_ns();
    while done < count {
        for (place, visit) in visits.iter_mut().enumerate() {
            if visit.is_some() || opened == count {
                continue;
            }
            let started_ns = clock.now_ns();
            let mut connection = Connection::open(address, Token(place), poll.registry())
                .map_err(|error| connect_failure(address, error))?;
            let client = client_identifier(opened as usize);
            wire::write_connect(common.protocol, &client, &mut connection.out);
            *visit = Some(Visit {
                connection,
                started_ns,
                welcomed: false,
            });
            opened += 1;
        }
        setup::wait(&mut poll, &mut events, Duration::from_millis(100))?;
        for event in &events {
            let place = &mut visits[event.token().0];
            // An event may be left over from the visit before.
            let Some(Visit {
                connection,
                started_ns,
                welcomed,
            }) = place
            else {
                continue;
            };
            if event.is_writable() {
                connection
                    .handle_writable()
                    .map_err(|error| connect_failure(address, error))?;
            }
            if connection.is_blocked() {
                continue;
            }
            let received =
                connection.receive(&mut buffer, |out, frame, bytes| match frame.first_byte {
                    wire::CONNACK if !*welcomed => {
                        let connack = wire::read_connack(common.protocol, &bytes[frame.body])?;
                        if connack.reason_code != 0 {
                            let client = "a visitor".to_owned();
                            return Err(Failure::ConnectRefused {
                                client,
                                code: connack.reason_code,
                            });
                        }
                        *welcomed = true;
                        latency_ns.saturating_record(clock.now_ns() - *started_ns);
                        out.extend_from_slice(&wire::DISCONNECT_PACKET);
                        Ok(())
                    }
                    unexpected => Err(Failure::Unexpected(unexpected)),
                })?;
            match (received, *welcomed) {
                (Received::Closed, false) => {
                    let client = "a visitor".to_owned();
                    return Err(Failure::Closed {
                        client,
                        when: "before CONNACK",
                    });
                }
                // It was sent DISCONNECT and closes, so the port it used is free for the next visit.
                (Received::Closed, true) => {
                    *place = None;
                    done += 1;
                }
                (Received::Drained, _) => {
                    connection
                        .flush()
                        .map_err(|error| connect_failure(address, error))?;
                }
            }
        }
        if clock.now_ns() > deadline_ns {
            return Err(Failure::Deadline {
                what: "connections made and closed",
                done: done.into(),
                wanted: count.into(),
                seconds,
            });
        }
    }
    let cost = Cost::sample(common.broker_pid)?.since(&before);
    let mut report = Report::new("connect", common, count.into());
    report.seconds = (clock.now_ns() - start_ns) as f64 / 1e9;
    report.connections_per_second = Some(f64::from(count) / report.seconds);
    report.set_latency(&latency_ns);
    report.set_cost(&cost, report.seconds, count.into());
    Ok(report)
}
