//! What `http_dir` serves: a copy of the folder in memory.
//!
//! A shard never reads a file, and a request can only name what is in the copy: there is no path to
//! climb out of. Changed files are served after a reload.

#![forbid(unsafe_code)]

use bytes::Bytes;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files that are copied; a folder with more is refused.
const FILES_MAX: usize = 10_000;
/// Bytes of all of them together.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Folders within folders.
const DEPTH_MAX: usize = 32;

/// One file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StaticFile {
    /// Its media type, by its extension.
    pub content_type: &'static str,
    /// What is in it.
    pub bytes: Bytes,
}

/// A folder as it was when it was read.
#[derive(Clone, Debug, Default)]
pub struct StaticFiles {
    /// By path below the folder, with `/` in front.
    files: HashMap<String, StaticFile>,
}

/// A folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StaticFilesError {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is too much in it to be kept in memory.
    #[error(
        "{}: more than {FILES_MAX} files, {} MiB, or {DEPTH_MAX} levels of folders",
        path.display(), BYTES_MAX >> 20
    )]
    TooLarge {
        /// The folder that was asked for.
        path: PathBuf,
    },
}

impl StaticFiles {
    /// Reads all files in `folder` and in the folders in it. Links that lead out of it are left out.
    ///
    /// # Errors
    /// [`StaticFilesError`].
    pub fn load(folder: &Path) -> Result<Self, StaticFilesError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| StaticFilesError::Unreadable { path, source }
        };
        let too_large = || StaticFilesError::TooLarge {
            path: folder.to_owned(),
        };
        let root = fs::canonicalize(folder).map_err(unreadable(folder))?;
        let mut files = HashMap::new();
        let mut size = 0;
        let mut folders = vec![(root.clone(), String::from("/"), 0)];
        while let Some((path, name, depth)) = folders.pop() {
            for entry in fs::read_dir(&path).map_err(unreadable(&path))? {
                let entry = entry.map_err(unreadable(&path))?.path();
                let Some(last) = entry.file_name().and_then(|last| last.to_str()) else {
                    continue; // No request can name it.
                };
                let Some(target) = fs::canonicalize(&entry)
                    .ok()
                    .filter(|to| to.starts_with(&root))
                else {
                    continue; // A link to nothing, or out of the folder.
                };
                let metadata = fs::metadata(&target).map_err(unreadable(&entry))?;
                if metadata.is_dir() {
                    if depth == DEPTH_MAX {
                        return Err(too_large());
                    }
                    folders.push((target, format!("{name}{last}/"), depth + 1));
                } else if metadata.is_file() {
                    size += metadata.len();
                    if size > BYTES_MAX || files.len() == FILES_MAX {
                        return Err(too_large());
                    }
                    let file = StaticFile {
                        content_type: content_type(last),
                        bytes: fs::read(&target).map_err(unreadable(&entry))?.into(),
                    };
                    files.insert(format!("{name}{last}"), file);
                }
            }
        }
        Ok(Self { files })
    }

    /// The file that the target of a request names.
    pub(super) fn find(&self, target: &str) -> Option<StaticFile> {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let mut path = percent_decoded(path)?;
        if path.ends_with('/') {
            path.push_str("index.html");
        }
        self.files.get(&path).cloned()
    }
}

fn percent_decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_first_chunk::<2>()?;
            let digits = str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn content_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "wasm" => "application/wasm",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "pdf" => "application/pdf",
        _ => "application/octet-stream",
    }
}
