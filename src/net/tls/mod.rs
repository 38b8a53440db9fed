//! What a listener's TLS is set to: files, versions, ciphers, who has to show a certificate.
//!
//! [`Prepared`] is one consistent reading of it. A listener's [`TlsAcceptor`] holds the one in force and
//! takes another when the operator says so: connections that are there stay as they are.

#![forbid(unsafe_code)]

mod chain;
mod ciphers;
mod key_log;
#[cfg(all(test, not(loom)))]
pub(crate) mod tests;
mod verifier;

pub use ciphers::CipherError;
pub use key_log::KeyLogFile;

use rustls::crypto::ring::Ticketer;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, SupportedProtocolVersion};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TlsVersion {
    /// 1.2, and newer ones.
    #[default]
    V12,
    /// 1.3.
    V13,
}

impl From<crate::config::TlsVersion> for TlsVersion {
    fn from(version: crate::config::TlsVersion) -> Self {
        match version {
            crate::config::TlsVersion::V12 => Self::V12,
            crate::config::TlsVersion::V13 => Self::V13,
        }
    }
}

/// What an operator says of a listener's TLS. Names are those of the directives.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Certificates that a client's certificate may lead to, and the listener's own does.
    pub cafile: Option<PathBuf>,
    /// A folder of such, as `openssl rehash` leaves it.
    pub capath: Option<PathBuf>,
    /// The listener's certificate, and what leads from it to one that clients know.
    pub certfile: PathBuf,
    /// Its key.
    pub keyfile: PathBuf,
    /// Client certificates that are not valid any more.
    pub crlfile: Option<PathBuf>,
    /// Oldest version.
    pub tls_version: TlsVersion,
    /// Suites of TLS 1.2 as OpenSSL names them.
    pub ciphers: Option<String>,
    /// Suites of TLS 1.3.
    pub ciphers_tls13: Option<String>,
    /// Whether clients must show a certificate.
    pub require_certificate: bool,
    /// Whether it may have expired, or not have begun.
    pub disable_client_cert_date_checks: bool,
    /// Application protocol that is agreed on when a client offers it; one that offers others, or none,
    /// is served all the same.
    pub protocol: &'static str,
    /// Where secrets are written.
    pub key_log: Option<Arc<KeyLogFile>>,
}

/// The settings cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum TlsSettingsError {
    /// A file cannot be read, or does not hold what it should.
    #[error("{directive} {}: {reason}", path.display())]
    File {
        /// The directive that names it.
        directive: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A list of ciphers makes no sense.
    #[error("{directive}: {source}")]
    Ciphers {
        /// The directive.
        directive: &'static str,
        /// What is wrong with it.
        source: CipherError,
    },
    /// Clients must show certificates and nothing says which are good.
    #[error("require_certificate needs a cafile or capath to check certificates by")]
    NoAuthority,
    /// The library refuses the combination.
    #[error("TLS: {0}")]
    Refused(#[from] rustls::Error),
}

impl TlsSettingsError {
    /// The directive that is to be changed.
    #[must_use]
    pub fn directive(&self) -> &'static str {
        match self {
            Self::File { directive, .. } | Self::Ciphers { directive, .. } => directive,
            Self::NoAuthority => "require_certificate",
            Self::Refused(_) => "certfile",
        }
    }
}

/// One reading of the settings and of the files they name. Clones share it.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// For clients that offer the application protocol.
    with_protocol: Arc<ServerConfig>,
    /// For all others.
    without: Arc<ServerConfig>,
    warnings: Vec<String>,
}

