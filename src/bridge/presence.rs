//! The Session of a bridge at its own broker, while no connection is made to the remote one.
//!
//! It is there before the bridge is: what is published from the start on waits in it for the remote broker, however long that
//! cannot be reached.

#![forbid(unsafe_code)]

use super::options::RemoteOptions;
use super::relay::{local_connect, subscription};
use super::topics::{Topics, Way};
use crate::clients::{Link, Received, wait};
use crate::codec::{
    Connect, Disconnect, Packet, ReasonCode, RetainHandling, Subscribe, SubscriptionOptions,
    Unsubscribe, decode, decode_fixed_header, encode,
};
use crate::key::PacketIdentifier;
use crate::message::ProtocolVersion;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long the broker may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The only version with which retained messages can be done without until there is somebody to have them.
const VERSION: ProtocolVersion = ProtocolVersion::V5;
const FILTERS_MAX: usize = 100;

/// Has the Session subscribe to what the bridge passes on, and no more to what is `stale`, and leaves it. Whether it was there
/// before.
///
/// # Errors
/// The broker refuses, or does not answer.
pub(super) fn subscribe(
    link: Link,
    options: &RemoteOptions,
    topics: &Topics,
    stale: &[String],
) -> io::Result<bool> {
    // It is a matter of milliseconds, so it says nothing of a Keep Alive; a bound that it is told of does not matter either.
    let connect = local_connect(options, VERSION, false);
    let mut output = Vec::new();
    let filters: Vec<(&str, SubscriptionOptions)> = topics
        .filters(Way::Out)
        .map(|(filter, qos)| {
            let options = SubscriptionOptions {
                retain_handling: RetainHandling::DoNotSend,
                ..subscription(qos)
            };
            (filter, options)
        })
        .collect();
    let stale: Vec<_> = stale.iter().map(String::as_str).collect();
    let mut identifiers = (1..=u16::MAX).filter_map(PacketIdentifier::new);
    let mut unanswered = 0;
    for (identifier, chunk) in identifiers.by_ref().zip(stale.chunks(FILTERS_MAX)) {
        let unsubscribe = Packet::Unsubscribe(Unsubscribe::new(identifier, chunk));
        encode(&unsubscribe, VERSION, &mut output);
        unanswered += 1;
    }
    for (identifier, chunk) in identifiers.zip(filters.chunks(FILTERS_MAX)) {
        let subscribe = Packet::Subscribe(Subscribe::new(identifier, chunk));
        encode(&subscribe, VERSION, &mut output);
        unanswered += 1;
    }
    visit(link, connect, output, unanswered)
}

/// Has the Session end that a bridge had, with what waits in it.
///
/// # Errors
/// The broker refuses, or does not answer.
pub(super) fn forget(link: Link, options: &RemoteOptions) -> io::Result<()> {
    let mut connect = local_connect(options, VERSION, true);
    connect.properties.session_expiry_interval = None;
    visit(link, connect, Vec::new(), 0)?;
    Ok(())
}

/// Connects, says `more`, waits for so many answers to it, and leaves. Whether the Session was there before.
fn visit(
    mut link: Link,
    connect: Connect<'_>,
    mut more: Vec<u8>,
    mut unanswered: usize,
) -> io::Result<bool> {
    let mut output = Vec::new();
    encode(&Packet::Connect(connect), VERSION, &mut output);
    output.append(&mut more);
    let until = Instant::now() + PATIENCE;
    let mut unread = Vec::new();
    let mut is_connected = false;
    let mut is_old = false;
    while unanswered > 0 || !is_connected {
        link.send(&mut output)?;
        match link.receive(|bytes| unread.extend_from_slice(bytes))? {
            Received::Bytes => {}
            Received::End => return Err(io::Error::other("the broker closed its connection")),
            Received::Nothing if Instant::now() >= until => {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    "the broker does not answer",
                ));
            }
            Received::Nothing => {
                let mut flags = PollFlags::IN;
                flags.set(PollFlags::OUT, link.is_blocked());
                let mut files = [PollFd::from_borrowed_fd(link.as_fd(), flags)];
                wait(&mut files, Some(until))?;
            }
        }
        let mut start = 0;
        let malformed = |error: crate::codec::DecodeError| io::Error::other(error.to_string());
        loop {
            let bytes = unread.get(start..).unwrap_or_default();
            let header = decode_fixed_header(bytes, u32::MAX).map_err(malformed)?;
            let Some(header) = header else { break };
            let size = header.total_size();
            let Some(body) = bytes.get(header.header_size..size) else {
                break;
            };
            match decode(VERSION, header.first_byte, body).map_err(malformed)? {
                Packet::ConnAck(connack) if connack.reason_code.is_error() => {
                    let said = format!("the broker refuses it ({:?})", connack.reason_code);
                    return Err(io::Error::other(said));
                }
                Packet::ConnAck(connack) => {
                    is_connected = true;
                    is_old = connack.session_present;
                }
                Packet::SubAck(_) | Packet::UnsubAck(_) => unanswered -= 1,
                // What was in flight is sent again once somebody is there to have it.
                _ => {}
            }
            start += size;
        }
        unread.drain(..start);
    }
    let goodbye = Packet::Disconnect(Disconnect::new(ReasonCode::Success));
    encode(&goodbye, VERSION, &mut output);
    link.send(&mut output)?;
    link.finish();
    Ok(is_old)
}
