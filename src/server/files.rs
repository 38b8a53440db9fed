//! What the configuration names: its own files, passwords, rules, certificates, the process's number.

#![forbid(unsafe_code)]

use super::{Failure, name_of};
use crate::admin::{Token, parse_token};
use crate::auth::{Acl, PasswordFile, Security};
use crate::bridge::PreparedBridge;
use crate::config::{
    Bridge, Config, ConfigError, FileReference, Files, Listener, Place, Problem, Protocol,
};
use crate::net::tls::{KeyLogFile, Prepared, TlsAcceptor, TlsSettings};
use crate::shown::shown;
use rustix::fs::{Access, access};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file system, for the parser.
#[derive(Debug)]
pub(super) struct Disk;

impl Files for Disk {
    fn read(&self, file: &str) -> Result<Vec<u8>, String> {
        fs::read(file).map_err(|error| reason(&error))
    }

    fn names(&self, directory: &str) -> Result<Vec<String>, String> {
        let entries = fs::read_dir(directory).map_err(|error| reason(&error))?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| reason(&error))?.file_name();
            match name.into_string() {
                Ok(name) => names.push(name),
                // Its directives must not be missed in silence.
                Err(name) if name.as_encoded_bytes().ends_with(b".conf") => {
                    return Err(format!("the name of a file in it is no UTF-8: {name:?}"));
                }
                Err(_) => {}
            }
        }
        Ok(names)
    }
}

/// What the system says, without the number that Rust adds.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

fn unreadable(file: &FileReference, error: &std::io::Error) -> ConfigError {
    ConfigError {
        problem: Problem::Unreadable {
            what: file.directive,
            file: file.path.display().to_string(),
            reason: reason(error),
        },
        place: Some(file.place.clone()),
    }
}

/// Whoever opens a FIFO waits for somebody at its other end, for ever if nobody comes; and what that or a device has said
/// at the start it does not say again at a reload. A link to a file is one.
fn check_is_file(file: &FileReference) -> Result<(), ConfigError> {
    // What is not there, or is a directory, reading has words for.
    let Ok(metadata) = fs::metadata(&file.path) else {
        return Ok(());
    };
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(());
    }
    let kind = if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(ConfigError {
        problem: Problem::Unreadable {
            what: file.directive,
            file: file.path.display().to_string(),
            reason: format!("it is {kind} and must be a regular file, or a link to one"),
        },
        place: Some(file.place.clone()),
    })
}

fn read(file: &FileReference) -> Result<Vec<u8>, ConfigError> {
    check_is_file(file)?;
    fs::read(&file.path).map_err(|error| unreadable(file, &error))
}

/// Reads the files of the bridges.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub(super) fn bridges(
    config: &Config,
    warnings: &mut Vec<String>,
) -> Result<Vec<PreparedBridge>, Failure> {
    let mut prepared = Vec::new();
    for bridge in &config.bridges {
        if let Some(tls) = &bridge.tls {
            let files = [&tls.cafile, &tls.certfile, &tls.keyfile];
            files.into_iter().flatten().try_for_each(check_is_file)?;
        }
        let name = shown(&bridge.name);
        prepared.push(
            PreparedBridge::new(bridge, warnings).map_err(|error| ConfigError {
                problem: Problem::Contradiction(format!("bridge {name}: {error}.").into()),
                place: Some(bridge_place(bridge, &error).clone()),
            })?,
        );
    }
    Ok(prepared)
}

/// The line of a bridge's directive whose file or value `error` begins with.
fn bridge_place<'a>(bridge: &'a Bridge, error: &str) -> &'a Place {
    let files = bridge.tls.iter().flat_map(|tls| {
        let files = [&tls.cafile, &tls.capath, &tls.certfile, &tls.keyfile];
        files.into_iter().flatten()
    });
    // Of two that begin alike the longer one is meant.
    let named = files.filter(|file| error.starts_with(&*file.path.to_string_lossy()));
    if let Some(file) = named.max_by_key(|file| file.path.as_os_str().len()) {
        return &file.place;
    }
    let directive = error.split(':').next().unwrap_or_default();
    bridge.place_of(directive)
}

/// What keeps strangers out, read completely: passwords, rules, certificates, the admin port's token.
#[derive(Debug)]
pub(super) struct Guards {
    securities: Vec<Option<Arc<Security>>>,
    /// One for each listener.
    prepared: Vec<Option<Prepared>>,
    admin_token: Token,
    warnings: Vec<String>,
}

