//! Inputs that make sense, and the words that they are made of.

use std::num::NonZeroU32;

use fastmq::codec::SubscriptionOptions;
use fastmq::journal::{
    Journal, Origin, Origins, Record, StoredIdentity, StoredMessage, WallClock, WillRecord, digest,
};
use fastmq::key::{PacketIdentifier, ShardId};
use fastmq::message::QoS;
use fastmq::router::RetainedVersion;

/// A first byte that says the version, then packets.
pub const MQTT: &[&[u8]] = &[
    b"\x05\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03abc",
    b"\x04\x10\x20\x00\x04MQTT\x04\xee\x00\x3c\x00\x01a\x00\x01w\x00\x03out\x00\x03bob\x00\x03pwd\x30\x05\x00\x01tp!",
    b"\x03\x10\x10\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x02ab",
    b"\x05\x10\x43\x00\x04MQTT\x05\xee\x00\x3c\x1f\x11\x00\x00\x00\x3c\x21\x00\x14\x27\x00\x00\x10\x00\x22\x00\x0a\x19\x01\x17\x01\x26\x00\x01k\x00\x01v\x00\x01a\x09\x18\x00\x00\x00\x05\x01\x01\x03\x00\x00\x00\x01w\x00\x01p\x00\x01u\x00\x01q",
    b"\x05\x20\x0b\x00\x00\x08\x21\x00\x14\x22\x00\x0a\x24\x01",
    b"\x04\x20\x02\x01\x00",
    b"\x05\x33\x1f\x00\x03a/b\x00\x0a\x17\x01\x01\x02\x00\x00\x00\x3c\x23\x00\x01\x03\x00\x01j\x26\x00\x01k\x00\x01vhi",
    b"\x04\x3d\x09\x00\x03a/b\x00\x0ahi",
    b"\x05\x40\x03\x00\x0a\x10\x50\x02\x00\x0a\x62\x04\x00\x0a\x92\x00\x70\x02\x00\x0a",
    b"\x05\x82\x10\x00\x0b\x02\x0b\x07\x00\x03a/#\x2d\x00\x02+b\x01",
    b"\x04\x82\x0c\x00\x0b\x00\x01a\x00\x00\x02+b\x02",
    b"\x05\x90\x05\x00\x0b\x00\x01\x87",
    b"\x05\xa2\x08\x00\x0c\x00\x00\x03a/#",
    b"\x05\xb0\x05\x00\x0c\x00\x00\x11",
    b"\x04\xc0\x00\xd0\x00\xe0\x00",
    b"\x05\xe0\x0d\x8b\x0b\x11\x00\x00\x00\x0a\x1f\x00\x03bye",
    b"\x05\xf0\x0d\x18\x0b\x15\x00\x05SCRAM\x16\x00\x00",
];
pub const MQTT_WORDS: &[&[u8]] = &[
    b"\x00\x00",
    b"\xff\xff",
    b"\x80\x80\x80\x01",
    b"\xff\xff\xff\x7f",
    b"\x00\x04MQTT",
    b"\x11\x00\x00\x00\x01",
    b"\x26\x00\x01k\x00\x01v",
    b"\x23\x00\x01",
    b"\x0b\x01",
    b"\x01\x01",
    b"$share/g/t",
    b"\xed\xa0\x80",
    b"\xc3\xa9",
];

