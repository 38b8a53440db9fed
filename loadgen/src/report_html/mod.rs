//! `loadgen report RUN.json... -o report.html`: one page that shows runs beside each other.
//!
//! The page is a single file: style, charts and the little script are inside, nothing is fetched
//! (its own Content-Security-Policy forbids it), and without the script it says the same.
//! **Knows nothing of** the engine: all it reads are result files, so that a page can be made
//! anywhere and much later. Each text of a result is escaped on its way into the page.
//!
//! Read next: [`run`] (what a result file holds), [`page`] (what is said, in which order),
//! [`charts`] (what is drawn), [`svg`] (how it is drawn), [`text`] (numbers and escaping).

mod charts;
mod page;
mod run;
mod svg;
mod text;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use self::run::Run;

/// Writes one self-contained HTML page about results that `--json` wrote.
#[derive(Debug, Parser)]
#[command(name = "loadgen report", bin_name = "loadgen report")]
struct Arguments {
    /// Result files; each may hold several results, one after the other.
    #[arg(required = true, value_name = "RUN.json")]
    runs: Vec<PathBuf>,
    /// The page to write; `-` for standard output.
    #[arg(short, long, value_name = "report.html")]
    output: PathBuf,
}

/// Why there is no page. Exit status 2, and an earlier page stays as it was.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error("{}: cannot be read: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: not a loadgen result: {reason}", .path.display())]
    NotAResult { path: PathBuf, reason: String },
    #[error("{}: a result of schema {found}, and this loadgen reads schema {}", .path.display(), run::SCHEMA)]
    Schema { path: PathBuf, found: String },
    #[error("{}: is a result to read and the page to write", .0.display())]
    WouldOverwrite(PathBuf),
    #[error("{}: the page cannot be written: {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Does the work of `loadgen report`; `None` when the command line asks for something else.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    if words.next()? != "report" {
        return None;
    }
    let arguments =
        Arguments::parse_from(std::iter::once(OsString::from("loadgen report")).chain(words));
    Some(match write_report(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::from(2)
        }
    })
}

fn write_report(arguments: &Arguments) -> Result<(), ReportError> {
    // The same file may have several names.
    let place = |path: &Path| {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some((metadata.dev(), metadata.ino()))
    };
    let page_place = place(&arguments.output);
    if let Some(path) = arguments.runs.iter().find(|path| {
        **path == arguments.output || page_place.is_some_and(|page| place(path) == Some(page))
    }) {
        return Err(ReportError::WouldOverwrite(path.clone()));
    }
    let mut runs = Vec::new();
    for path in &arguments.runs {
        runs.extend(run::read(path)?);
    }
    name_runs(&mut runs);
    let page = page::render(&runs);
    let written = if arguments.output == Path::new("-") {
        io::stdout().lock().write_all(page.as_bytes())
    } else {
        fs::write(&arguments.output, page)
    };
    written.map_err(|source| ReportError::Write {
        path: arguments.output.clone(),
        source,
    })
}

/// A run is called by its file's name, or by as much of the path as tells it from the others.
fn name_runs(runs: &mut [Run]) {
    for run in &mut *runs {
        run.name = run.path.file_stem().map_or_else(
            || run.path.display().to_string(),
            |stem| stem.to_string_lossy().into_owned(),
        );
    }
    let ambiguous: Vec<bool> = runs
        .iter()
        .map(|run| {
            let same_name = |other: &&Run| other.name == run.name && other.path != run.path;
            runs.iter().any(|other| same_name(&other))
        })
        .collect();
    for (run, ambiguous) in runs.iter_mut().zip(ambiguous) {
        if ambiguous {
            run.name = run.path.display().to_string();
        }
        if run.of_several_in_file {
            run.name.push_str(&format!(" #{}", run.index_in_file + 1));
        }
    }
}
