//! Control Packets as bytes over a blocking socket, for what no client library does.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use super::PATIENCE;

/// A connection that has sent nothing yet.
#[derive(Debug)]
pub struct Raw(TcpStream);

impl Raw {
    pub fn open(port: u16) -> Self {
        Self::over(TcpStream::connect(("127.0.0.1", port)).expect("the broker listens"))
    }

    /// The other end of a connection that the broker makes.
    pub fn accept(listener: &TcpListener) -> Self {
        Self::over(listener.accept().expect("the broker connects").0)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Opens, connects with Clean Start and reads CONNACK.
    pub fn connect(port: u16, protocol_level: u8, client_identifier: &str) -> Self {
        let mut raw = Self::open(port);
        raw.send(&connect(protocol_level, client_identifier));
        let (first_byte, body) = raw.receive().expect("CONNACK");
        assert_eq!(
            (first_byte, body[1]),
            (0x20, 0),
            "CONNACK with success: {body:02x?}"
        );
        raw
    }

    /// The same as far as the broker accepts it, for which it has a moment.
    pub fn try_connect(port: u16, protocol_level: u8, client_identifier: &str) -> Option<Self> {
        let mut raw = Self::open(port);
        // The broker may end it before it has read this.
        raw.0
            .write_all(&connect(protocol_level, client_identifier))
            .ok()?;
        let (_, connack) = raw.receive()?;
        (connack[1] == 0).then_some(raw)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the broker reads");
    }

    /// The next packet, or `None` when the broker closed the connection.
    pub fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let first_byte = self.byte()?;
        let (mut size, mut shift) = (0, 0);
        loop {
            let byte = self.byte().expect("a whole packet");
            size |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; size];
        self.0.read_exact(&mut body).expect("a whole packet");
        Some((first_byte, body))
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        loop {
            return match self.0.read(&mut byte) {
                Ok(0) => None,
                Ok(_) => Some(byte[0]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
                // A child of this process that ends interrupts reads that have a timeout.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("nothing came from the broker: {error}"),
            };
        }
    }
}

/// A packet of any kind.
pub fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first_byte];
    let mut rest = body.len();
    loop {
        let (more, digit) = (rest / 128, (rest % 128) as u8);
        bytes.push(digit | if more > 0 { 0x80 } else { 0 });
        rest = more;
        if rest == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

/// A string, or binary data, of fewer than 65,536 bytes.
pub fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let size = u16::try_from(text.len()).expect("it has a size of two bytes");
    [&size.to_be_bytes(), text].concat()
}

/// CONNECT with Clean Start and no Keep Alive.
pub fn connect(protocol_level: u8, client_identifier: &str) -> Vec<u8> {
    let mut body = string("MQTT");
    body.extend([protocol_level, 0x02, 0, 0]);
    if protocol_level == 5 {
        body.push(0);
    }
    body.extend(string(client_identifier));
    packet(0x10, &body)
}

/// SUBSCRIBE of MQTT 3.1.1 with Packet Identifier 1.
pub fn subscribe(topic_filter: &str, qos: u8) -> Vec<u8> {
    packet(0x82, &[&[0, 1], &string(topic_filter)[..], &[qos]].concat())
}

/// PUBLISH of MQTT 3.1.1 at QoS 0.
pub fn publish(topic_name: &str, payload: &[u8]) -> Vec<u8> {
    packet(0x30, &[&string(topic_name), payload].concat())
}
