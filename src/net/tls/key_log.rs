//! `--tls-keylog`: the secrets of every TLS connection in a file, for somebody who debugs with a packet
//! analyser.

#![forbid(unsafe_code)]

use rustls::KeyLog;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

/// A file in the format of `SSLKEYLOGFILE`.
#[derive(Debug)]
pub struct KeyLogFile {
    file: Mutex<File>,
}

impl KeyLogFile {
    /// Opens or makes the file, which only its owner may read. A symbolic link is not followed.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        use std::os::unix::fs::PermissionsExt;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            let said = "others than its owner may read it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, said));
        }
        Ok(Self {
            file: Mutex::new(file),
        })
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        for (bytes, end) in [(client_random, ' '), (secret, '\n')] {
            for byte in bytes {
                // Writing to a string does not fail.
                let _ = write!(line, "{byte:02x}");
            }
            line.push(end);
        }
        if let Ok(mut file) = self.file.lock() {
            // A full disk must not end connections that somebody debugs.
            let _ = file.write_all(line.as_bytes());
        }
    }
}
