//! Default options from a file in the user's configuration folder, put before those of the command line.

#![forbid(unsafe_code)]

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::failure::Failure;

/// The arguments of `fastmq sub` or `fastmq pub`, with the default options before them; any other
/// arguments as they are.
///
/// # Errors
/// A file of options that is not readable.
pub fn with_defaults(arguments: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let command = match arguments.get(1).and_then(|argument| argument.to_str()) {
        Some(command @ ("sub" | "pub")) => command,
        _ => return Ok(arguments),
    };
    let given = arguments.iter().skip(2);
    let named = given
        .skip_while(|argument| argument.as_os_str() != OsStr::new("-o"))
        .nth(1);
    let path = match named {
        Some(path) => PathBuf::from(path),
        None => match usual_path(command) {
            Some(path) => path,
            None => return Ok(arguments),
        },
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // Nobody has to have one.
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
            return Ok(arguments);
        }
        Err(error) => return Err(Failure::file(&path, error)),
    };
    let options = parse(&text, &path)?;
    let mut all = arguments;
    all.splice(2..2, options.into_iter().map(OsString::from));
    Ok(all)
}

fn usual_path(command: &str) -> Option<PathBuf> {
    let folder = |variable: &str| env::var_os(variable).filter(|value| !value.is_empty());
    let configuration = match folder("XDG_CONFIG_HOME") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(folder("HOME")?).join(".config"),
    };
    Some(configuration.join(format!("fastmq_{command}")))
}

/// One option to a line; what follows it is its value, spaces and all. `#` begins a comment line.
fn parse(text: &str, path: &Path) -> Result<Vec<String>, Failure> {
    let mut options = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        if !line.starts_with('-') {
            let reason = format!("line {number}: an option begins with a hyphen");
            return Err(Failure::file(path, reason));
        }
        let (option, value) = match line.split_once(char::is_whitespace) {
            Some((option, value)) => (option, Some(value.trim_start())),
            None => (line, None),
        };
        options.push(option.to_owned());
        match (option, value) {
            // The only option with several values; the last one may hold spaces.
            ("-D" | "--property", Some(value)) => {
                let names = if value.split_whitespace().nth(1) == Some("user-property") {
                    3
                } else {
                    2
                };
                let mut rest = value;
                for _ in 0..names {
                    let Some((word, after)) = rest.split_once(char::is_whitespace) else {
                        break;
                    };
                    options.push(word.to_owned());
                    rest = after.trim_start();
                }
                options.push(rest.to_owned());
            }
            (_, Some(value)) => options.push(value.to_owned()),
            (_, None) => {}
        }
    }
    Ok(options)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn options_come_one_to_a_line() {
        let text =
            "# mine\n-h broker.example\n\n  -v\n-F %t is %p\n-D publish user-property a b c\n";
        let options = parse(text, Path::new("f")).unwrap();
        assert_eq!(
            options,
            [
                "-h",
                "broker.example",
                "-v",
                "-F",
                "%t is %p",
                "-D",
                "publish",
                "user-property",
                "a",
                "b c"
            ]
        );
    }

    #[test]
    fn a_line_that_is_no_option_is_named() {
        let error = parse("-v\nhost x\n", Path::new("f")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "f: line 2: an option begins with a hyphen"
        );
    }
}
