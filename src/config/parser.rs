//! From lines to a [`Config`].
//!
//! The rules are Mosquitto's: a directive, blanks, its value; a line that begins with `#` is a comment;
//! a listener's directives stand below its `listener` line and a bridge's below its `connection` line, in
//! the same file. Neither line ends the other: what belongs to listeners may stand below a bridge. What
//! Mosquitto ignores without a word is an error or a remark here.

#![forbid(unsafe_code)]

use super::bridge::Bridge;
use super::directive::{Directive, Repeat, Scope, Status};
use super::listener::{ListenAddress, Listener};
use super::problem::{ConfigError, Place, Problem, Remark, Severity};
use super::value::Arguments;
use super::{Config, table};
use crate::auth::without_byte_order_mark;
use crate::limits::{BRIDGES_MAX, LISTENERS_MAX};
use crate::shown::shown;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Gives the parser the files it asks for.
pub trait Files {
    /// The content of `file`.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, file: &str) -> Result<Vec<u8>, String>;

    /// The names of what is in `directory`.
    ///
    /// # Errors
    /// What the system says.
    fn names(&self, directory: &str) -> Result<Vec<String>, String>;
}

/// A configuration that is being read.
pub struct Parser<'a> {
    pub(super) config: Config,
    files: &'a dyn Files,
    is_included: bool,
    /// To which the directives that follow belong; each file begins without one.
    listener: Option<usize>,
    /// The bridge to which those of bridges belong; each file begins without one.
    bridge: Option<usize>,
    /// The one that `port`, `bind_address` and directives before any `listener` belong to.
    default_listener: Option<usize>,
    first_security: Option<(String, Place)>,
}

// `files` has nothing to show.
impl std::fmt::Debug for Parser<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parser")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

const BLANKS: [char; 2] = [' ', '\t'];
/// It is part of Client Identifiers and of a topic.
const BRIDGE_NAME_SIZE_MAX: usize = 1024;

impl<'a> Parser<'a> {
    pub(super) fn new(files: &'a dyn Files) -> Self {
        Self {
            config: Config::default(),
            files,
            is_included: false,
            listener: None,
            bridge: None,
            default_listener: None,
            first_security: None,
        }
    }