pub const CONFIGURATION: &[&[u8]] = &[
    b"listener 1883\nallow_anonymous false\npassword_file /etc/passwd\nacl_file acl\n",
    b"per_listener_settings true\nlistener 1883 127.0.0.1\nprotocol websockets\nmount_point a/\nmax_connections 10\n\
      listener 0 /run/x.sock\nlistener 8883\ncertfile c\nkeyfile k\ncafile a\nrequire_certificate true\n\
      tls_version tlsv1.2\nciphers ECDHE-RSA-AES128-GCM-SHA256\n",
    b"# comment\n\nlog_dest file /x\nlog_dest topic\nlog_type all\nlog_timestamp_format %Y\nsys_interval 5\n",
    b"max_inflight_messages 20\nmax_queued_messages 0\nmessage_size_limit 268435455\nmemory_limit 100\n\
      persistent_client_expiration 2w\npersistence true\npersistence_location /var/lib/\n",
    b"include_dir x\nuser nobody\npid_file p\nfastmq_cores 2\nfastmq_admin_listener 9 127.0.0.1\n",
    b"port 1883\nbind_address ::1\nconnection bridge\naddress x:1\n",
    b"connection a\naddress x:1 [::1]:2 ::1:3\ntopic # both 2 l/ r/\ntopic \"\" in 0 l r\ntopic \"a b\" out 1 \"\" r/\n\
      restart_timeout 5 30\nkeepalive_interval 60\nremote_clientid c\nremote_username u\nremote_password p\n\
      bridge_cafile a\nbridge_certfile c\nbridge_keyfile k\nbridge_protocol_version mqttv50\n\
      bridge_tcp_keepalive 1 2 3\nconnection b\naddresses y\ntopic +/a in\nstart_type once\nlocal_clientid d\n",
];
pub const CONFIGURATION_WORDS: &[&[u8]] = &[
    b"listener ",
    b"per_listener_settings true\n",
    b"allow_anonymous ",
    b"true",
    b"false",
    b"include_dir ",
    b"\n",
    b" ",
    b"listener 0 ",
    b"protocol websockets\n",
    b"-1",
    b"4294967296",
    b"99999999999999999999",
    b"max_queued_bytes ",
    b"plugin x\n",
    b"tls_version ",
    b"log_type ",
    b"log_dest ",
    b"bridge_cafile x\n",
    b"connection ",
    b"topic ",
    b"address ",
    b"\"\" ",
    b" both 2 l/ r/\n",
    b"restart_timeout ",
    b"\xff",
    b"\xc3\xa9",
    b"fastmq_",
    b"accept_protocol_versions 3, 4",
    b"clientid_prefixes ",
    b"socket_domain ipv6\n",
    b"enable_proxy_protocol 2\n",
];

pub const ACL: &[&[u8]] = &[
    b"topic read $SYS/#\n\nuser ann\ntopic readwrite home/#\ntopic deny home/safe/#\n",
    b"# all\npattern write devices/%c/state\npattern read users/%u/#\npattern deny +/%u/x\n",
    b"user a b\ntopic a b c\ntopic write +/+/#\nuser ann\ntopic read #\n",
];
pub const ACL_WORDS: &[&[u8]] = &[
    b"user ",
    b"topic ",
    b"pattern ",
    b"read ",
    b"write ",
    b"readwrite ",
    b"deny ",
    b"%c",
    b"%u",
    b"#",
    b"+",
    b"/",
    b"\n",
    b"$SYS/",
    b"$share/g/",
    b"ann",
    b"one",
];

pub const PASSWORDS: &[&[u8]] = &[
    b"ann:$6$c2FsdHNhbHRzYWx0$3Z5PyPPPqVnRbpX3ZqCJmB0p4lH2xQ0uK9mYq1N6u0d8cWzJ5mQfQe4y8bS1r7i0tT3oV6nX9kL2aH5gJ8fDsw==\n",
    b"bob:$7$101$c2FsdHNhbHRzYWx0$3Z5PyPPPqVnRbpX3ZqCJmB0p4lH2xQ0uK9mYq1N6u0d8cWzJ5mQfQe4y8bS1r7i0tT3oV6nX9kL2aH5gJ8fDsw==\n",
    b"cat:$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI\n",
    b"# nobody\nno colon\n\nann:$6$YQ==$YQ==\n",
];
pub const PASSWORDS_WORDS: &[&[u8]] = &[
    b":",
    b"$6$",
    b"$7$",
    b"$argon2id$",
    b"\n",
    b"ann",
    b"=",
    b"4294967296",
    b"0",
    b"$",
    b"v=19",
    b"m=8,t=1,p=1",
];