impl Guards {
    /// Reads all of it.
    ///
    /// # Errors
    /// The first thing that is wrong, with its file and line, or directive.
    pub(super) fn load(
        config: &Config,
        key_log: Option<Arc<KeyLogFile>>,
        before: &[Option<Arc<Security>>],
    ) -> Result<Self, Failure> {
        let mut warnings = Vec::new();
        // Listeners share what they share, so that a file is read and held once.
        let mut read: HashMap<(Option<&Path>, Option<&Path>), Arc<Security>> = HashMap::new();
        let mut securities = Vec::new();
        let mut prepared = Vec::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            if listener.is_closed && config.per_listener_settings {
                // Its files may be gone like itself; its connections go by what was read before.
                securities.push(before.get(index).cloned().flatten());
                prepared.push(None);
                continue;
            }
            let files = config.security_files(listener);
            securities.push(if files.is_empty() {
                None
            } else {
                let key = (
                    files.password_file.map(|file| file.path.as_path()),
                    files.acl_file.map(|file| file.path.as_path()),
                );
                Some(match read.get(&key) {
                    Some(security) => security.clone(),
                    None => {
                        let new = Security {
                            passwords: files
                                .password_file
                                .map(|file| passwords(file, &mut warnings))
                                .transpose()?,
                            acl: files
                                .acl_file
                                .map(|file| acl(file, &mut warnings))
                                .transpose()?,
                        };
                        // What says the same stays: shards need not ask about anybody again.
                        let same = before.iter().flatten().find(|old| ***old == new);
                        let security = same.map_or_else(|| Arc::new(new), Arc::clone);
                        read.insert(key, security.clone());
                        security
                    }
                })
            });
            let has_tls = listener.has_tls() && !listener.is_closed;
            let settings = has_tls.then(|| tls_settings(listener, &key_log));
            prepared.push(match settings {
                Some(settings) => {
                    let tls = &listener.tls;
                    let files = [&tls.cafile, &tls.certfile, &tls.keyfile, &tls.crlfile];
                    files.into_iter().flatten().try_for_each(check_is_file)?;
                    let prepared = Prepared::load(&settings).map_err(|error| ConfigError {
                        problem: Problem::Contradiction(
                            format!("{}: {error}.", name_of(listener)).into(),
                        ),
                        place: listener.place_of(error.directive()).cloned(),
                    })?;
                    warnings.extend_from_slice(prepared.warnings());
                    Some(prepared)
                }
                None => None,
            });
        }
        Ok(Self {
            securities,
            prepared,
            admin_token: config
                .admin
                .token_file
                .as_ref()
                .map(admin_token)
                .transpose()?,
            warnings,
        })
    }

    /// Passwords and rules of each listener.
    pub(super) fn securities(&self) -> &[Option<Arc<Security>>] {
        &self.securities
    }

    /// For what else is.
    pub(super) const fn warnings_mut(&mut self) -> &mut Vec<String> {
        &mut self.warnings
    }

    /// What is legal but hardly meant.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What the admin port demands.
    pub(super) fn admin_token(&self) -> Token {
        self.admin_token.clone()
    }

    /// TLS of each listener that is to have it: that of `before`, with what it has until
    /// [`Guards::install`], or where there was none a new one.
    pub(super) fn acceptors(&self, before: &[Option<TlsAcceptor>]) -> Vec<Option<TlsAcceptor>> {
        let prepared = self.prepared.iter().enumerate();
        prepared
            .map(|(index, prepared)| {
                let prepared = prepared.as_ref()?;
                let before = before.get(index).cloned().flatten();
                Some(before.unwrap_or_else(|| TlsAcceptor::new(prepared.clone())))
            })
            .collect()
    }

    /// Puts TLS in force for connections that come from now on.
    pub(super) fn install(&self, acceptors: &[Option<TlsAcceptor>]) {
        for (acceptor, prepared) in acceptors.iter().zip(&self.prepared) {
            if let (Some(acceptor), Some(prepared)) = (acceptor, prepared) {
                acceptor.install(prepared.clone());
            }
        }
    }
}

fn passwords(file: &FileReference, warnings: &mut Vec<String>) -> Result<PasswordFile, Failure> {
    let text = read(file)?;
    let name = file.path.display().to_string();
    let passwords = PasswordFile::parse(&name, &text).map_err(|error| named(file, &error))?;
    warnings.extend(passwords.warnings().iter().map(|it| warning(&name, it)));
    if is_readable_by_everybody(&file.path) {
        warnings.push(format!(
            "everybody can read {name}. To change that: chmod o= {name}"
        ));
    }
    Ok(passwords)
}

fn acl(file: &FileReference, warnings: &mut Vec<String>) -> Result<Acl, Failure> {
    let text = read(file)?;
    let name = file.path.display().to_string();
    let acl = Acl::parse(&name, &text).map_err(|error| named(file, &error))?;
    warnings.extend(acl.warnings().iter().map(|it| warning(&name, it)));
    Ok(acl)
}

