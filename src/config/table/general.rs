//! The process: its files, its user, what it reads.

#![forbid(unsafe_code)]

use super::Section;
use crate::config::directive::{Directive, Scope};
use crate::config::value::{Value, integer};

pub(super) const SECTION: Section = Section {
    title: "General",
    introduction: "These concern the process as a whole.",
    directives: &[
        Directive::new("include_dir", "DIRECTORY", Scope::Include)
            .adds()
            .text(
                "Reads every file in DIRECTORY whose name ends in .conf, in alphabetical order; of the \
                 same letter the upper case comes first. A listener that was begun before does not \
                 reach into these files, and each begins without one. It may be given more than once, \
                 in the main file only.",
            ),
        Directive::new(
            "per_listener_settings",
            "true|false",
            Scope::Structure(|parser, arguments| parser.set_per_listener(arguments)),
        )
        .default("false")
        .deprecated("listener_allow_anonymous and listener_auto_id_prefix need no such switch.")
        .text(
            "With true, acl_file, allow_anonymous, allow_zero_length_clientid, auto_id_prefix and \
             password_file belong to the listener above them and to no other; before the first \
             listener they are refused, as by Mosquitto 2.1. It has to stand before all of these, and cannot be \
             taken back.",
        ),
        Directive::new(
            "pid_file",
            "FILE",
            Scope::Global(Value::File(|config| &mut config.pid_file)),
        )
        .once()
        .at_restart()
        .text(
            "The process writes its process identifier to FILE and removes it at the end. It does not \
             start if it cannot.",
        ),
        Directive::new(
            "user",
            "NAME",
            Scope::Global(Value::Text(|config| &mut config.user)),
        )
        .default("mosquitto")
        .at_restart()
        .text(
            "Started by root, the broker becomes this user, with its groups, as soon as it has read its \
             files and opened its ports; ports below 1024 need nothing else. If nothing is set and there \
             is no user mosquitto, it becomes fastmq or else nobody. A NAME that does not exist is an \
             error. With root it stays root, which is not a good idea. Started by another user, it stays \
             that user.",
        ),
        Directive::new(
            "set_tcp_nodelay",
            "true|false",
            Scope::Global(Value::Boolean(|config, yes| config.set_tcp_nodelay = yes)),
        )
        .default("true")
        .at_restart()
        .text(
            "Sends small packets at once instead of waiting for the acknowledgement of earlier ones. \
             Mosquitto's default is false; here packets of one turn leave together anyway, and waiting \
             would only add latency.",
        ),
        Directive::new(
            "sys_interval",
            "SECONDS",
            Scope::Global(integer(0, 65_535, |config, seconds| {
                config.sys_interval_s = u16::try_from(seconds).unwrap_or(u16::MAX);
            })),
        )
        .default("10")
        .text(
            "Time between two updates of the $SYS topics. With 0 there are none, or after a reload those that there \
             were, as they were.",
        ),
        Directive::no_effect(
            "enable_control_api",
            "true|false",
            "there are no plugins to be asked about over $CONTROL, so requests get no answer.",
        )
        .default("false")
        .text("Mosquitto answers requests on $CONTROL/broker/v1 about its plugins."),
        Directive::no_effect(
            "retry_interval",
            "SECONDS",
            "unacknowledged messages are sent again when the client comes back, and only then, as MQTT \
             demands.",
        )
        .text("Removed from Mosquitto in version 1.5."),
        Directive::no_effect(
            "store_clean_interval",
            "SECONDS",
            "a message is forgotten with the last client that it is for.",
        )
        .text("Needed by Mosquitto up to version 1.4, which has taken it without effect since."),
        Directive::no_effect(
            "packet_buffer_size",
            "BYTES",
            "all connections of a core receive into one ring of buffers.",
        )
        .default("4096")
        .text(
            "Mosquitto reads so many bytes from a connection at a time; the head of a WebSocket \
             handshake has to fit as well. Here its bound is fixed.",
        ),
    ],
};
