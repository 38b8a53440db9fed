//! What the rest of the broker says with `tracing` becomes lines of the log.

#![forbid(unsafe_code)]

use super::Log;
use super::kind::Kind;
use std::fmt::{Debug, Write};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The target of events that are lines of [`Kind::Websockets`].
pub const WEBSOCKETS_TARGET: &str = "fastmq::websockets";

/// The target of events that are lines of [`Kind::Notice`], which `tracing` has no level for.
pub const NOTICE_TARGET: &str = "fastmq::notice";

/// Passes events on to a [`Log`].
#[derive(Debug)]
pub struct LogLayer {
    log: Log,
}

impl LogLayer {
    /// Events go to `log`.
    #[must_use]
    pub fn new(log: Log) -> Self {
        Self { log }
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let kind = match *metadata.level() {
            _ if metadata.target() == WEBSOCKETS_TARGET => Kind::Websockets,
            _ if metadata.target() == NOTICE_TARGET => Kind::Notice,
            Level::ERROR => Kind::Error,
            Level::WARN => Kind::Warning,
            Level::INFO => Kind::Information,
            Level::DEBUG | Level::TRACE => Kind::Debug,
        };
        if self.log.wants(kind) {
            let mut text = Text::default();
            event.record(&mut text);
            text.message.push_str(&text.fields);
            self.log.write(kind, text.message);
        }
    }
}

/// The message first, then what else there is.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a `String` does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