fn warning(file: &str, warning: &crate::auth::Warning) -> String {
    format!("{file}:{}: {}", warning.line, warning.text)
}

/// An error of a file, and where the configuration names that file.
fn named(file: &FileReference, error: &crate::auth::FileError) -> Failure {
    Failure::configuration(format!("Error: {error}.\nError found at {}.", file.place))
}

fn is_readable_by_everybody(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|it| it.permissions().mode() & 0o004 != 0)
}

fn admin_token(file: &FileReference) -> Result<Box<str>, Failure> {
    check_is_file(file)?;
    let text = fs::read_to_string(&file.path).map_err(|error| unreadable(file, &error))?;
    parse_token(&text).map_err(|error| {
        let path = file.path.display();
        Failure::configuration(format!(
            "Error: {path} holds no token: {error}.\nError found at {} ({}).",
            file.place, file.directive
        ))
    })
}

fn tls_settings(listener: &Listener, key_log: &Option<Arc<KeyLogFile>>) -> TlsSettings {
    let options = &listener.tls;
    let path = |file: &Option<FileReference>| file.as_ref().map(|file| file.path.clone());
    TlsSettings {
        cafile: path(&options.cafile),
        capath: path(&options.capath),
        certfile: path(&options.certfile).unwrap_or_default(),
        keyfile: path(&options.keyfile).unwrap_or_default(),
        crlfile: path(&options.crlfile),
        tls_version: options.version_min.into(),
        ciphers: options.ciphers.clone(),
        ciphers_tls13: options.ciphers_tls13.clone(),
        require_certificate: options.require_certificate,
        disable_client_cert_date_checks: options.disable_client_cert_date_checks,
        protocol: match listener.protocol {
            Protocol::Mqtt => "mqtt",
            Protocol::Websockets => "http/1.1",
        },
        key_log: key_log.clone(),
    }
}

/// Whether a file could be written, or made if it is not there.
pub(super) fn may_be_written(file: &Path) -> std::io::Result<()> {
    match fs::metadata(file) {
        Ok(metadata) if metadata.is_dir() => Err(ErrorKind::IsADirectory.into()),
        Ok(_) => Ok(access(file, Access::WRITE_OK)?),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let directory = directory_of(file);
            Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
        }
        Err(error) => Err(error),
    }
}

/// The directory that a file is in.
fn directory_of(file: &Path) -> &Path {
    let parent = file.parent().filter(|it| !it.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// The file with the number of this process, removed at the end. A start that fails leaves it as it was: that of a broker
/// which runs may be the same.
#[derive(Debug)]
pub(super) struct PidFile(Option<Written>);

#[derive(Debug)]
struct Written {
    path: PathBuf,
    /// Open: who may not write to it any more can still take back what it wrote.
    file: File,
    /// What it held, until the start has succeeded.
    before: Vec<u8>,
}

impl PidFile {
    /// Writes it, if one is wanted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(reference: Option<&FileReference>) -> Result<Self, ConfigError> {
        let Some(reference) = reference else {
            return Ok(Self(None));
        };
        // It is removed at the end, too.
        check_is_file(reference)?;
        let write = || -> std::io::Result<Written> {
            let path = reference.path.clone();
            let mut options = File::options();
            let mut file = options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            let mut before = Vec::new();
            file.read_to_end(&mut before)?;
            replace(&mut file, std::process::id().to_string().as_bytes())?;
            Ok(Written { path, file, before })
        };
        let written = write().map_err(|error| unreadable(reference, &error))?;
        Ok(Self(Some(written)))
    }

    /// The start has succeeded: it is that of this process.
    pub(super) fn confirm(&mut self) {
        if let Some(written) = &mut self.0 {
            written.before.clear();
        }
    }

    /// Tells whether it could be written.
    ///
    /// # Errors
    /// When it could not.
    pub(super) fn check(file: Option<&FileReference>) -> Result<(), ConfigError> {
        let Some(file) = file else {
            return Ok(());
        };
        check_is_file(file)?;
        may_be_written(&file.path).map_err(|error| unreadable(file, &error))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(Written { path, file, before }) = &mut self.0 {
            // Who follows may have been started before this one has ended, and has put its own number there.
            let own = std::process::id().to_string();
            if fs::read_to_string(&*path).is_ok_and(|number| number == own) {
                // In a directory that only root may write to, it stays. There is nobody to tell.
                let _ = match before.is_empty() {
                    true => fs::remove_file(path),
                    false => replace(file, before),
                };
            }
        }
    }
}

fn replace(file: &mut File, content: &[u8]) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(content)
}
