//! Asking for a new password: twice, and not shown while it is typed.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, IsTerminal, Write};

use super::Failure;

/// A password from whoever sits there, or from a pipe: two lines that are the same.
pub(super) fn new_password() -> Result<Vec<u8>, Failure> {
    let first = ask("Password: ")?;
    if first.is_empty() {
        return Err(Failure::EmptyPassword);
    }
    let second = ask("Reenter password: ")?;
    if second.is_empty() {
        return Err(Failure::EmptyPassword);
    }
    if first == second {
        Ok(first)
    } else {
        Err(Failure::Mismatch)
    }
}

fn ask(prompt: &str) -> Result<Vec<u8>, Failure> {
    if io::stdin().is_terminal() {
        let password = rpassword::prompt_password(prompt).map_err(Failure::Prompt)?;
        return Ok(password.into_bytes());
    }
    let mut out = io::stdout();
    // Nothing is lost if nobody sees it.
    let _ = out.write_all(prompt.as_bytes()).and_then(|()| out.flush());
    let mut line = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut line);
    let _ = writeln!(out);
    read.map_err(Failure::Prompt)?;
    while line
        .last()
        .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
    {
        line.pop();
    }
    Ok(line)
}
