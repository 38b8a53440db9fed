//! What survives a restart.

#![forbid(unsafe_code)]

use super::Section;
use crate::config::directive::{Directive, Scope};
use crate::config::persistence::{Durability, INTERVAL_MS_MAX};
use crate::config::problem::Problem;
use crate::config::value::{Arguments, Value};
use crate::config::{Config, PersistenceOptions};
use std::time::Duration;

pub(super) const SECTION: Section = Section {
    title: "Persistence",
    introduction: "What is stored is in a log of each core, which is written as things happen; nothing is \
                   saved in intervals.",
    directives: &[
        Directive::new(
            "persistence",
            "true|false",
            Scope::Global(Value::Boolean(|config, yes| config.persistence.enabled = yes)),
        )
        .default("false")
        .at_restart()
        .text(
            "Whether sessions, subscriptions, queued and retained messages survive the end of the process. \
             fastmq_durability says from when on.",
        ),
        Directive::new(
            "persistence_location",
            "DIRECTORY",
            Scope::Global(Value::Words(|config, arguments| {
                config.persistence.location = Some(arguments.path()?);
                Ok(())
            })),
        )
        .default("the working directory")
        .once()
        .at_restart()
        .text("Where the store is."),
        Directive::no_effect(
            "persistence_file",
            "NAME",
            "the store is a folder of files with names of their own, which 'fastmq import' fills from \
             Mosquitto's.",
        )
        .default("mosquitto.db")
        .text("The name of Mosquitto's database in persistence_location."),
        Directive::new(
            "fastmq_durability",
            "always|interval MILLISECONDS|os",
            Scope::Global(Value::Words(|config, arguments| {
                read_durability(&mut config.persistence, arguments)
            })),
        )
        .default("always")
        .at_restart()
        .text(
            "What an acknowledgement means when persistence is on. always: what it acknowledges is on \
             stable storage, and survives a power loss. interval: it will be after so many milliseconds \
             at most. os: it was given to the operating system, and survives the end of the process but \
             no power loss.",
        ),
        Directive::new(
            "retained_persistence",
            "true|false",
            Scope::Global(Value::Boolean(|config: &mut Config, yes| {
                config.persistence.enabled = yes;
            })),
        )
        .at_restart()
        .deprecated("Please use 'persistence' instead.")
        .text("An old name of persistence."),
        Directive::no_effect(
            "autosave_interval",
            "SECONDS",
            "with persistence on, changes are stored as they happen.",
        )
        .default("1800")
        .text("Mosquitto writes its database in this interval."),
        Directive::no_effect(
            "autosave_on_changes",
            "true|false",
            "with persistence on, changes are stored as they happen.",
        )
        .default("false")
        .text("Mosquitto writes its database after autosave_interval changes."),
    ],
};

fn read_durability(
    persistence: &mut PersistenceOptions,
    arguments: &mut Arguments<'_>,
) -> Result<(), Problem> {
    persistence.durability = match arguments.word()? {
        "always" => Durability::Always,
        "os" => Durability::Os,
        "interval" => match u64::try_from(arguments.integer()?) {
            Ok(ms @ 1..=INTERVAL_MS_MAX) => Durability::Interval(Duration::from_millis(ms)),
            _ => {
                let expected = format!("it must be from 1 to {INTERVAL_MS_MAX} ms");
                return Err(arguments.invalid("interval", expected));
            }
        },
        other => return Err(arguments.invalid(other, "it must be always, interval or os")),
    };
    Ok(())
}
