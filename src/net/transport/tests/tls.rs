use super::super::tls::TlsError;
use super::super::{TransportError, WebSocketOptions, Wrapping};
use super::Server;
use crate::net::tls::tests::{Authority, Folder, Leaf, settings};
use crate::net::tls::{Prepared, TlsAcceptor, TlsSettings, TlsVersion};
use proptest::prelude::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, RootCertStore, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// One authority for all tests.
static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

/// What a listener has whose settings are changed so. Its files are gone again.
fn prepared(change: impl FnOnce(&mut TlsSettings)) -> Prepared {
    let folder = Folder::new();
    let mut settings = settings(&AUTHORITY, &folder);
    change(&mut settings);
    Prepared::load(&settings).unwrap()
}

fn server(change: impl FnOnce(&mut TlsSettings)) -> Server {
    Server::new(Wrapping {
        tls: Some(TlsAcceptor::new(prepared(change))),
        ..Wrapping::default()
    })
}

/// One with nothing but a certificate.
fn plain_server() -> Server {
    server(|_| {})
}

struct Client {
    tls: ClientConnection,
    plain: Vec<u8>,
}

impl Client {
    fn new(
        version: &'static SupportedProtocolVersion,
        leaf: Option<&Leaf>,
        protocols: &[&str],
    ) -> Self {
        let mut config = AUTHORITY.client_config(&[version], leaf);
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let name = ServerName::try_from("localhost").unwrap();
        Self {
            tls: ClientConnection::new(Arc::new(config), name).unwrap(),
            plain: Vec::new(),
        }
    }

    fn take_output(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut wire).unwrap();
        }
        wire
    }

    fn receive(&mut self, mut wire: &[u8]) -> Result<(), rustls::Error> {
        while !wire.is_empty() {
            self.tls.read_tls(&mut wire).unwrap();
            let state = self.tls.process_new_packets()?;
            let start = self.plain.len();
            self.plain
                .resize(start + state.plaintext_bytes_to_read(), 0);
            self.tls
                .reader()
                .read_exact(&mut self.plain[start..])
                .unwrap();
        }
        Ok(())
    }

    /// Exchanges bytes until neither side has more to say.
    fn talk(&mut self, server: &mut Server, piece: usize) -> Result<(), rustls::Error> {
        loop {
            let wire = self.take_output();
            let answers = server.receive(&wire, piece);
            self.receive(&answers)?;
            if wire.is_empty() && answers.is_empty() {
                return Ok(());
            }
        }
    }
}

#[test]
fn both_versions_carry_bytes_both_ways_whatever_pieces_they_come_in() {
    for version in [&TLS12, &TLS13] {
        for piece in [1, 17, 100_000] {
            let mut server = plain_server();
            let mut client = Client::new(version, None, &[]);
            assert!(!server.transport.is_ready() && server.transport.is_costly());
            client.talk(&mut server, piece).unwrap();
            assert!(server.transport.is_ready() && !server.transport.is_costly());
            assert!(!client.tls.is_handshaking());

            let size = if piece == 1 { 20_000 } else { 200_000 };
            let payload: Vec<u8> = (0..size).map(|at| (at * 7) as u8).collect();
            // What is written at once has to fit into the client's buffer.
            for part in payload.chunks(50_000) {
                client.tls.writer().write_all(part).unwrap();
                client.talk(&mut server, piece).unwrap();
            }
            assert_eq!(server.plain, payload);
            assert_eq!(server.transport.held_size(), 0);
            let wire = server.send(&payload);
            assert!(wire.len() < payload.len() + 1000);
            client.receive(&wire).unwrap();
            assert_eq!(client.plain, payload);
        }
    }
}

