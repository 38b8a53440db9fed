//! Options of Mosquitto's clients that are refused, each with its reason.

#![forbid(unsafe_code)]

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::failure::Failure;

/// Which of them were given.
#[derive(Clone, Debug, Default)]
pub struct RefusedArguments(Vec<(&'static str, &'static str)>);

const NO_CHOICE: &str = "TLS is rustls here, which chooses among its own; see --tls-version";
const NO_ENGINES: &str = "TLS is rustls here, which has no engines: --key names a file";
const NO_SHARED_KEYS: &str =
    "TLS is rustls here, which has no pre-shared keys: use --cert and --key";
const REFUSED: [(&str, &str); 7] = [
    ("ciphers", NO_CHOICE),
    ("keyform", "a key is a PEM file here"),
    ("tls-engine", NO_ENGINES),
    ("tls-engine-kpass-sha1", NO_ENGINES),
    ("psk", NO_SHARED_KEYS),
    ("psk-identity", NO_SHARED_KEYS),
    ("proxy", "there is no way through a SOCKS proxy here"),
];

// Written by hand because a derived one would need a field for each.
impl Args for RefusedArguments {
    fn augment_args(command: Command) -> Command {
        command.args(REFUSED.map(|(name, _)| Arg::new(name).long(name).hide(true)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RefusedArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = REFUSED.into_iter();
        Ok(Self(
            given
                .filter(|(name, _)| matches.contains_id(name))
                .collect(),
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl RefusedArguments {
    /// Refuses what was given.
    ///
    /// # Errors
    /// [`Failure::Usage`] that names the option and says why.
    pub fn check(&self) -> Result<(), Failure> {
        match self.0.first() {
            Some((name, why)) => Err(Failure::Usage(format!("--{name} is refused: {why}"))),
            None => Ok(()),
        }
    }
}
