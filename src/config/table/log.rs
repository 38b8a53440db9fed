//! Logging.

#![forbid(unsafe_code)]

use super::Section;
use crate::config::Config;
use crate::config::directive::{Directive, Scope};
use crate::config::log::{Destinations, Facility, LogTypes, TimestampPattern};
use crate::config::problem::{Problem, Remark, Severity};
use crate::config::value::{Arguments, FileReference, Value, integer};

pub(super) const SECTION: Section = Section {
    title: "Logging",
    introduction: "Lines are written by a thread of their own. When it cannot keep up, lines of the cores \
                   are dropped and their number is logged, since no message waits for a log.",
    directives: &[
        Directive::new(
            "log_dest",
            "none|stderr|stdout|syslog|topic|file FILE",
            Scope::Global(Value::Words(read_destination)),
        )
        .default("stderr")
        .adds()
        .text(
            "Where log lines go; several may be given. topic publishes them to $SYS/broker/log/E, W, N, I, \
             M/subscribe, M/unsubscribe and WS, debug lines excepted. A file that is made belongs to the user that the broker becomes; it is \
             opened again at SIGHUP, and if that fails, lines go on to the one that is open. none takes back \
             those before it. Mosquitto's destinations dlt and android are refused.",
        ),
        Directive::new(
            "log_type",
            "error|warning|notice|information|debug|subscribe|unsubscribe|websockets|internal|all|none",
            Scope::Global(Value::Words(read_type)),
        )
        .default("error, warning, notice, information")
        .adds()
        .text(
            "Which lines there are; several may be given, one on a line. debug has a line for every packet \
             that a connected client sends, but none for those that it is sent, websockets one for each WebSocket that begins or ends because of what was sent. internal \
             changes nothing: there are no such lines. none takes back those before it. The options -v and \
             -q of the command line win.",
        ),
        Directive::new(
            "connection_messages",
            "true|false",
            Scope::Global(Value::Boolean(|config, yes| {
                config.log.connection_messages = yes;
            })),
        )
        .default("true")
        .text("Whether connecting and disconnecting clients are logged."),
        Directive::new(
            "log_timestamp",
            "true|false",
            Scope::Global(Value::Boolean(|config, yes| config.log.timestamp = yes)),
        )
        .default("true")
        .text("Whether lines begin with the time."),
        Directive::new(
            "log_timestamp_format",
            "FORMAT",
            Scope::Global(Value::Words(|config, arguments| {
                config.log.timestamp_format = Some(TimestampPattern {
                    text: arguments.rest()?.to_owned(),
                    place: arguments.place.clone(),
                });
                Ok(())
            })),
        )
        .once()
        .text(
            "How the time is written, as strftime(3) reads it, for example %Y-%m-%dT%H:%M:%S. Without it, \
             the time is in seconds since 1970.",
        ),
        Directive::new(
            "log_facility",
            "NUMBER",
            Scope::Global(integer(0, 7, |config, number| {
                config.log.facility = Facility::Local(u8::try_from(number).unwrap_or(7));
            })),
        )
        .default("daemon")
        .text("The syslog facility: local0 to local7."),
        Directive::no_effect(
            "websockets_log_level",
            "LEVEL",
            "it is a bit mask of libwebsockets, which is not used here. Use 'log_type websockets'.",
        )
        .default("0")
        .text("What libwebsockets logs."),
    ],
};

fn read_destination(config: &mut Config, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    let destinations = &mut config.log.destinations;
    // The default is what there is when nothing is asked for.
    if !config.is_log_dest_given {
        config.is_log_dest_given = true;
        *destinations = Destinations::NONE;
    }
    match arguments.word()? {
        "none" => *destinations = Destinations::NONE,
        "stderr" => destinations.stderr = true,
        "stdout" => {
            destinations.stdout = true;
            // Lines never wait in a buffer, so that a reader at the other end of a pipe is not late.
            let rest = arguments.unread;
            if arguments.next_word() != Some("unbuffered") {
                arguments.unread = rest;
            }
        }
        "syslog" => destinations.syslog = true,
        "topic" => destinations.topic = true,
        "file" => {
            if destinations.file.is_some() {
                return Err(arguments.invalid("file", "there is one already"));
            }
            destinations.file = Some(FileReference {
                path: arguments.path()?,
                directive: arguments.directive,
                place: arguments.place.clone(),
            });
        }
        other => {
            return Err(arguments.invalid(
                other,
                "it must be none, stderr, stdout, syslog, topic or file",
            ));
        }
    }
    Ok(())
}

fn read_type(config: &mut Config, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    let name = arguments.word()?;
    // Nor does it take the place of the default: nobody would read that it is in vain.
    if name == "internal" {
        config.remarks.push(Remark {
            severity: Severity::Warning,
            place: Some(arguments.place.clone()),
            text: "'log_type internal' changes nothing: there are no such lines".to_owned(),
        });
        return Ok(());
    }
    let types = &mut config.log.types;
    if !config.is_log_type_given {
        config.is_log_type_given = true;
        *types = LogTypes::NONE;
    }
    match name {
        "none" => *types = LogTypes::NONE,
        name => match LogTypes::named(name) {
            Some(more) => *types = types.or(more),
            None => return Err(arguments.invalid(name, "there is no such type of log lines")),
        },
    }
    Ok(())
}
