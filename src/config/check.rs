//! What can only be said of a configuration as a whole.

#![forbid(unsafe_code)]

use super::check_bridge::check_bridges;
use super::listener::{ListenAddress, Listener, Protocol, ProxyProtocol, TlsVersion};
use super::problem::{ConfigError, Place, Problem, Remark, Severity};
use super::{Config, Durability};

/// # Errors
/// Directives that contradict or lack one another.
pub(super) fn check(config: &mut Config) -> Result<(), ConfigError> {
    for listener in &config.listeners {
        check_tls(listener, &mut config.remarks)?;
        check_names(listener)?;
        check_proxy(listener)?;
        check_websockets(listener, &mut config.remarks)?;
        check_unix_socket(listener, &mut config.remarks);
        check_handshakes(listener, &mut config.remarks);
        if listener.policy.use_username_as_clientid && config.policy.clientid_prefixes.is_some() {
            config.remarks.push(Remark {
                severity: Severity::Warning,
                place: listener.place_of("use_username_as_clientid").cloned(),
                text: "clientid_prefixes is compared with the user name, since the listener has \
                       use_username_as_clientid"
                    .to_owned(),
            });
        }
    }
    let persistence = &config.persistence;
    if !persistence.enabled && persistence.durability != Durability::Always {
        config.remarks.push(Remark {
            severity: Severity::Warning,
            place: config.written.place("fastmq_durability").cloned(),
            text: "fastmq_durability has no effect without `persistence true`".to_owned(),
        });
    }
    check_bridges(&mut config.bridges, &mut config.remarks)?;
    check_admin(config)
}

pub(super) fn contradiction(
    text: impl Into<std::borrow::Cow<'static, str>>,
    place: Option<&Place>,
) -> ConfigError {
    ConfigError {
        problem: Problem::Contradiction(text.into()),
        place: place.cloned(),
    }
}

fn check_tls(listener: &Listener, remarks: &mut Vec<Remark>) -> Result<(), ConfigError> {
    let tls = &listener.tls;
    let place = |file: &Option<super::FileReference>| file.as_ref().map(|file| file.place.clone());
    match (&tls.certfile, &tls.keyfile) {
        (Some(_), Some(_)) => {
            if tls.require_certificate && tls.cafile.is_none() && tls.capath.is_none() {
                return Err(contradiction(
                    "require_certificate needs cafile or capath: nobody's certificate could be valid.",
                    listener.place_of("require_certificate"),
                ));
            }
            if tls.crlfile.is_some() && !tls.require_certificate {
                return Err(contradiction(
                    "crlfile needs require_certificate: there is no certificate to be revoked.",
                    place(&tls.crlfile).as_ref(),
                ));
            }
            for (is_in_vain, name, why) in [
                (
                    tls.ciphers.is_some() && tls.version_min == TlsVersion::V13,
                    "ciphers",
                    "with `tls_version tlsv1.3`",
                ),
                (
                    tls.disable_client_cert_date_checks && !tls.require_certificate,
                    "disable_client_cert_date_checks",
                    "without `require_certificate true`",
                ),
            ] {
                if is_in_vain {
                    remarks.push(Remark {
                        severity: Severity::Warning,
                        place: listener.place_of(name).cloned(),
                        text: format!("{name} has no effect {why}"),
                    });
                }
            }
            return Ok(());
        }
        (None, None) => {}
        (certfile, keyfile) => {
            return Err(contradiction(
                "Both certfile and keyfile must be provided to enable a TLS listener.",
                place(certfile).or_else(|| place(keyfile)).as_ref(),
            ));
        }
    }
    // Without TLS, whatever asks for it is a listener that is less protected than it looks.
    for (file, name) in [
        (&tls.cafile, "cafile"),
        (&tls.capath, "capath"),
        (&tls.crlfile, "crlfile"),
    ] {
        if file.is_some() {
            return Err(contradiction(
                format!("{name} specified without certfile and keyfile."),
                place(file).as_ref(),
            ));
        }
    }
    let is_told_by_proxy = listener.proxy_protocol == Some(ProxyProtocol::V2);
    for (is_set, name, is_told_by_proxy) in [
        (tls.ciphers.is_some(), "ciphers", false),
        (tls.ciphers_tls13.is_some(), "ciphers_tls1.3", false),
        (
            tls.require_certificate,
            "require_certificate",
            is_told_by_proxy,
        ),
        (
            tls.disable_client_cert_date_checks,
            "disable_client_cert_date_checks",
            false,
        ),
        (tls.version_min == TlsVersion::V13, "tls_version", false),
    ] {
        if is_set && !is_told_by_proxy {
            return Err(contradiction(
                format!("{name} specified without certfile and keyfile."),
                listener.place_of(name),
            ));
        }
    }
    Ok(())
}

