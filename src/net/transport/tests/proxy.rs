use super::super::proxy::{ProxyError, ProxyHeader, ProxyVersion, V2_SIZE_MAX, parse};
use super::super::{ProxyOptions, Wrapping};
use super::Server;
use crate::origin::{CertificateIdentity, PeerAddress};
use proptest::prelude::*;

fn v1(line: &str) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    parse(ProxyVersion::V1, line.as_bytes())
}

fn peer(address: &str) -> Option<PeerAddress> {
    Some(address.parse::<std::net::SocketAddr>().unwrap().into())
}

/// A header of version 2 with `rest` after the fixed part.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([0x20 | command, family]);
    bytes.extend((rest.len() as u16).to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend(value);
    bytes
}

const ADDRESSES_V4: [u8; 12] = [192, 0, 2, 5, 127, 0, 0, 1, 0x18, 0x83, 0x07, 0x5B];

/// A field about TLS.
fn ssl(client: u8, verify: u32, fields: &[u8]) -> Vec<u8> {
    let mut value = vec![client];
    value.extend(verify.to_be_bytes());
    value.extend(fields);
    field(0x20, &value)
}

fn parse_v2(bytes: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let (header, size) = parse(ProxyVersion::V2, bytes)?.expect("it is whole");
    assert_eq!(size, bytes.len());
    Ok(header)
}

fn v4_with(fields: &[u8]) -> Vec<u8> {
    v2(1, 0x11, &[&ADDRESSES_V4, fields].concat())
}

#[test]
fn version_1_tells_the_client_and_ends_with_its_line() {
    let (header, size) = v1("PROXY TCP4 192.0.2.5 127.0.0.1 6275 1883\r\nMQTT")
        .unwrap()
        .unwrap();
    assert_eq!(header.peer, peer("192.0.2.5:6275"));
    assert_eq!(size, 42);
    let (header, _) = v1("PROXY TCP6 2001:db8::5 ::1 65535 1883\r\n")
        .unwrap()
        .unwrap();
    assert_eq!(header.peer, peer("[2001:db8::5]:65535"));
    let (header, _) = v1("PROXY UNKNOWN whatever it likes\r\n").unwrap().unwrap();
    assert_eq!(header, ProxyHeader::default());
    assert!(v1("PROXY UNKNOWN\r\n").unwrap().is_some());
}

#[test]
fn version_1_refuses_what_is_not_exactly_a_header() {
    for line in [
        "PROXY TCP4 192.0.2.5 127.0.0.1 6275\r\n",
        "PROXY TCP4 192.0.2.5 127.0.0.1 6275 1883 7\r\n",
        "PROXY TCP4  192.0.2.5 127.0.0.1 6275 1883\r\n",
        "PROXY TCP4 192.0.2.256 127.0.0.1 6275 1883\r\n",
        "PROXY TCP4 ::1 ::1 6275 1883\r\n",
        "PROXY TCP6 192.0.2.5 127.0.0.1 6275 1883\r\n",
        "PROXY TCP4 192.0.2.5 127.0.0.1 +275 1883\r\n",
        "PROXY TCP4 192.0.2.5 127.0.0.1 65536 1883\r\n",
        "PROXY UDP4 192.0.2.5 127.0.0.1 6275 1883\r\n",
        "PROXY \r\n",
    ] {
        assert_eq!(v1(line), Err(ProxyError::Malformed), "{line}");
    }
    assert_eq!(v1("GET / HTTP/1.1\r\n"), Err(ProxyError::Missing));
    assert_eq!(v1("\x10"), Err(ProxyError::Missing));
    // A line that does not end within the longest that is allowed.
    let long = format!("PROXY UNKNOWN {}", " ".repeat(93));
    assert_eq!(v1(&long[..106]), Ok(None));
    assert_eq!(v1(&long), Err(ProxyError::Malformed));
}

#[test]
fn version_2_tells_the_client_in_every_family() {
    assert_eq!(
        parse_v2(&v4_with(&[])).unwrap().peer,
        peer("192.0.2.5:6275")
    );
    let mut addresses = [0; 36];
    addresses[0] = 0x20;
    addresses[15] = 7;
    addresses[33] = 80;
    assert_eq!(
        parse_v2(&v2(1, 0x21, &addresses)).unwrap().peer,
        peer("[2000::7]:80")
    );
    let local = parse_v2(&v2(1, 0x31, &[0; 216])).unwrap();
    assert_eq!(local.peer, Some(PeerAddress::Local));
    // Of these the socket's own peer is the client.
    assert_eq!(parse_v2(&v2(1, 0x00, &[])).unwrap(), ProxyHeader::default());
    assert_eq!(parse_v2(&v2(0, 0x00, &[])).unwrap(), ProxyHeader::default());
    assert_eq!(
        parse_v2(&v2(0, 0x11, b"junk")).unwrap(),
        ProxyHeader::default()
    );
}