#[test]
fn both_sides_can_say_that_nothing_will_follow() {
    for version in [&TLS12, &TLS13] {
        let mut server = plain_server();
        let mut client = Client::new(version, None, &[]);
        client.talk(&mut server, 1000).unwrap();
        client.tls.writer().write_all(b"last words").unwrap();
        client.tls.send_close_notify();
        client.talk(&mut server, 1000).unwrap();
        assert_eq!(server.plain, b"last words");
        assert!(server.transport.has_ended() && server.error.is_none());

        let wire = [server.send(b"answer"), server.close()].concat();
        client.receive(&wire).unwrap();
        assert_eq!(client.plain, b"answer");
        let read = client.tls.reader().read(&mut [0]).unwrap();
        assert_eq!(read, 0, "the end was announced");
    }
}

#[test]
fn an_application_protocol_is_agreed_on_if_it_is_offered_and_others_do_no_harm() {
    for (offered, agreed) in [
        (&["mqtt"][..], Some(&b"mqtt"[..])),
        (&["h2", "mqtt"], Some(b"mqtt")),
        (&["x-amzn-mqtt-ca"], None),
        (&[], None),
    ] {
        let mut server = plain_server();
        let mut client = Client::new(&TLS13, None, offered);
        client.talk(&mut server, 1000).unwrap();
        assert_eq!(client.tls.alpn_protocol(), agreed);
    }
}

#[test]
fn a_minimum_version_keeps_older_clients_out_and_tells_them() {
    let mut server = server(|settings| settings.tls_version = TlsVersion::V13);
    let mut client = Client::new(&TLS12, None, &[]);
    let error = client.talk(&mut server, 1000).unwrap_err();
    assert!(matches!(error, rustls::Error::AlertReceived(_)), "{error}");
    assert!(server.transport.has_ended());
    assert!(matches!(server.error, Some(TransportError::Tls(_))));
}