fn check_names(listener: &Listener) -> Result<(), ConfigError> {
    for (is_set, name) in [
        (
            listener.policy.use_identity_as_username,
            "use_identity_as_username",
        ),
        (
            listener.policy.use_subject_as_username,
            "use_subject_as_username",
        ),
    ] {
        // Names of certificates that nobody has to show would be no names.
        if is_set && !listener.tls.require_certificate {
            return Err(contradiction(
                format!("{name} needs require_certificate."),
                listener.place_of(name),
            ));
        }
    }
    Ok(())
}

fn check_proxy(listener: &Listener) -> Result<(), ConfigError> {
    match listener.proxy_protocol {
        Some(ProxyProtocol::V2) => {
            if listener.policy.use_subject_as_username {
                return Err(contradiction(
                    "use_subject_as_username cannot be used with `enable_proxy_protocol 2`.",
                    listener.place_of("use_subject_as_username"),
                ));
            }
            if listener.has_tls() {
                return Err(contradiction(
                    "certfile and keyfile cannot be used with `enable_proxy_protocol 2`.",
                    listener.place_of("certfile"),
                ));
            }
        }
        _ if listener.proxy_protocol_v2_require_tls => {
            return Err(contradiction(
                "proxy_protocol_v2_require_tls needs `enable_proxy_protocol 2`.",
                listener.place_of("proxy_protocol_v2_require_tls"),
            ));
        }
        _ => {}
    }
    Ok(())
}

fn check_websockets(listener: &Listener, remarks: &mut Vec<Remark>) -> Result<(), ConfigError> {
    if listener.protocol == Protocol::Websockets {
        return Ok(());
    }
    if !listener.websockets_origins.is_empty() {
        return Err(contradiction(
            "websockets_origin needs `protocol websockets`.",
            listener.place_of("websockets_origin"),
        ));
    }
    if listener.http_dir.is_some() {
        remarks.push(Remark {
            severity: Severity::Warning,
            place: listener.place_of("http_dir").cloned(),
            text: "http_dir has no effect without `protocol websockets`".to_owned(),
        });
    }
    Ok(())
}

fn check_unix_socket(listener: &Listener, remarks: &mut Vec<Remark>) {
    if !matches!(listener.address, ListenAddress::Unix(_)) {
        return;
    }
    for (is_set, name) in [
        (listener.bind_interface.is_some(), "bind_interface"),
        (listener.socket_domain.is_some(), "socket_domain"),
    ] {
        if is_set {
            remarks.push(Remark {
                severity: Severity::Warning,
                place: listener.place_of(name).cloned(),
                text: format!("{name} has no effect on a unix socket"),
            });
        }
    }
}

/// What bounds handshakes means nothing where there are none.
fn check_handshakes(listener: &Listener, remarks: &mut Vec<Remark>) {
    let is_wrapped = listener.has_tls()
        || listener.protocol == Protocol::Websockets
        || listener.proxy_protocol.is_some();
    if is_wrapped {
        return;
    }
    for name in ["fastmq_handshake_timeout", "fastmq_max_pending_connections"] {
        if let Some(place) = listener.written.place(name) {
            remarks.push(Remark {
                severity: Severity::Warning,
                place: Some(place.clone()),
                text: format!(
                    "{name} has no effect on a listener without TLS, WebSockets and PROXY headers"
                ),
            });
        }
    }
}

fn check_admin(config: &Config) -> Result<(), ConfigError> {
    let admin = &config.admin;
    match (admin.listener, &admin.token_file) {
        (Some(address), None) if !address.ip().is_loopback() => Err(contradiction(
            format!(
                "fastmq_admin_listener at {address} needs fastmq_admin_token_file: others than this \
                 machine can reach it."
            ),
            config.written.place("fastmq_admin_listener"),
        )),
        (None, Some(file)) => Err(contradiction(
            "fastmq_admin_token_file specified without fastmq_admin_listener.",
            Some(&file.place),
        )),
        _ => Ok(()),
    }
}
