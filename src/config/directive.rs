//! What is known of one directive: where it may stand, what it takes, what it does.

#![forbid(unsafe_code)]

use super::Config;
use super::bridge::Bridge;
use super::listener::Listener;
use super::parser::Parser;
use super::problem::Problem;
use super::security::SecurityOptions;
use super::value::{Arguments, Value};

/// One row of the table: everything that parser, manual and example say about a directive.
#[derive(Debug)]
pub struct Directive {
    /// As it is written in the file. A name that ends in `*` stands for all that begin like it.
    pub name: &'static str,
    /// What follows the name, as the manual shows it.
    pub syntax: &'static str,
    /// What holds when the directive is absent; empty when nothing does.
    pub default: &'static str,
    /// Where it may stand and what it changes.
    pub scope: Scope,
    /// Whether it does here what it does in Mosquitto.
    pub status: Status,
    /// What happens when it is given again.
    pub repeat: Repeat,
    /// Whether a reload applies it.
    pub reload: Reload,
    /// One paragraph for the manual.
    pub text: &'static str,
}

/// Where a directive may stand, and how it gets to what it changes.
#[derive(Debug)]
pub enum Scope {
    /// The broker, wherever it stands.
    Global(Value<Config>),
    /// The broker, or with `per_listener_settings true` the listener above it.
    Security(Value<SecurityOptions>),
    /// The listener above it, or the default listener when there is none.
    Listener(Value<Listener>),
    /// The listener above it, which has to be there.
    OwnListener(Value<Listener>),
    /// The file's structure: it begins a listener, reads other files, changes what others mean.
    Structure(fn(&mut Parser<'_>, &mut Arguments<'_>) -> Result<(), Problem>),
    /// It stands for other files.
    Include,
    /// The file's structure as well: it begins a bridge.
    BeginsBridge,
    /// The bridge above it, which has to be there.
    Bridge(Value<Bridge>),
    /// A plugin.
    Plugin,
    /// Nothing here: the directive is accepted for the sake of old files.
    Nothing,
    /// Nothing here, and the directive cannot be accepted.
    Nowhere(Place),
}

/// Where Mosquitto takes a directive that is refused here, for the manual.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// The whole broker.
    Broker,
    /// A listener.
    Listener,
    /// A bridge.
    Bridge,
}

/// Whether a directive does what it does in Mosquitto.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// It does.
    Supported,
    /// It does, and there is a better way to say it.
    Deprecated {
        /// What to write instead.
        instead: &'static str,
    },
    /// It changes nothing; a warning says why.
    NoEffect {
        /// Why nothing is lost.
        why: &'static str,
    },
    /// The broker does not start with it.
    Refused {
        /// Why, and what to do instead.
        why: &'static str,
    },
}

/// What happens when a directive is given a second time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Repeat {
    /// The last one counts, and a notice says so.
    LastCounts,
    /// An error, as in Mosquitto.
    Refused,
    /// Each adds something.
    Adds,
}

/// When a change of a directive takes effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reload {
    /// At SIGHUP.
    Applied,
    /// At the next start; a reload says so.
    Restart,
}

impl Directive {
    /// A supported directive that a reload applies and of which the last one counts.
    pub(super) const fn new(name: &'static str, syntax: &'static str, scope: Scope) -> Self {
        Self {
            name,
            syntax,
            default: "",
            scope,
            status: Status::Supported,
            repeat: Repeat::LastCounts,
            reload: Reload::Applied,
            text: "",
        }
    }

    /// A directive that changes nothing, for the reason given.
    pub(super) const fn no_effect(
        name: &'static str,
        syntax: &'static str,
        why: &'static str,
    ) -> Self {
        let mut directive = Self::new(name, syntax, Scope::Nothing);
        directive.status = Status::NoEffect { why };
        directive
    }

    /// A directive that the broker does not start with.
    pub(super) const fn refused(
        name: &'static str,
        syntax: &'static str,
        scope: Scope,
        why: &'static str,
    ) -> Self {
        let mut directive = Self::new(name, syntax, scope);
        directive.status = Status::Refused { why };
        directive.reload = Reload::Restart;
        directive
    }

    pub(super) const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    pub(super) const fn deprecated(mut self, instead: &'static str) -> Self {
        self.status = Status::Deprecated { instead };
        self
    }

    pub(super) const fn once(mut self) -> Self {
        self.repeat = Repeat::Refused;
        self
    }

    pub(super) const fn adds(mut self) -> Self {
        self.repeat = Repeat::Adds;
        self
    }

    pub(super) const fn at_restart(mut self) -> Self {
        self.reload = Reload::Restart;
        self
    }

    pub(super) const fn text(mut self, text: &'static str) -> Self {
        self.text = text;
        self
    }

    /// Whether `name` in a file means this directive.
    pub(super) fn is_named(&self, name: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == self.name,
        }
    }

    /// The scope in one word, for the manual.
    pub fn scope_name(&self) -> &'static str {
        match self.scope {
            Scope::Security(_) => "global, or listener with per_listener_settings",
            Scope::Listener(_) | Scope::OwnListener(_) | Scope::Nowhere(Place::Listener) => {
                "listener"
            }
            Scope::BeginsBridge | Scope::Bridge(_) | Scope::Nowhere(Place::Bridge) => "bridge",
            Scope::Plugin => "plugin",
            Scope::Global(_)
            | Scope::Structure(_)
            | Scope::Include
            | Scope::Nothing
            | Scope::Nowhere(Place::Broker) => "global",
        }
    }

    /// The numbers it takes, if it takes one.
    pub fn range(&self) -> Option<(i64, i64)> {
        match &self.scope {
            Scope::Global(value) => value.range(),
            Scope::Security(value) => value.range(),
            Scope::Listener(value) | Scope::OwnListener(value) => value.range(),
            Scope::Bridge(value) => value.range(),
            _ => None,
        }
    }
}