    /// Reads `file` and what it includes.
    pub(super) fn read(&mut self, file: &str) -> Result<(), ConfigError> {
        let bytes = self.files.read(file).map_err(|reason| ConfigError {
            problem: Problem::Unreadable {
                what: "config file",
                file: file.to_owned(),
                reason,
            },
            place: None,
        })?;
        let bytes = without_byte_order_mark(&bytes);
        let file: Arc<str> = file.into();
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let place = Place {
                file: file.clone(),
                line: index + 1,
            };
            self.read_line(line, &place)?;
        }
        Ok(())
    }

    fn read_line(&mut self, line: &[u8], place: &Place) -> Result<(), ConfigError> {
        let at = |problem| ConfigError {
            problem,
            place: Some(place.clone()),
        };
        // A comment may be in any encoding.
        if line.starts_with(b"#") {
            return Ok(());
        }
        let line = std::str::from_utf8(line).map_err(|_| at(Problem::Malformed))?;
        let line = line.trim_end_matches('\r').trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (name, unread) = line.split_at(line.find(BLANKS).unwrap_or(line.len()));
        let directive = table::find(name).ok_or_else(|| {
            at(Problem::Unknown {
                name: name.to_owned(),
                meant: table::similar(name),
            })
        })?;
        let mut arguments = Arguments {
            directive: directive.name,
            name,
            unread,
            place: place.clone(),
            said: Vec::new(),
        };
        if matches!(directive.scope, Scope::Include) {
            // Errors in there have a place of their own.
            return self.include(&mut arguments).map_err(|error| match error {
                Failure::Here(problem) => at(problem),
                Failure::There(error) => error,
            });
        }
        self.handle(directive, &mut arguments).map_err(at)
    }

    fn handle(
        &mut self,
        directive: &'static Directive,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Problem> {
        let name = arguments.name.to_owned();
        let value = arguments.unread.trim_matches(BLANKS).to_owned();
        match directive.status {
            Status::Supported => {}
            Status::Deprecated { instead } => self.remark(
                Severity::Notice,
                arguments,
                format!(
                    "The '{}' option is deprecated in Mosquitto. {instead}",
                    shown(&name)
                ),
            ),
            Status::NoEffect { why } => self.remark(
                Severity::Warning,
                arguments,
                format!("The '{}' option has no effect: {why}", shown(&name)),
            ),
            Status::Refused { why } => {
                return Err(Problem::Refused {
                    directive: name,
                    why,
                });
            }
        }
        let owner = match &directive.scope {
            Scope::Global(value) => {
                value.apply(&mut self.config, arguments)?;
                Owner::Broker
            }
            Scope::Security(value) => {
                if self.first_security.is_none() {
                    self.first_security = Some((name.clone(), arguments.place.clone()));
                }
                if self.config.per_listener_settings {
                    let listener = self.needed_listener(&name)?;
                    value.apply(&mut self.config.listeners[listener].security, arguments)?;
                    Owner::Listener(listener)
                } else {
                    value.apply(&mut self.config.security, arguments)?;
                    Owner::Broker
                }
            }
            Scope::Listener(value) => {
                let listener = match self.listener {
                    Some(listener) => listener,
                    None => self.default_listener(arguments)?,
                };
                self.listener = Some(listener);
                value.apply(&mut self.config.listeners[listener], arguments)?;
                Owner::Listener(listener)
            }
            Scope::OwnListener(value) => {
                let listener = self.needed_listener(&name)?;
                value.apply(&mut self.config.listeners[listener], arguments)?;
                Owner::Listener(listener)
            }
            Scope::Structure(read) => {
                read(self, arguments)?;
                Owner::Broker
            }
            Scope::BeginsBridge => Owner::Bridge(self.begin_bridge(arguments)?),
            Scope::Bridge(value) => {
                let Some(bridge) = self.bridge else {
                    return Err(Problem::NeedsBridge { directive: name });
                };
                value.apply(&mut self.config.bridges[bridge], arguments)?;
                Owner::Bridge(bridge)
            }
            // The value means nothing, so whatever it is will do.
            Scope::Nothing => {
                arguments.unread = "";
                Owner::Broker
            }
            Scope::Include | Scope::Plugin | Scope::Nowhere(_) => Owner::Broker,
        };
        for (severity, text) in std::mem::take(&mut arguments.said) {
            self.remark(severity, arguments, text);
        }
        if let Some(word) = arguments.next_word() {
            let text = format!(
                "'{}' after the value of '{}' is ignored",
                shown(word),
                shown(&name)
            );
            self.remark(Severity::Warning, arguments, text);
        }
        self.note_given(directive, arguments, owner, value)
    }

    /// Remembers where a directive was given, and decides what a second time means.
    fn note_given(
        &mut self,
        directive: &'static Directive,
        arguments: &Arguments<'_>,
        owner: Owner,
        value: String,
    ) -> Result<(), Problem> {
        let written = match owner {
            Owner::Broker => &mut self.config.written,
            Owner::Listener(listener) => &mut self.config.listeners[listener].written,
            Owner::Bridge(bridge) => &mut self.config.bridges[bridge].written,
        };
        let first = written.add(directive, value, arguments.place.clone());
        match (first, directive.repeat) {
            (Some(first), Repeat::Refused) => {
                return Err(Problem::Duplicate {
                    directive: arguments.name.to_owned(),
                    first,
                });
            }
            (Some(first), Repeat::LastCounts) => {
                let text = format!(
                    "'{}' replaces the value given at {first}",
                    shown(arguments.name)
                );
                self.remark(Severity::Notice, arguments, text);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn remark(&mut self, severity: Severity, arguments: &Arguments<'_>, text: String) {
        self.config.remarks.push(Remark {
            severity,
            place: Some(arguments.place.clone()),
            text,
        });
    }

    fn needed_listener(&self, directive: &str) -> Result<usize, Problem> {
        self.listener.ok_or_else(|| Problem::NeedsListener {
            directive: directive.to_owned(),
        })
    }

    fn add_listener(&mut self, listener: Listener) -> Result<usize, Problem> {
        if self.config.listeners.len() == LISTENERS_MAX {
            return Err(Problem::Contradiction(
                format!("More than {LISTENERS_MAX} listeners.").into(),
            ));
        }
        self.config.listeners.push(listener);
        Ok(self.config.listeners.len() - 1)
    }

    fn default_listener(&mut self, arguments: &Arguments<'_>) -> Result<usize, Problem> {
        if let Some(listener) = self.default_listener {
            return Ok(listener);
        }
        let text = format!(
            "Creating default listener due to '{}' option. \
             It is best practice to define a 'listener' first.",
            arguments.name
        );
        self.remark(Severity::Notice, arguments, text);
        let listener = self.add_listener(Listener {
            place: Some(arguments.place.clone()),
            ..Listener::default()
        })?;
        self.default_listener = Some(listener);
        Ok(listener)
    }

    /// `listener PORT [ADDRESS | PATH]`
    pub(super) fn begin_listener(&mut self, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
        let port = arguments.integer()?;
        let Ok(port) = u16::try_from(port) else {
            return Err(Problem::Invalid {
                directive: "port".to_owned(),
                value: port.to_string(),
                expected: "it must be from 0 to 65535".into(),
            });
        };
        let address = arguments.next_word();
        if address.is_some_and(|address| address.chars().any(char::is_control)) {
            return Err(
                arguments.invalid(address.unwrap_or_default(), "it holds a control character")
            );
        }
        let address = match (port, address) {
            (0, None) => {
                return Err(Problem::Contradiction(
                    "A listener with port 0 must provide a Unix socket path.".into(),
                ));
            }
            // Nobody calls a unix socket so; it means the port that the system chooses.
            (0, Some(path)) if path.parse::<IpAddr>().is_err() => {
                ListenAddress::Unix(PathBuf::from(path))
            }
            (port, host) => ListenAddress::Tcp {
                host: host.map(str::to_owned),
                port,
            },
        };
        let is_chosen_by_system = matches!(address, ListenAddress::Tcp { port: 0, .. });
        let same = |other: &&Listener| other.address == address && !is_chosen_by_system;
        if let Some(other) = self.config.listeners.iter().find(same) {
            let text = shown(&address.to_string());
            let text = match &other.place {
                Some(place) => format!("There is a listener {text} already, at {place}."),
                None => format!("There is a listener {text} already."),
            };
            return Err(Problem::Contradiction(text.into()));
        }
        let listener = self.add_listener(Listener {
            place: Some(arguments.place.clone()),
            address,
            ..Listener::default()
        })?;
        self.listener = Some(listener);
        self.config.is_local_only = false;
        Ok(())
    }

    /// `connection NAME`
    fn begin_bridge(&mut self, arguments: &mut Arguments<'_>) -> Result<usize, Problem> {
        let name = arguments.word()?;
        if name.len() > BRIDGE_NAME_SIZE_MAX || name.chars().any(char::is_control) {
            let expected =
                format!("a name has {BRIDGE_NAME_SIZE_MAX} bytes at most and no control character");
            return Err(arguments.invalid(name, expected));
        }
        if let Some(other) = self.config.bridges.iter().find(|it| it.name == name) {
            let text = format!(
                "There is a bridge '{}' already, at {}.",
                shown(name),
                other.place
            );
            return Err(Problem::Contradiction(text.into()));
        }
        if self.config.bridges.len() == BRIDGES_MAX {
            return Err(Problem::Contradiction(
                format!("More than {BRIDGES_MAX} bridges.").into(),
            ));
        }
        let bridge = Bridge::new(name.to_owned(), arguments.place.clone());
        self.config.bridges.push(bridge);
        let bridge = self.config.bridges.len() - 1;
        self.bridge = Some(bridge);
        Ok(bridge)
    }

    /// `port PORT`
    pub(super) fn set_default_port(
        &mut self,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Problem> {
        let port = arguments.integer()?;
        let Some(port) = u16::try_from(port).ok().filter(|&port| port != 0) else {
            return Err(arguments.invalid(port, "it must be from 1 to 65535"));
        };
        let listener = self.default_listener(arguments)?;
        self.listener = Some(listener);
        self.config.is_local_only = false;
        if let ListenAddress::Tcp { port: old, .. } = &mut self.config.listeners[listener].address {
            *old = port;
        }
        Ok(())
    }

    /// `bind_address ADDRESS`
    pub(super) fn set_default_host(
        &mut self,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Problem> {
        let host = arguments.rest()?.to_owned();
        let listener = self.default_listener(arguments)?;
        self.listener = Some(listener);
        self.config.is_local_only = false;
        if let ListenAddress::Tcp { host: old, .. } = &mut self.config.listeners[listener].address {
            *old = Some(host);
        }
        Ok(())
    }

    /// `per_listener_settings true|false`
    pub(super) fn set_per_listener(
        &mut self,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Problem> {
        let per_listener = arguments.boolean()?;
        if self.config.per_listener_settings && !per_listener {
            let text = "per_listener_settings was set to true before and stays so".to_owned();
            self.remark(Severity::Warning, arguments, text);
        } else if per_listener && !self.config.per_listener_settings {
            if let Some((directive, first)) = &self.first_security {
                return Err(Problem::TooLate {
                    directive: directive.clone(),
                    first: first.clone(),
                });
            }
            self.config.per_listener_settings = true;
        }
        Ok(())
    }

    /// `include_dir DIRECTORY`
    fn include(&mut self, arguments: &mut Arguments<'_>) -> Result<(), Failure> {
        if self.is_included {
            return Err(Failure::Here(Problem::NestedInclude));
        }
        let directory = arguments.rest().map_err(Failure::Here)?.to_owned();
        let names = self.files.names(&directory).map_err(|reason| {
            Failure::Here(Problem::Unreadable {
                what: "include_dir",
                file: directory.clone(),
                reason,
            })
        })?;
        let mut names: Vec<String> = names
            .into_iter()
            .filter(|name| name.len() > ".conf".len() && name.ends_with(".conf"))
            .collect();
        names.sort_by(|a, b| load_order(a).cmp(load_order(b)));
        let listener = self.listener.take();
        let bridge = self.bridge.take();
        self.is_included = true;
        for name in names {
            let file = format!("{}/{name}", directory.trim_end_matches('/'));
            self.remark(
                Severity::Information,
                arguments,
                format!("Loading config file '{}'", shown(&file)),
            );
            self.read(&file).map_err(Failure::There)?;
            self.listener = None;
            self.bridge = None;
        }
        self.is_included = false;
        self.listener = listener;
        self.bridge = bridge;
        Ok(())
    }

    /// Ends the reading: what can only be said of all lines together.
    pub(super) fn finish(mut self) -> Result<Config, ConfigError> {
        super::check::check(&mut self.config)?;
        Ok(self.config)
    }
}

/// Whose directive it is.
#[derive(Clone, Copy)]
enum Owner {
    Broker,
    /// The place among the listeners.
    Listener(usize),
    /// The place among the bridges.
    Bridge(usize),
}

enum Failure {
    Here(Problem),
    There(ConfigError),
}

/// Alphabetical; a letter's upper case comes before its lower case.
fn load_order(name: &str) -> impl Iterator<Item = (u8, u8)> {
    name.bytes().map(|byte| (byte.to_ascii_uppercase(), byte))
}
