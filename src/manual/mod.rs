//! What a package carries beside the programs: manual pages, completions of shells, and the example
//! configuration. All of it is made from what the programs themselves obey, so that it cannot be behind.
//!
//! Read next: `configuration.rs`, which makes fastmq.conf(5) and the example from the table of directives.

#![forbid(unsafe_code)]

mod configuration;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

/// Shells that read completions from folders of the system.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes the manual pages of `program`, one for each of its commands, and its completions to `folder`,
/// which is made if it is not there.
///
/// # Errors
/// The system's.
pub fn write(program: &Command, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    write_pages(program, folder)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut program.clone(), program.get_name(), folder)?;
    }
    Ok(())
}

/// Writes fastmq.conf(5) and the example of a configuration to `folder`.
///
/// # Errors
/// The system's.
pub fn write_configuration(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("fastmq.conf.5"), configuration::page())?;
    fs::write(folder.join("fastmq.conf"), configuration::example())
}

fn write_pages(program: &Command, folder: &Path) -> io::Result<()> {
    let mut program = program.clone().disable_help_subcommand(true);
    // So that each command knows its whole name, and has the options that all commands share.
    program.build();
    write_page(&program, folder)
}

fn write_page(command: &Command, folder: &Path) -> io::Result<()> {
    for inner in command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
    {
        write_page(inner, folder)?;
    }
    // "fastmq sub" is described in fastmq-sub(1).
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .replace(' ', "-");
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    File::create(folder.join(format!("{name}.1")))?.write_all(&page)
}

/// Prints the completions of `program` for one shell.
///
/// # Errors
/// The system's.
pub fn print_completions(program: &Command, shell: Shell) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program.clone(), program.get_name(), &mut script);
    io::stdout().write_all(&script)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::cli::Arguments;
    use clap::CommandFactory;
    use std::collections::BTreeSet;

    #[test]
    fn every_command_has_a_page_and_every_shell_its_completions() {
        let folder = std::env::temp_dir().join(format!("fastmq-manual-{}", std::process::id()));
        write(&Arguments::command(), &folder).unwrap();
        let names: BTreeSet<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        for name in [
            "fastmq.1",
            "fastmq-sub.1",
            "fastmq-pub.1",
            "fastmq-import.1",
            "fastmq.bash",
            "_fastmq",
            "fastmq.fish",
        ] {
            assert!(names.contains(name), "{name} is missing: {names:?}");
        }
        assert!(!names.contains("fastmq-manual.1"), "it is not for users");
        let page = fs::read_to_string(folder.join("fastmq-sub.1")).unwrap();
        assert!(page.contains(r"\fB\-\-retained\-only\fR"), "{page}");
        fs::remove_dir_all(folder).unwrap();
    }
}
