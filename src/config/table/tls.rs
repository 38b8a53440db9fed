//! TLS of listeners.

#![forbid(unsafe_code)]

use super::Section;
use super::security::NO_PSK;
use crate::config::directive::{Directive, Place, Scope};
use crate::config::listener::{Listener, TlsVersion};
use crate::config::problem::Problem;
use crate::config::value::{Arguments, Value};

/// What reads keys from TPMs and the like.
const NO_ENGINES: &str = "there are no OpenSSL engines here. Use a key file: keyfile.";

pub(super) const SECTION: Section = Section {
    title: "TLS",
    introduction: "A listener with certfile and keyfile speaks TLS 1.2 and 1.3. Files are in PEM format, are \
                   read again at every reload and hold for new connections; those that are there stay, also \
                   when a reload turns TLS on or off.",
    directives: &[
        Directive::new(
            "certfile",
            "FILE",
            Scope::Listener(Value::File(|listener| &mut listener.tls.certfile)),
        )
        .text(
            "The server's certificate, followed by those between it and the authority. Where none follows, \
             those that cafile and capath have are sent with it.",
        ),
        Directive::new(
            "keyfile",
            "FILE",
            Scope::Listener(Value::File(|listener| &mut listener.tls.keyfile)),
        )
        .text("The private key of certfile, without a password: RSA, Ed25519, or on one of the curves P-256 and P-384."),
        Directive::new(
            "cafile",
            "FILE",
            Scope::OwnListener(Value::File(|listener| &mut listener.tls.cafile)),
        )
        .text("Certificates of the authorities that client certificates are checked against."),
        Directive::new(
            "capath",
            "DIRECTORY",
            Scope::Listener(Value::File(|listener| &mut listener.tls.capath)),
        )
        .text(
            "A directory of such certificates, as `openssl rehash` leaves it: only files with names that \
             it makes, such as 5f2c1d0e.0, are read.",
        ),
        Directive::new(
            "crlfile",
            "FILE",
            Scope::Listener(Value::File(|listener| &mut listener.tls.crlfile)),
        )
        .text("Client certificates that are revoked."),
        Directive::new(
            "require_certificate",
            "true|false",
            Scope::Listener(Value::Boolean(|listener, yes| {
                listener.tls.require_certificate = yes;
            })),
        )
        .default("false")
        .text(
            "Whether a client has to show a valid certificate. It has to be of X.509 version 3: `openssl x509 \
             -req` before OpenSSL 3.2 makes version 1 unless -extfile names a file, which may say no more than \
             basicConstraints=CA:FALSE.",
        ),
        Directive::new(
            "use_identity_as_username",
            "true|false",
            Scope::Listener(Value::Boolean(|listener, yes| {
                listener.policy.use_identity_as_username = yes;
            })),
        )
        .default("false")
        .text(
            "The common name of the client's certificate is its user name. password_file then does not \
             count for this listener. It wins over use_subject_as_username.",
        ),
        Directive::new(
            "use_subject_as_username",
            "true|false",
            Scope::Listener(Value::Boolean(|listener, yes| {
                listener.policy.use_subject_as_username = yes;
            })),
        )
        .default("false")
        .text(
            "The whole subject of the client's certificate is its user name, in a form such as \
             CN=client,OU=Production,O=Server,L=Nottingham,ST=Nottinghamshire,C=GB.",
        ),
        Directive::new(
            "tls_version",
            "tlsv1.3|tlsv1.2",
            Scope::OwnListener(Value::Words(read_version)),
        )
        .default("tlsv1.2")
        .text("The lowest version that is spoken."),
        Directive::new(
            "ciphers",
            "CIPHER:CIPHER...",
            Scope::Listener(Value::Text(|listener| &mut listener.tls.ciphers)),
        )
        .text(
            "The cipher suites of TLS 1.2, with OpenSSL's names. Those that the library does not have, \
             since they are not safe any more, are left out with a warning.",
        ),
        Directive::new(
            "ciphers_tls1.3",
            "CIPHER:CIPHER...",
            Scope::Listener(Value::Text(|listener| &mut listener.tls.ciphers_tls13)),
        )
        .text("The cipher suites of TLS 1.3."),
        Directive::new(
            "disable_client_cert_date_checks",
            "true|false",
            Scope::OwnListener(Value::Boolean(|listener, yes| {
                listener.tls.disable_client_cert_date_checks = yes;
            })),
        )
        .default("false")
        .text("Accepts client certificates that are expired or not valid yet."),
        Directive::no_effect(
            "dhparamfile",
            "FILE",
            "keys are exchanged over elliptic curves, which need no parameters.",
        )
        .text("Parameters of the Diffie-Hellman key exchange."),
        Directive::new(
            "tls_keyform",
            "pem",
            Scope::Listener(Value::Words(|_, arguments| match arguments.word()? {
                "pem" => Ok(()),
                other => Err(arguments.invalid(
                    other,
                    "there are no OpenSSL engines here, so it must be pem",
                )),
            })),
        )
        .default("pem")
        .text("The kind of keyfile. Mosquitto's engine is refused."),
        Directive::refused(
            "tls_engine",
            "ENGINE",
            Scope::Nowhere(Place::Listener),
            NO_ENGINES,
        )
        .text("The OpenSSL engine that holds the private key."),
        Directive::refused(
            "tls_engine_kpass_sha1",
            "HASH",
            Scope::Nowhere(Place::Listener),
            NO_ENGINES,
        )
        .text("The hashed password of the OpenSSL engine."),
        Directive::refused("psk_hint", "HINT", Scope::Nowhere(Place::Listener), NO_PSK)
            .text("Enables pre-shared keys on the listener."),
    ],
};

fn read_version(listener: &mut Listener, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    listener.tls.version_min = match arguments.word()? {
        "tlsv1.3" => TlsVersion::V13,
        "tlsv1.2" => TlsVersion::V12,
        other => return Err(arguments.invalid(other, "it must be tlsv1.3 or tlsv1.2")),
    };
    Ok(())
}
