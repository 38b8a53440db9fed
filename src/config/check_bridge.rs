//! What can only be said of a bridge as a whole, and of all bridges together.

#![forbid(unsafe_code)]

use super::bridge::{Bridge, BridgeTls};
use super::check::contradiction;
use super::listener::TlsVersion;
use super::problem::{ConfigError, Remark, Severity};
use crate::message::ProtocolVersion;
use crate::shown::shown;
use crate::topic::TopicName;
use std::collections::HashMap;

/// What the length of a string of MQTT can say.
const STRING_SIZE_MAX: usize = u16::MAX as usize;
/// ALPN says lengths with a byte.
const ALPN_SIZE_MAX: usize = u8::MAX as usize;

/// # Errors
/// Directives that contradict or lack one another.
pub(super) fn check_bridges(
    bridges: &mut [Bridge],
    remarks: &mut Vec<Remark>,
) -> Result<(), ConfigError> {
    for bridge in &mut *bridges {
        check_needed(bridge)?;
        check_tls(bridge, remarks)?;
        check_texts(bridge)?;
        check_notifications(bridge, remarks)?;
        check_version(bridge, remarks);
    }
    check_local_clientids(bridges)
}

fn check_needed(bridge: &Bridge) -> Result<(), ConfigError> {
    let name = shown(&bridge.name);
    for (is_there, what) in [
        (!bridge.addresses.is_empty(), "address"),
        (!bridge.topics.is_empty(), "topic"),
    ] {
        if !is_there {
            return Err(contradiction(
                format!("Invalid bridge configuration: the bridge '{name}' has no '{what}'."),
                Some(&bridge.place),
            ));
        }
    }
    Ok(())
}

/// Leaves `tls` with who is to speak TLS only.
fn check_tls(bridge: &mut Bridge, remarks: &mut Vec<Remark>) -> Result<(), ConfigError> {
    let Some(tls) = &bridge.tls else {
        return Ok(());
    };
    if tls.cafile.is_none() && tls.capath.is_none() && !tls.use_os_certs {
        if let Some(name) = asks_for_tls(bridge, tls) {
            // It would be less protected than it looks.
            return Err(contradiction(
                format!(
                    "{name} needs bridge_cafile, bridge_capath or bridge_tls_use_os_certs: without them the bridge \
                     has no TLS."
                ),
                Some(bridge.place_of(name)),
            ));
        }
        bridge.tls = None;
        return Ok(());
    }
    let lonely = match (&tls.certfile, &tls.keyfile) {
        (Some(file), None) | (None, Some(file)) => Some(file),
        _ => None,
    };
    if let Some(file) = lonely {
        return Err(contradiction(
            "bridge_certfile and bridge_keyfile need each other.",
            Some(&file.place),
        ));
    }
    if tls.alpn.as_ref().is_some_and(|it| it.len() > ALPN_SIZE_MAX) {
        return Err(too_long(bridge, "bridge_alpn", ALPN_SIZE_MAX));
    }
    if tls.ciphers.is_some() && tls.version_min == TlsVersion::V13 {
        let text = "bridge_ciphers has no effect with `bridge_tls_version tlsv1.3`";
        remarks.push(warning(bridge, "bridge_ciphers", text));
    }
    if tls.insecure {
        let text = format!(
            "bridge_insecure: whoever has any certificate of the authorities can be what the bridge '{}' connects to",
            shown(&bridge.name)
        );
        remarks.push(warning(bridge, "bridge_insecure", text));
    }
    Ok(())
}

/// The first directive that means nothing without TLS.
fn asks_for_tls(bridge: &Bridge, tls: &BridgeTls) -> Option<&'static str> {
    let given = [
        (tls.certfile.is_some(), "bridge_certfile"),
        (tls.keyfile.is_some(), "bridge_keyfile"),
        (tls.alpn.is_some(), "bridge_alpn"),
        (tls.ciphers.is_some(), "bridge_ciphers"),
        (tls.ciphers_tls13.is_some(), "bridge_ciphers_tls1.3"),
        (
            bridge.written.place("bridge_tls_version").is_some(),
            "bridge_tls_version",
        ),
        (tls.insecure, "bridge_insecure"),
    ];
    let (_, name) = given.into_iter().find(|(is_given, _)| *is_given)?;
    Some(name)
}

