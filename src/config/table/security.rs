//! Who may connect, and who may do what.

#![forbid(unsafe_code)]

use super::Section;
use crate::config::directive::{Directive, Place, Scope};
use crate::config::problem::Problem;
use crate::config::security::SecurityOptions;
use crate::config::value::{Arguments, Value};

/// Longest `auto_id_prefix`, bytes (Mosquitto's bound).
const PREFIX_SIZE_MAX: usize = 50;

/// PSK cannot be had, wherever it is asked for.
pub(super) const NO_PSK: &str = "the TLS library has no pre-shared keys, and without them the listener would not be protected. Use \
     certificates: certfile and keyfile, with require_certificate and use_identity_as_username to \
     know the clients.";

pub(super) const SECTION: Section = Section {
    title: "Authentication and access",
    introduction: "Files are read at start and at every reload. A file that is missing or broken stops the \
                   start, and at a reload leaves everything as it was: access is never wider than the \
                   files say.",
    directives: &[
        Directive::new(
            "allow_anonymous",
            "true|false",
            Scope::Security(Value::Boolean(|security, yes| {
                security.allow_anonymous = Some(yes);
            })),
        )
        .default("false; true without any listener")
        .text(
            "Whether clients without a user name, or with an empty one, may connect. Without any listener in the configuration \
             the broker is reachable from this machine only, unless --bind says otherwise, and then the default is true.",
        ),
        Directive::new(
            "listener_allow_anonymous",
            "true|false",
            Scope::OwnListener(Value::Boolean(|listener, yes| {
                listener.security.allow_anonymous = Some(yes);
            })),
        )
        .default("allow_anonymous")
        .text("As allow_anonymous, for the listener above it only."),
        Directive::new(
            "password_file",
            "FILE",
            Scope::Security(Value::File(|security| &mut security.password_file)),
        )
        .text(
            "User names and hashed passwords, as fastmq passwd and mosquitto_passwd write them. A client \
             that gives a user name has to be in it, with the right password. When a reload changes or \
             removes a client's password, its connection ends.",
        ),
        Directive::new(
            "acl_file",
            "FILE",
            Scope::Security(Value::File(|security| &mut security.acl_file)),
        )
        .text(
            "Rules about topics: topic [read|write|readwrite|deny] FILTER, for anonymous clients or those \
             of the user NAME line above it, and pattern [read|write|readwrite|deny] FILTER for all, \
             where %c stands for the client identifier and %u for the user name. What no rule allows is \
             refused. After a reload the new rules hold for subscriptions and queued messages that are \
             already there.",
        ),
        Directive::new(
            "allow_zero_length_clientid",
            "true|false",
            Scope::Security(Value::Boolean(|security, yes| {
                security.allow_zero_length_clientid = Some(yes);
            })),
        )
        .default("true")
        .text("Whether a client may leave the choice of its identifier to the broker."),
        Directive::new(
            "auto_id_prefix",
            "PREFIX",
            Scope::Security(Value::Words(read_prefix)),
        )
        .default("auto-")
        .once()
        .deprecated("Please use 'listener_auto_id_prefix' instead.")
        .text("Begins the identifiers that the broker makes up; at most 50 bytes."),
        Directive::new(
            "listener_auto_id_prefix",
            "PREFIX",
            Scope::OwnListener(Value::Words(|listener, arguments| {
                read_prefix(&mut listener.security, arguments)
            })),
        )
        .default("auto-")
        .once()
        .text("As auto_id_prefix, for the listener above it only."),
        Directive::new(
            "clientid_prefixes",
            "PREFIX",
            Scope::Global(Value::Words(|config, arguments| {
                config.policy.clientid_prefixes = Some(arguments.rest()?.into());
                Ok(())
            })),
        )
        .deprecated("An acl_file with patterns on %c says more.")
        .text(
            "Only clients whose identifier begins with PREFIX may connect. Connections that are already \
             there stay when it changes.",
        ),
        Directive::new(
            "check_retain_source",
            "true|false",
            Scope::Global(Value::Boolean(|config, yes| {
                config.policy.check_retain_source = yes;
            })),
        )
        .default("true")
        .text(
            "A retained message is only given to a new subscriber if whoever published it would still be \
             allowed to.",
        ),
        Directive::refused("psk_file", "FILE", Scope::Nowhere(Place::Broker), NO_PSK)
            .text("Identities and pre-shared keys for TLS."),
    ],
};

fn read_prefix(
    security: &mut SecurityOptions,
    arguments: &mut Arguments<'_>,
) -> Result<(), Problem> {
    let prefix = arguments.rest()?;
    if prefix.len() > PREFIX_SIZE_MAX {
        return Err(arguments.invalid(prefix, "its length must be <= 50"));
    }
    security.auto_id_prefix = Some(prefix.to_owned());
    Ok(())
}
