//! The parser through its one door: files in, a configuration or an error out.

mod bridges;
mod directives;
mod errors;
mod listeners;
mod reload;
mod robust;

use super::{Config, ConfigError, Files, Severity};
use std::collections::BTreeMap;

/// Files that exist in a test only.
#[derive(Default)]
struct Memory(BTreeMap<String, Vec<u8>>);

impl Memory {
    fn with(mut self, file: &str, content: impl AsRef<[u8]>) -> Self {
        self.0.insert(file.to_owned(), content.as_ref().to_vec());
        self
    }
}

impl Files for Memory {
    fn read(&self, file: &str) -> Result<Vec<u8>, String> {
        self.0
            .get(file)
            .cloned()
            .ok_or_else(|| "No such file or directory".to_owned())
    }

    fn names(&self, directory: &str) -> Result<Vec<String>, String> {
        let prefix = format!("{}/", directory.trim_end_matches('/'));
        let names: Vec<String> = self
            .0
            .keys()
            .filter_map(|file| file.strip_prefix(&prefix).map(str::to_owned))
            .collect();
        if names.is_empty() {
            return Err("No such file or directory".to_owned());
        }
        Ok(names)
    }
}

fn parse(text: impl AsRef<[u8]>) -> Result<Config, ConfigError> {
    Config::parse("m.conf", &Memory::default().with("m.conf", text))
}

/// A configuration that has to be right.
fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// What is said of a configuration that has to be wrong.
fn bad(text: impl AsRef<[u8]>) -> String {
    match parse(text.as_ref()) {
        Ok(_) => panic!("accepted: {}", String::from_utf8_lossy(text.as_ref())),
        Err(error) => error.to_string(),
    }
}

/// What is to be logged about a configuration, and how much it matters.
fn remarks(config: &Config, severity: Severity) -> Vec<String> {
    config
        .remarks
        .iter()
        .filter(|remark| remark.severity == severity)
        .map(ToString::to_string)
        .collect()
}
