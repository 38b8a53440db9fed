//! The practical limit: a forwarder that does no MQTT, on the broker's own socket data path.
//!
//! `cargo bench --bench null_broker -- --port 1883` serves until it is killed; `scripts/perf-limit` measures
//! fastmq beside it. The difference is what MQTT costs; what is left is sockets, system calls and copies.
//!
//! CONNECT and SUBSCRIBE get fixed answers. Of a PUBLISH only the length is read. Where it goes is found
//! once for each publisher, by its first topic, and again when somebody subscribes or leaves. No packet is
//! checked, nothing is kept, QoS is 0, and nobody is held back: a load has to bound what is under way.
//!
//! # Assumed of the load
//! - One publisher has one topic.
//! - A Topic Filter has no wildcard, or ends in `/#`. What is subscribed to without one has one publisher, so
//!   that its bytes are passed on as they come; through a wildcard go whole packets only.
//!
//! Read next: `forwarder.rs`.

#![forbid(unsafe_code)]

mod forwarder;

use std::net::Ipv4Addr;
use std::process::ExitCode;

use fastmq::net;
use fastmq::runtime::{self, NoticesSender, Placed};
use forwarder::Forwarder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--port");
    let Some(port) = arguments.nth(1) else {
        // `cargo bench` runs every bench; this one measures nothing by itself.
        println!("null_broker: serves with --port PORT; scripts/perf-limit measures with it");
        return ExitCode::SUCCESS;
    };
    match port
        .parse()
        .map_err(|_| "not a port".into())
        .and_then(serve)
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("null_broker: {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One shard, on the CPUs that the process was given.
fn serve(port: u16) -> Result<(), Box<dyn std::error::Error>> {
    runtime::raise_open_files();
    let (_, listeners) =
        net::listen((Ipv4Addr::LOCALHOST, port).into(), 1).map_err(|error| error.source)?;
    let nowhere = NoticesSender::nowhere();
    let make = |_, _| Forwarder::default();
    runtime::start(&[Placed::Anywhere], vec![listeners], &nowhere, make)?.join()?;
    Ok(())
}