impl Prepared {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsSettingsError`], which names directive and file.
    pub fn load(settings: &TlsSettings) -> Result<Self, TlsSettingsError> {
        let mut warnings = Vec::new();
        let lists = CipherLists {
            older: ("ciphers", settings.ciphers.as_deref()),
            newer: ("ciphers_tls1.3", settings.ciphers_tls13.as_deref()),
            tls_version: settings.tls_version,
        };
        let provider = Arc::new(provider(lists, &mut warnings)?);
        let versions: &[&SupportedProtocolVersion] = match settings.tls_version {
            TlsVersion::V12 => &[&TLS12, &TLS13],
            TlsVersion::V13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?;
        // Whether they are wanted or not: a file that cannot be read is a mistake.
        let (roots, authorities) = authorities(settings)?;
        let builder = match client_verifier(settings, roots, &provider)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let key = Arc::new(SingleCertAndKey::from(certified_key(
            settings,
            &authorities,
            &provider,
        )?));
        let mut config = builder.with_cert_resolver(key);
        // As Mosquitto: the operator's list is in the operator's order.
        config.ignore_client_order = true;
        if settings.require_certificate {
            // A resumed session would outlive the certificate that it was begun with.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            // Any shard can resume what another has begun, and nothing is kept for it here.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.ticketer = Ticketer::new()?;
            config.send_tls13_tickets = 1;
        }
        if let Some(key_log) = &settings.key_log {
            config.key_log = key_log.clone();
        }
        let without = Arc::new(config.clone());
        config.alpn_protocols = vec![settings.protocol.into()];
        Ok(Self {
            with_protocol: Arc::new(config),
            without,
            warnings,
        })
    }

    /// What the operator should know about settings that are in force only in part.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The configuration for a client that offers these application protocols.
    ///
    /// rustls ends a connection that offers only others. OpenSSL does not unless told to, and clients
    /// that work with Mosquitto must work here.
    pub(super) fn config_for<'a>(
        &self,
        offered: Option<impl Iterator<Item = &'a [u8]>>,
    ) -> Arc<ServerConfig> {
        let ours = &self.with_protocol.alpn_protocols;
        let is_offered = offered.is_some_and(|mut offered| {
            offered.any(|theirs| ours.iter().any(|ours| ours.as_slice() == theirs))
        });
        if is_offered {
            self.with_protocol.clone()
        } else {
            self.without.clone()
        }
    }
}

/// The settings in force on one listener. Clones share them.
#[derive(Clone, Debug)]
pub struct TlsAcceptor {
    prepared: Arc<RwLock<Arc<Prepared>>>,
}

impl TlsAcceptor {
    /// Puts the first settings in force.
    pub fn new(prepared: Prepared) -> Self {
        Self {
            prepared: Arc::new(RwLock::new(Arc::new(prepared))),
        }
    }

    /// Puts others in force, for connections that come from now on.
    pub fn install(&self, prepared: Prepared) {
        *self
            .prepared
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(prepared);
    }

    /// What is in force, once per accepted connection.
    pub(super) fn prepared(&self) -> Arc<Prepared> {
        let prepared = self.prepared.read().unwrap_or_else(PoisonError::into_inner);
        prepared.clone()
    }
}

fn file_error(
    directive: &'static str,
    path: &Path,
    reason: impl std::fmt::Display,
) -> TlsSettingsError {
    TlsSettingsError::File {
        directive,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Cipher suites as Mosquitto's directives name them.
#[derive(Clone, Copy, Debug)]
pub struct CipherLists<'a> {
    /// Of TLS 1.2, and the directive; not looked at if TLS 1.3 is the lowest version.
    pub older: (&'static str, Option<&'a str>),
    /// Of TLS 1.3, and the directive.
    pub newer: (&'static str, Option<&'a str>),
    /// The lowest version.
    pub tls_version: TlsVersion,
}

/// What encrypts with these cipher suites only. `warnings` hears which of them there are not.
///
/// # Errors
/// [`TlsSettingsError::Ciphers`] when nothing is left of a list, or a word of it means nothing.
pub fn provider(
    lists: CipherLists<'_>,
    warnings: &mut Vec<String>,
) -> Result<CryptoProvider, TlsSettingsError> {
    let mut select = |directive, result| match result {
        Ok((suites, left_out)) => {
            if !Vec::is_empty(&left_out) {
                let left_out = left_out.join(", ");
                warnings.push(format!(
                    "{directive}: not available and left out: {left_out}"
                ));
            }
            Ok(suites)
        }
        Err(source) => Err(TlsSettingsError::Ciphers { directive, source }),
    };
    let mut provider = ring::default_provider();
    let (directive, newer) = lists.newer;
    provider.cipher_suites = select(directive, ciphers::select_13(newer))?;
    if lists.tls_version == TlsVersion::V12 {
        let (directive, older) = lists.older;
        let older = select(directive, ciphers::select(older))?;
        provider.cipher_suites.extend(older);
    }
    Ok(provider)
}

fn certified_key(
    settings: &TlsSettings,
    authorities: &[CertificateDer<'static>],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsSettingsError> {
    let mut certificates = certificates("certfile", &settings.certfile)?;
    let error = |reason: &dyn std::fmt::Display| file_error("keyfile", &settings.keyfile, reason);
    let pem = fs::read(&settings.keyfile).map_err(|source| error(&source))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|source| match is_encrypted(&pem) {
        true => error(
            &"the key is encrypted, and a service cannot ask for its passphrase; \
              decrypt it with `openssl pkey -in OLD -out NEW`",
        ),
        false => error(&source),
    })?;
    if is_encrypted(&pem) {
        return Err(error(&"the key is encrypted"));
    }
    let is_p521 = has(key.secret_der(), P521);
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|source| match is_p521 {
        true => error(
            &"keys on the curve P-521 are not supported; make one on P-256 or P-384, for example with \
              `openssl ecparam -name prime256v1 -genkey -noout`, and a certificate for it",
        ),
        false => error(&source),
    })?;
    // Not rustls's own check: it refuses certificates of X.509 version 1, which a server may well have.
    let (_, leaf) = X509Certificate::from_der(&certificates[0])
        .map_err(|source| file_error("certfile", &settings.certfile, source))?;
    if key
        .public_key()
        .is_some_and(|ours| ours.as_ref() != leaf.public_key().raw)
    {
        return Err(error(&"it is not the key of the certificate in certfile"));
    }
    chain::complete(&mut certificates, authorities);
    Ok(CertifiedKey::new(certificates, key))
}

/// Whether a PEM file holds a key under a passphrase, in either of the two ways.
fn is_encrypted(pem: &[u8]) -> bool {
    has(pem, b"BEGIN ENCRYPTED PRIVATE KEY") || has(pem, b"Proc-Type: 4,ENCRYPTED")
}

/// What a key on the curve P-521 says of itself: the object identifier 1.3.132.0.35.
const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// All certificates in a file, of which there is at least one.
fn certificates(
    directive: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsSettingsError> {
    let error = |reason: &dyn std::fmt::Display| file_error(directive, path, reason);
    let pem = fs::read(path).map_err(|source| error(&source))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|source| error(&source))?;
    if certificates.is_empty() {
        return Err(error(&"no certificate in it"));
    }
    Ok(certificates)
}

fn client_verifier(
    settings: &TlsSettings,
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsSettingsError> {
    let lists = revocation_lists(settings)?;
    if !settings.require_certificate {
        return Ok(None);
    }
    if roots.is_empty() {
        return Err(TlsSettingsError::NoAuthority);
    }
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if let Some(path) = &settings.crlfile {
        // As OpenSSL does for Mosquitto: only the client's own certificate is looked up, in a list of
        // its issuer's, which must be there and not have expired.
        builder = builder
            .with_crls(lists)
            .only_check_end_entity_revocation()
            .enforce_revocation_expiration();
        let verifier = builder.build();
        return verifier
            .map(|verifier| Some(any_date(settings, verifier)))
            .map_err(|source| file_error("crlfile", path, source));
    }
    match builder.build() {
        Ok(verifier) => Ok(Some(any_date(settings, verifier))),
        Err(_) => Err(TlsSettingsError::NoAuthority),
    }
}

fn any_date(
    settings: &TlsSettings,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Arc<dyn ClientCertVerifier> {
    if settings.disable_client_cert_date_checks {
        Arc::new(verifier::AnyDate(verifier))
    } else {
        verifier
    }
}

/// The certificates of `cafile` and `capath`: as what client certificates are checked by, and as they are.
fn authorities(
    settings: &TlsSettings,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsSettingsError> {
    let mut roots = RootCertStore::empty();
    let mut authorities = Vec::new();
    let mut add = |directive, path: &Path| -> Result<(), TlsSettingsError> {
        for certificate in certificates(directive, path)? {
            let added = roots.add(certificate.clone());
            added.map_err(|source| file_error(directive, path, source))?;
            authorities.push(certificate);
        }
        Ok(())
    };
    if let Some(path) = &settings.cafile {
        add("cafile", path)?;
    }
    if let Some(folder) = &settings.capath {
        let error = |source| file_error("capath", folder, source);
        let mut found = false;
        for entry in fs::read_dir(folder).map_err(error)? {
            let entry = entry.map_err(error)?;
            // OpenSSL looks only at names that it made itself, and trusts nothing else in there.
            if is_hash_name(&entry.file_name().to_string_lossy()) {
                add("capath", &entry.path())?;
                found = true;
            }
        }
        if !found {
            let said = "no certificate in it; has `openssl rehash` been run?";
            return Err(file_error("capath", folder, said));
        }
    }
    Ok((roots, authorities))
}

/// Eight hexadecimal digits, a dot and a number.
fn is_hash_name(name: &str) -> bool {
    name.split_once('.').is_some_and(|(hash, number)| {
        hash.len() == 8
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn revocation_lists(
    settings: &TlsSettings,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsSettingsError> {
    let Some(path) = &settings.crlfile else {
        return Ok(Vec::new());
    };
    let error = |reason: &dyn std::fmt::Display| file_error("crlfile", path, reason);
    let pem = fs::read(path).map_err(|source| error(&source))?;
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|source| error(&source))?;
    if lists.is_empty() {
        return Err(error(&"no revocation list in it"));
    }
    Ok(lists)
}