pub const PROXY: &[&[u8]] = &[
    b"PROXY TCP4 192.0.2.1 198.51.100.1 5000 1883\r\n\x10",
    b"PROXY TCP6 2001:db8::1 ::1 65535 1\r\n",
    b"PROXY UNKNOWN whatever\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x01\x13\x88\x07\x5b\x10",
    b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x40\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x13\x88\x07\x5b\
      \x20\x00\x19\x07\0\0\0\0\x21\x00\x07TLSv1.3\x22\x00\x07ann doe",
];
pub const PROXY_WORDS: &[&[u8]] = &[
    b"PROXY ",
    b"TCP4 ",
    b"TCP6 ",
    b"\r\n",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\x21\x11\x00\x0c",
    b"\x20\x00\x05\x07\0\0\0\0",
    b"\x03\x00\x04",
    b"65536",
    b"255.255.255.255",
    b"::",
    b"\x21\x31",
    b"\x22\x00\x03ann",
];

pub const WEB_SOCKET: &[&[u8]] = &[
    b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n\
      \x82\x82\x01\x02\x03\x04\xc1\x02\x89\x81\0\0\0\0p\x88\x82\0\0\0\0\x03\xe8",
    b"GET /mqtt HTTP/1.1\r\nHost: a\r\nupgrade: WebSocket\r\nconnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: x, mqttv3.1\r\nOrigin: http://a\r\n\r\n\
      \x02\x81\0\0\0\0a\x89\x80\0\0\0\0\x00\x81\x01\x01\x01\x01b\x80\xfe\x00\x03\x00\x00\x00\x00abc",
    b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
];
pub const WEB_SOCKET_WORDS: &[&[u8]] = &[
    b"\r\n",
    b"Upgrade: websocket\r\n",
    b"Sec-WebSocket-Protocol: mqtt\r\n",
    b"Sec-WebSocket-Version: 12\r\n",
    b"\r\n\r\n",
    b"\x82\x80\0\0\0\0",
    b"\x82\xfe\x01\x00\0\0\0\0",
    b"\x82\xff\0\0\0\0\0\0\0\x01\0\0\0\0a",
    b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x81\x81\0\0\0\0a",
    b"\x88\x80\0\0\0\0",
    b"\x8a\x80\0\0\0\0",
    b"\x00\x80\0\0\0\0",
    b"\xc2\x80\0\0\0\0",
];

pub const DATABASE: &[&[u8]] = &[
    include_bytes!("../../src/import/tests/mosquitto-2.0.11.db"),
    b"\x00\xb5\x00mosquitto db\0\0\0\0\0\0\0\x05\
      \0\0\0\x01\0\0\0\x10\x09\0\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\
      \0\0\0\x02\0\0\0\x22\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\x07\x5b\x02\x01tp\
      \0\0\0\x06\0\0\0\x11\0\0\0\0\0\0\0\0\xff\xff\xff\xff\0\x02\0\x01c\
      \0\0\0\x03\0\0\0\x11\x01\0\0\0\0\0\0\0\0\x01\0\x01\x02\x05\0\x01c\
      \0\0\0\x03\0\0\0\x11\x01\0\0\0\0\0\0\0\0\x02\0\x01\x02\x07\0\0c\
      \0\0\0\x05\0\0\0\x0e\0\0\0\0\0\x01\0\x01\x02\0\0\0ct\
      \0\0\0\x04\0\0\0\x08\x01\0\0\0\0\0\0\0",
];
pub const DATABASE_WORDS: &[&[u8]] = &[
    b"\x00\xb5\x00mosquitto db",
    b"\0\0\0\x02\0\0\0\x22",
    b"\0\0\0\x03\0\0\0\x11",
    b"\0\0\0\x04\0\0\0\x08\x01\0\0\0\0\0\0\0",
    b"\0\0\0\x05\0\0\0\x0e",
    b"\0\0\0\x06\0\0\0\x11",
    b"\0\0\0\0\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"$share/g/t",
    b"+/#",
    b"\x02\x0b\x07",
    b"\x07\x26\0\x01k\0\x01v",
    b"\x35\0\0\0\0\0\0\0",
];