#[test]
fn version_2_refuses_what_is_not_exactly_a_header() {
    let parse = |bytes: &[u8]| parse(ProxyVersion::V2, bytes);
    assert_eq!(parse(b"PROXY TCP4"), Err(ProxyError::Missing));
    assert_eq!(
        parse(&v2(2, 0x11, &ADDRESSES_V4)),
        Err(ProxyError::Malformed)
    );
    assert_eq!(
        parse(&v2(1, 0x11, &ADDRESSES_V4[1..])),
        Err(ProxyError::Malformed)
    );
    assert_eq!(
        parse(&v2(1, 0x12, &ADDRESSES_V4)),
        Err(ProxyError::Unsupported)
    );
    assert_eq!(parse(&v4_with(&[1, 0])), Err(ProxyError::Malformed));
    assert_eq!(parse(&v4_with(&[1, 0, 9, 1])), Err(ProxyError::Malformed));
    assert_eq!(
        parse(&v4_with(&field(0x20, &[1, 0, 0]))),
        Err(ProxyError::Malformed)
    );
    let mut version_1 = v4_with(&[]);
    version_1[12] = 0x11;
    assert_eq!(parse(&version_1), Err(ProxyError::Malformed));
    // Known from the fixed part, before the rest is waited for.
    let large = v4_with(&vec![4; V2_SIZE_MAX]);
    assert_eq!(parse(&large[..16]), Err(ProxyError::TooLarge));
}

#[test]
fn a_checksum_is_checked() {
    let mut header = v4_with(
        &[
            field(0x04, b"padding"),
            field(0x03, &[0; 4]),
            field(0x05, b"id"),
        ]
        .concat(),
    );
    let at = header.len() - field(0x05, b"id").len() - 4;
    let sum = crc32c::crc32c(&header);
    header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    assert!(parse_v2(&header).is_ok());
    header[20] ^= 1;
    assert_eq!(parse_v2(&header), Err(ProxyError::Checksum));
}

#[test]
fn a_common_name_counts_only_if_the_proxy_verified_the_certificate() {
    let name = field(0x22, b"sensor-7");
    let said = |client, verify| parse_v2(&v4_with(&ssl(client, verify, &name))).unwrap();
    let verified = said(0x05, 0);
    assert!(verified.is_tls && verified.has_certificate);
    let expected = CertificateIdentity {
        common_name: Some("sensor-7".to_owned()),
        subject: String::new(),
    };
    assert_eq!(verified.certificate, Some(expected));
    for (client, verify) in [(0x05, 1), (0x01, 0), (0x04, 0)] {
        let said = said(client, verify);
        assert_eq!((said.has_certificate, said.certificate), (false, None));
    }
    assert_eq!(
        parse_v2(&v4_with(&ssl(0x05, 0, &field(0x22, &[0xFF])))),
        Err(ProxyError::Malformed)
    );
}

fn behind_proxy(require_tls: bool, require_certificate: bool) -> Server {
    Server::new(Wrapping {
        proxy: Some(ProxyOptions {
            version: ProxyVersion::V2,
            require_tls,
            require_certificate,
        }),
        ..Wrapping::default()
    })
}

#[test]
fn bytes_after_the_header_are_plain_and_the_transport_is_spent() {
    for piece in [1, 7, 1000] {
        let mut server = behind_proxy(false, false);
        assert!(!server.transport.is_ready());
        let wire = [v4_with(&[]), b"MQTT".to_vec()].concat();
        assert!(server.receive(&wire, piece).is_empty());
        assert_eq!(server.plain, b"MQTT");
        assert!(server.transport.is_ready());
        let revealed = server.transport.take_revealed().unwrap();
        assert_eq!(revealed.peer, peer("192.0.2.5:6275"));
        assert!(server.transport.is_spent());
    }
}

#[test]
fn a_listener_can_demand_tls_and_a_certificate_of_the_client_behind_the_proxy() {
    let plain = v4_with(&[]);
    let tls = v4_with(&ssl(0x01, 0, &[]));
    let certificate = v4_with(&ssl(0x05, 0, &[]));
    for (require_tls, require_certificate, header, is_served) in [
        (true, false, &plain, false),
        (true, false, &tls, true),
        (true, true, &tls, false),
        (false, true, &plain, false),
        (true, true, &certificate, true),
        (false, true, &v2(0, 0, &[]), false),
    ] {
        let mut server = behind_proxy(require_tls, require_certificate);
        server.receive(header, 1000);
        assert_eq!(server.error.is_none(), is_served);
        assert_eq!(server.transport.has_ended(), !is_served);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic_and_more_bytes_do_not_change_the_answer(
        start in 0..4,
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        cut in 0..400_usize,
    ) {
        let starts: [&[u8]; 4] = [b"", b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x40"];
        let bytes = [starts[start as usize], &bytes].concat();
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let whole = parse(version, &bytes);
            let part = parse(version, &bytes[..cut.min(bytes.len())]);
            if part != Ok(None) {
                prop_assert_eq!(&part, &whole);
            }
            if let Ok(Some((_, size))) = whole {
                prop_assert!(size <= bytes.len());
            }
        }
    }
}