#[test]
fn a_client_certificate_is_demanded_verified_and_told_of() {
    let (authority, folder) = (&*AUTHORITY, Folder::new());
    let good = authority.client("sensor-7");
    let revoked = authority.client("sensor-8");
    let expired = authority.expired_client("sensor-9");
    let foreign = Authority::new().client("sensor-7");
    let crlfile = folder.write("crl.pem", authority.revoke(&[&revoked]));
    let strict = |settings: &mut TlsSettings| {
        settings.require_certificate = true;
        settings.crlfile = Some(crlfile.clone());
    };
    let lenient = |settings: &mut TlsSettings| {
        strict(settings);
        settings.disable_client_cert_date_checks = true;
    };
    for version in [&TLS12, &TLS13] {
        for piece in [1, 1000] {
            let mut server = server(strict);
            let mut client = Client::new(version, Some(&good), &[]);
            client.talk(&mut server, piece).unwrap();
            let revealed = server.transport.take_revealed().unwrap();
            let identity = revealed.certificate.unwrap();
            assert_eq!(identity.common_name.as_deref(), Some("sensor-7"));
            assert_eq!(identity.subject, "CN=sensor-7,O=fastmq");
        }
        for (leaf, why) in [
            (None, "no certificates"),
            (Some(&revoked), "revoked"),
            (Some(&expired), "expired"),
            // An authority of the same name signed it, with another key.
            (Some(&foreign), "BadSignature"),
        ] {
            let mut server = server(strict);
            let mut client = Client::new(version, leaf, &[]);
            let error = client.talk(&mut server, 1000).unwrap_err();
            assert!(matches!(error, rustls::Error::AlertReceived(_)), "{error}");
            let said = server.said();
            assert!(said.to_lowercase().contains(&why.to_lowercase()), "{said}");
            assert!(server.transport.has_ended() && server.plain.is_empty());
        }
    }
    let mut forgiving = server(lenient);
    let mut client = Client::new(&TLS13, Some(&expired), &[]);
    client.talk(&mut forgiving, 1000).unwrap();
    assert!(forgiving.transport.is_ready());
    // That is all it forgives.
    let mut forgiving = server(lenient);
    let mut client = Client::new(&TLS13, Some(&revoked), &[]);
    client.talk(&mut forgiving, 1000).unwrap_err();
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: \
    dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

#[test]
fn a_web_socket_lies_within_tls() {
    let acceptor = TlsAcceptor::new(prepared(|_| {}));
    let mut server = Server::new(Wrapping {
        tls: Some(acceptor),
        web_socket: Some(WebSocketOptions::default()),
        ..Wrapping::default()
    });
    let mut client = Client::new(&TLS13, None, &["http/1.1"]);
    client.talk(&mut server, 50).unwrap();
    assert!(!server.transport.is_ready() && !server.transport.is_costly());
    client.tls.writer().write_all(UPGRADE.as_bytes()).unwrap();
    client
        .tls
        .writer()
        .write_all(b"\x82\x82\0\0\0\0hi")
        .unwrap();
    client.talk(&mut server, 50).unwrap();
    assert!(client.plain.starts_with(b"HTTP/1.1 101 "));
    assert_eq!(server.plain, b"hi");
    client.plain.clear();
    let wire = [server.send(b"yes"), server.close()].concat();
    client.receive(&wire).unwrap();
    assert_eq!(client.plain, b"\x82\x03yes\x88\x02\x03\xE8");
}

#[test]
fn what_breaks_the_web_socket_protocol_within_tls_is_told_so_within_tls() {
    let mut server = Server::new(Wrapping {
        tls: Some(TlsAcceptor::new(prepared(|_| {}))),
        web_socket: Some(WebSocketOptions::default()),
        ..Wrapping::default()
    });
    let mut client = Client::new(&TLS13, None, &[]);
    client.talk(&mut server, 50).unwrap();
    let mut request = UPGRADE.as_bytes().to_vec();
    // A text frame.
    request.extend(b"\x81\x80\0\0\0\0");
    client.tls.writer().write_all(&request).unwrap();
    client.talk(&mut server, 50).unwrap();
    assert!(
        client.plain.ends_with(b"\x88\x02\x03\xEB"),
        "{:?}",
        client.plain
    );
    assert!(server.transport.has_ended());
}

#[test]
fn settings_reload_for_new_connections_and_old_ones_go_on() {
    let acceptor = TlsAcceptor::new(prepared(|_| {}));
    let wrapping = || Wrapping {
        tls: Some(acceptor.clone()),
        ..Wrapping::default()
    };
    let mut old_server = Server::new(wrapping());
    let mut old_client = Client::new(&TLS13, None, &[]);
    old_client.talk(&mut old_server, 1000).unwrap();

    acceptor.install(prepared(|settings| {
        settings.tls_version = TlsVersion::V13;
    }));
    let mut server = Server::new(wrapping());
    Client::new(&TLS12, None, &[])
        .talk(&mut server, 1000)
        .unwrap_err();

    old_client.tls.writer().write_all(b"still here").unwrap();
    old_client.talk(&mut old_server, 1000).unwrap();
    assert_eq!(old_server.plain, b"still here");
}

#[test]
fn a_client_that_never_completes_its_hello_is_bounded() {
    let mut server = plain_server();
    // A handshake message that announces 60 kB, in records of 1000 bytes.
    let mut record = vec![0x16, 3, 1, 0x03, 0xE8, 1, 0, 0xEA, 0x60];
    record.resize(5 + 1000, 0);
    let mut more = vec![0x16, 3, 1, 0x03, 0xE8];
    more.resize(5 + 1000, 0);
    server.receive(&record, 5000);
    for _ in 0..60 {
        server.receive(&more, 5000);
        assert!(server.transport.held_size() < 40_000);
    }
    assert!(server.transport.has_ended());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        is_record in any::<bool>(),
        piece in 1..100_usize,
    ) {
        let mut server = plain_server();
        let start: &[u8] = if is_record { &[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3] } else { &[] };
        server.receive(&[start, &bytes].concat(), piece);
        prop_assert!(server.plain.is_empty());
        server.close();
    }

    #[test]
    fn a_changed_byte_ends_the_connection_and_nothing_else(
        flight in 0..3_usize,
        position in any::<prop::sample::Index>(),
        change in 1..=255_u8,
        is_12 in any::<bool>(),
        piece in prop::sample::select(vec![1, 20, 5000]),
    ) {
        let mut server = server(|settings| settings.require_certificate = true);
        let leaf = AUTHORITY.client("sensor-7");
        let mut client = Client::new(if is_12 { &TLS12 } else { &TLS13 }, Some(&leaf), &["mqtt"]);
        for index in 0..4 {
            if index == 2 && !client.tls.is_handshaking() {
                client.tls.writer().write_all(&[7; 3000]).unwrap();
            }
            let mut wire = client.take_output();
            if index == flight && !wire.is_empty() {
                let at = position.index(wire.len());
                wire[at] ^= change;
            }
            let answers = server.receive(&wire, piece);
            if client.receive(&answers).is_err() {
                break;
            }
        }
        // Whatever was delivered was not changed.
        prop_assert!(server.plain.iter().all(|&byte| byte == 7));
        server.close();
    }
}

