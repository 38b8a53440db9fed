//! One nonblocking TCP connection: bytes in, frames out, and bytes that wait to be written.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::failure::Failure;
use crate::wire::{self, Frame};

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    connected: bool,
    /// The start of a packet whose end has not arrived.
    held: Vec<u8>,
    /// What is to be written, from `written` on.
    pub out: Vec<u8>,
    written: usize,
    /// The socket takes no more until an event says so.
    blocked: bool,
}

/// Why [`Connection::receive`] returned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    Drained,
    Closed,
}

impl Connection {
    /// Starts connecting. Events carry `token`.
    pub fn open(address: SocketAddr, token: Token, registry: &Registry) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            stream,
            connected: false,
            held: Vec::new(),
            out: Vec::new(),
            written: 0,
            blocked: true,
        })
    }

    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The socket takes bytes again. True when that means: just connected.
    pub fn handle_writable(&mut self) -> io::Result<bool> {
        let mut fresh = false;
        if !self.connected {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            match self.stream.peer_addr() {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
                Err(error) => return Err(error),
            }
            self.stream.set_nodelay(true)?;
            self.connected = true;
            fresh = true;
        }
        self.blocked = false;
        self.flush()?;
        Ok(fresh)
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.blocked && self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(size) => self.written += size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Reads until the socket is empty and hands every whole packet to `handle`, which may append
    /// answers to the bytes to be written. `buffer` is scratch space and grows when a packet is
    /// larger.
    pub fn receive(
        &mut self,
        buffer: &mut Vec<u8>,
        mut handle: impl FnMut(&mut Vec<u8>, Frame, &[u8]) -> Result<(), Failure>,
    ) -> Result<Received, Failure> {
        loop {
            let held_size = self.held.len();
            if held_size * 2 > buffer.len() {
                buffer.resize(held_size * 4, 0);
            }
            buffer[..held_size].copy_from_slice(&self.held);
            let size = match self.stream.read(&mut buffer[held_size..]) {
                Ok(0) => return Ok(Received::Closed),
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Received::Drained);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Ok(Received::Closed);
                }
                Err(error) => return Err(error.into()),
            };
            let filled = &buffer[..held_size + size];
            let mut at = 0;
            while let Some(frame) = wire::frame(filled, at)? {
                at = frame.body.end;
                handle(&mut self.out, frame, filled)?;
            }
            self.held.clear();
            self.held.extend_from_slice(&filled[at..]);
            // With edge-triggered events a short read is as good as one that would block, except
            // that the end of the stream is a separate event, which brings us back here.
            if held_size + size < buffer.len() {
                return Ok(Received::Drained);
            }
        }
    }
}