fn check_texts(bridge: &Bridge) -> Result<(), ConfigError> {
    // The old names first: of the two names only one is given.
    for (value, names) in [
        (&bridge.remote_clientid, ["clientid", "remote_clientid"]),
        (&bridge.remote_username, ["username", "remote_username"]),
        (&bridge.remote_password, ["password", "remote_password"]),
        (&bridge.local_clientid, ["local_clientid"; 2]),
        (&bridge.local_username, ["local_username"; 2]),
        (&bridge.local_password, ["local_password"; 2]),
    ] {
        if value.as_ref().is_some_and(|it| it.len() > STRING_SIZE_MAX) {
            let [old, new] = names;
            let is_old = bridge.written.place(old).is_some();
            return Err(too_long(
                bridge,
                if is_old { old } else { new },
                STRING_SIZE_MAX,
            ));
        }
    }
    if local_clientid(bridge).is_some_and(|it| it.len() > STRING_SIZE_MAX) {
        return Err(contradiction(
            "local_clientid has to be given: with local. before it remote_clientid is too long.",
            Some(&bridge.place),
        ));
    }
    // A password without a User Name is for MQTT 5.0 only [v3.1.1 MQTT-3.1.2-22].
    let is_v5 = bridge.protocol_version == ProtocolVersion::V5;
    if bridge.remote_password.is_some() && bridge.remote_username.is_none() && !is_v5 {
        let place = bridge.written.place("password");
        return Err(contradiction(
            "remote_password needs remote_username.",
            Some(place.unwrap_or(bridge.place_of("remote_password"))),
        ));
    }
    if bridge.local_password.is_some() && bridge.local_username.is_none() {
        return Err(contradiction(
            "local_password needs local_username.",
            Some(bridge.place_of("local_password")),
        ));
    }
    Ok(())
}

fn check_notifications(bridge: &Bridge, remarks: &mut Vec<Remark>) -> Result<(), ConfigError> {
    if let Some(topic) = &bridge.notification_topic
        && let Err(error) = TopicName::new(topic)
    {
        return Err(contradiction(
            format!("notification_topic '{}': {error}.", shown(topic)),
            Some(bridge.place_of("notification_topic")),
        ));
    }
    if !bridge.notifications {
        for name in ["notification_topic", "notifications_local_only"] {
            if bridge.written.place(name).is_some() {
                let text = format!("{name} has no effect with `notifications false`");
                remarks.push(warning(bridge, name, text));
            }
        }
    } else if bridge.notification_topic.is_none() {
        let identifier = bridge.remote_clientid.as_ref().unwrap_or(&bridge.name);
        let topic = format!("$SYS/broker/connection/{identifier}/state");
        if let Err(error) = TopicName::new(&topic) {
            let text = format!(
                "The bridge '{}' cannot publish its state to '{}': {error}. notification_topic can be another one.",
                shown(&bridge.name),
                shown(&topic)
            );
            return Err(contradiction(text, Some(&bridge.place)));
        }
    }
    Ok(())
}

fn check_version(bridge: &Bridge, remarks: &mut Vec<Remark>) {
    if bridge.protocol_version == ProtocolVersion::V5 {
        return;
    }
    for name in [
        "bridge_max_topic_alias",
        "bridge_receive_maximum",
        "bridge_session_expiry_interval",
    ] {
        if bridge.written.place(name).is_some() {
            let text = format!("{name} has no effect without `bridge_protocol_version mqttv50`");
            remarks.push(warning(bridge, name, text));
        }
    }
}

/// Those that depend on the name of the machine differ by the names of their bridges.
fn check_local_clientids(bridges: &[Bridge]) -> Result<(), ConfigError> {
    let mut seen: HashMap<String, &Bridge> = HashMap::new();
    for bridge in bridges {
        let Some(identifier) = local_clientid(bridge) else {
            continue;
        };
        if let Some(other) = seen.get(&identifier) {
            let text = format!(
                "The bridges '{}' and '{}' are both '{}' at this broker: local_clientid has to be another one for one of \
                 them.",
                shown(&other.name),
                shown(&bridge.name),
                shown(&identifier)
            );
            return Err(contradiction(text, Some(bridge.place_of("local_clientid"))));
        }
        seen.insert(identifier, bridge);
    }
    Ok(())
}

/// The Client Identifier at this broker, as far as the configuration alone says it.
fn local_clientid(bridge: &Bridge) -> Option<String> {
    match (&bridge.local_clientid, &bridge.remote_clientid) {
        (Some(local), _) => Some(local.clone()),
        (None, Some(remote)) => Some(format!("local.{remote}")),
        (None, None) => None,
    }
}

fn warning(bridge: &Bridge, name: &str, text: impl Into<String>) -> Remark {
    Remark {
        severity: Severity::Warning,
        place: Some(bridge.place_of(name).clone()),
        text: text.into(),
    }
}

fn too_long(bridge: &Bridge, name: &str, bytes: usize) -> ConfigError {
    contradiction(
        format!("{name} is longer than {bytes} bytes."),
        Some(bridge.place_of(name)),
    )
}