/// An authority and a client's certificate as `openssl x509 -req` signs it without `-extfile` before OpenSSL 3.2.
const VERSION_1: [&str; 2] = [
    "\
-----BEGIN CERTIFICATE-----
MIIBcjCCARegAwIBAgIUGev0LWbFPcxrOIUwrMUddgcguv4wCgYIKoZIzj0EAwIw
DTELMAkGA1UEAwwCY2EwIBcNMjYxMTI5MTgyNTM3WhgPMjEyNjExMDUxODI1Mzda
MA0xCzAJBgNVBAMMAmNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEAi7Qtyss
pRA9PoQU6+t9difeIqy0Ptwkcv95QU+Fd3f8eFua8DzZR15xUIzTwmS2JU1dobln
TjYW0kgESb01caNTMFEwHQYDVR0OBBYEFPclFD03BEgZ0tZWHBQYZTQSOJajMB8G
A1UdIwQYMBaAFPclFD03BEgZ0tZWHBQYZTQSOJajMA8GA1UdEwEB/wQFMAMBAf8w
CgYIKoZIzj0EAwIDSQAwRgIhAOa2LMVtcHjOyvr2PK9wejDbl5NFrhG+dZfmaPFa
XqBlAiEA4hlGRU9mpkIHH90/KRMSJ80uCrYO0ljzAguQ/eCjASI=
-----END CERTIFICATE-----
",
    "\
-----BEGIN CERTIFICATE-----
MIIBFDCBvAIUBje2HcvllDxB0g1JlxDlhdvzHwIwCgYIKoZIzj0EAwIwDTELMAkG
A1UEAwwCY2EwIBcNMjYxMTI5MTgyNTM4WhgPMjEyNjExMDUxODI1MzhaMAwxCjAI
BgNVBAMMAWMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASEvxXRIWawvuB0Bqx0
ekRnLKrcwj4Fl/4pIG4buoTU5ayvJGMZ/0QKkkg8BJq89fRqoxJ3B+Q4cwyo7h+F
T3YmMAoGCCqGSM49BAMCA0cAMEQCIH7mV94+CkeYBdk99SkN3bHJxc48/jy0DU+l
aOYIOXwbAiAGiEQzjr2JXnYtdyERKGrBhl30h43zvdImAv+EXkfmww==
-----END CERTIFICATE-----
",
];

#[test]
fn a_client_certificate_of_x509_version_1_is_refused_in_plain_words() {
    let [authority, certificate] =
        VERSION_1.map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let verifier = verifier.build().unwrap();
    let error = verifier
        .verify_client_cert(&certificate, &[], now)
        .unwrap_err();
    let said = TransportError::from(TlsError::from(error)).to_string();
    assert!(said.contains("is of X.509 version 1"), "{said}");
}
