//! Opens all connections of a run: TCP, CONNECT, CONNACK, and SUBSCRIBE, SUBACK where asked for.

use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use mio::{Events, Poll, Token};

use crate::clock::Clock;
use crate::connection::{Connection, Received};
use crate::failure::Failure;
use crate::options::Common;
use crate::process;
use crate::wire;
use crate::workload::client_identifier;

/// Connections under way at once: below any listen backlog.
const UNDER_WAY_MAX: usize = 100;
/// Files this process needs besides its connections.
const OTHER_FILES: u64 = 32;
/// Scratch space of a receive: several socket buffers' worth, and still in the second-level cache.
pub const BUFFER_SIZE: usize = 128 * 1024;

/// Every connection of a run, ready.
#[derive(Debug)]
pub struct Connected {
    pub poll: Poll,
    pub connections: Vec<Connection>,
    /// The smallest of any CONNACK.
    pub receive_maximum: u16,
}

pub fn address(common: &Common) -> Result<SocketAddr, Failure> {
    let resolved = (common.host.as_str(), common.port).to_socket_addrs();
    let first = resolved.and_then(|mut all| all.next().ok_or(ErrorKind::NotFound.into()));
    first.map_err(|source| Failure::Address {
        host: common.host.clone(),
        port: common.port,
        source,
    })
}

pub fn allow_files(connection_count: u64) -> Result<(), Failure> {
    let limit = process::raise_open_files_limit()?;
    let needed_files = connection_count + OTHER_FILES;
    if needed_files > limit {
        return Err(Failure::TooFewFiles {
            needed: connection_count,
            needed_files,
            limit,
        });
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Connecting,
    AwaitingConnAck,
    AwaitingSubAck,
    Ready,
}

/// Connects one Client for each entry, which says what it subscribes to, if anything.
pub fn connect_all<'a>(
    common: &Common,
    clock: Clock,
    topic_filters: impl ExactSizeIterator<Item = Option<&'a str>>,
) -> Result<Connected, Failure> {
    let wanted = topic_filters.len();
    let address = address(common)?;
    allow_files(wanted as u64)?;
    let topic_filters: Vec<_> = topic_filters.collect();
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut connections: Vec<Connection> = Vec::with_capacity(wanted);
    let mut steps = Vec::with_capacity(wanted);
    let mut ready_count = 0;
    let mut receive_maximum = u16::MAX;
    let mut buffer = vec![0; BUFFER_SIZE];
    // 10 s for the first, and at least 200 connections a second.
    let seconds = 10.0 + wanted as f64 / 200.0;
    let deadline_ns = clock.now_ns() + (seconds * 1e9) as u64;

    while ready_count < wanted {
        while connections.len() < wanted && connections.len() - ready_count < UNDER_WAY_MAX {
            let token = Token(connections.len());
            let connection = Connection::open(address, token, poll.registry());
            connections.push(connection.map_err(|error| connect_failure(address, error))?);
            steps.push(Step::Connecting);
        }
        wait(&mut poll, &mut events, Duration::from_millis(100))?;
        for event in &events {
            let index = event.token().0;
            let (connection, step) = (&mut connections[index], &mut steps[index]);
            let fresh = if event.is_writable() {
                connection.handle_writable()
            } else {
                Ok(false)
            };
            if fresh.map_err(|error| connect_failure(address, error))? {
                *step = Step::AwaitingConnAck;
                let client = client_identifier(index);
                wire::write_connect(common.protocol, &client, &mut connection.out);
            }
            if *step == Step::Connecting {
                continue;
            }
            let received = connection.receive(&mut buffer, |out, frame, bytes| {
                let body = &bytes[frame.body];
                match (frame.first_byte, *step) {
                    (wire::CONNACK, Step::AwaitingConnAck) => {
                        let connack = wire::read_connack(common.protocol, body)?;
                        if connack.reason_code != 0 {
                            let client = client_identifier(index);
                            let code = connack.reason_code;
                            return Err(Failure::ConnectRefused { client, code });
                        }
                        if connack.maximum_qos < common.qos {
                            return Err(Failure::QosTooHigh {
                                supported: connack.maximum_qos,
                            });
                        }
                        receive_maximum = receive_maximum.min(connack.receive_maximum);
                        *step = Step::Ready;
                        if let Some(filter) = topic_filters[index] {
                            *step = Step::AwaitingSubAck;
                            wire::write_subscribe(common.protocol, filter, common.qos, out);
                        }
                    }
                    (wire::SUBACK, Step::AwaitingSubAck) => {
                        let code = wire::read_suback(body)?;
                        if code >= 0x80 {
                            let client = client_identifier(index);
                            return Err(Failure::SubscribeRefused { client, code });
                        }
                        *step = Step::Ready;
                    }
                    (wire::SERVER_DISCONNECT, _) => {
                        let client = client_identifier(index);
                        let code = body.first().copied().unwrap_or(0);
                        return Err(Failure::Disconnected { client, code });
                    }
                    (unexpected, _) => return Err(Failure::Unexpected(unexpected)),
                }
                ready_count += usize::from(*step == Step::Ready);
                Ok(())
            })?;
            if received == Received::Closed {
                let client = client_identifier(index);
                return Err(Failure::Closed {
                    client,
                    when: "while it was being set up",
                });
            }
            connection.flush()?;
        }
        if clock.now_ns() > deadline_ns {
            return Err(Failure::Deadline {
                what: "connections ready",
                done: ready_count as u64,
                wanted: wanted as u64,
                seconds,
            });
        }
    }
    Ok(Connected {
        poll,
        connections,
        receive_maximum,
    })
}

pub fn connect_failure(address: SocketAddr, error: std::io::Error) -> Failure {
    if error.kind() == ErrorKind::ConnectionRefused {
        Failure::Refused(address)
    } else {
        Failure::Connect {
            address,
            source: error,
        }
    }
}

/// Polls, taking an interrupted call as one without events.
pub fn wait(poll: &mut Poll, events: &mut Events, timeout: Duration) -> Result<(), Failure> {
    match poll.poll(events, Some(timeout)) {
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        other => Ok(other?),
    }
}