/// Frames of a log, behind a byte that says how it is opened.
pub fn frames() -> Vec<Vec<u8>> {
    let message = StoredMessage {
        topic_name: "t",
        properties: &[],
        payload: b"x",
        qos: QoS::ExactlyOnce,
        retain: false,
        expires_at_ms: None,
    };
    let identity = |client_identifier| StoredIdentity {
        client_identifier,
        username: None,
        listener: 0,
        port: 1883,
    };
    let session = |session, client_identifier, will| Record::Session {
        session,
        identity: identity(client_identifier),
        expiry_interval_s: u32::MAX,
        next_sequence: 0,
        exchanges: 0,
        window: (session == 1).then_some(20),
        will,
    };
    let will = WillRecord {
        message,
        delay_interval_s: 5,
        message_expiry_interval_s: None,
    };
    // Of a Session that is over.
    let published = WillRecord {
        message: StoredMessage {
            retain: true,
            ..message
        },
        ..will
    };
    let packet_identifier = PacketIdentifier::new(1).unwrap();
    let origin = Origin {
        session: 1,
        exchange: 2,
        packet_identifier,
    };
    let delivery = |session, sequence, share| Record::Delivery {
        session,
        sequence,
        message: 1,
        qos: QoS::ExactlyOnce,
        retain: false,
        sent: false,
        share,
        subscription_identifiers: &[[7, 0, 0, 0]],
    };
    let said = |shared, origin| Record::Message {
        message: 1,
        shared,
        origin,
        content: message,
    };
    let subscribed = |session, filter| Record::Subscribed {
        session,
        filter,
        options: SubscriptionOptions::new(QoS::ExactlyOnce),
        identifier: NonZeroU32::new(7),
        is_replaying: filter == "#",
    };
    let retained = |clock| Record::Retained {
        version: RetainedVersion {
            clock,
            shard: ShardId(0),
        },
        source: Some(identity("a")),
        content: message,
    };
    let packets: [&[Record<'_>]; 10] = [
        &[session(1, "a", Some(will)), subscribed(1, "#")],
        &[session(2, "b", None), subscribed(2, "$share/g/t")],
        &[said(true, Some(origin)), delivery(1, 0, None)],
        &[delivery(2, 4, Some("$share/g/t")), retained(3)],
        &[
            Record::Sent {
                session: 1,
                sequence: 0,
            },
            Record::Interrupted {
                session: 2,
                sent_before: 4,
                left_before: 5,
            },
            Record::Released {
                session: 2,
                sequence: 4,
            },
        ],
        &[
            Record::Received {
                session: 1,
                packet_identifier,
                exchange: 1,
            },
            Record::Taken {
                session: 1,
                exchange: 3,
            },
            Record::Had {
                origin,
                digest: Some(digest(b"t", b"", b"x")),
                session: 2,
            },
            Record::GroupHad {
                origin,
                digest: None,
                share: "$share/g/t",
            },
            Record::HandedOn {
                session: 1,
                sequence: 0,
            },
            Record::Ending { session: 2 },
        ],
        &[
            Record::Ending { session: 3 },
            session(3, "a", Some(published)),
        ],
        &[
            Record::SnapshotBegan,
            session(2, "b", None),
            Record::SnapshotEnded,
        ],
        &[
            Record::Detached {
                session: 1,
                expires_at_ms: Some(1_795_666_600_000),
                will_at_ms: Some(1_795_666_600_000),
            },
            Record::Done {
                session: 1,
                sequence: 0,
            },
            Record::Freed {
                session: 1,
                packet_identifier,
            },
        ],
        &[
            Record::Unsubscribed {
                session: 1,
                filter: "#",
            },
            Record::Ended { session: 1 },
        ],
    ];
    // All of it, more and more of it, and each opened in some other way.
    let mut seeds = Vec::new();
    for count in 1..=packets.len() {
        let mut journal = Journal::new(0, 1, Origins::default(), WallClock::default());
        let mut bytes = vec![u8::try_from(count).unwrap() | 1];
        for (index, packet) in packets.iter().take(count).enumerate() {
            for record in *packet {
                journal.append(record);
            }
            let mut frame = Vec::new();
            journal.take(&mut frame);
            bytes.extend(frame.concat());
            journal.set_synced(index as u64);
        }
        seeds.push(bytes);
    }
    seeds
}
pub const RECORD_WORDS: &[&[u8]] = &[
    b"\x01\0\0\0\0\0\0\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x05\0\0\0",
    b"$share/g/t",
    b"+/#",
    b"\x0f\x10",
    b"\x11",
];
