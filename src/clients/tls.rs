//! TLS of the clients: whom to trust, and who to be.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};

use super::failure::Failure;
use super::settings::TlsSettings;

/// What every connection of this client uses.
///
/// # Errors
/// A file that cannot be read or holds nothing of use.
pub fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, Failure> {
    client_config_with(settings, ring::default_provider())
}

/// The same, with cipher suites that somebody has chosen.
///
/// # Errors
/// As [`client_config`].
pub fn client_config_with(
    settings: &TlsSettings,
    provider: CryptoProvider,
) -> Result<Arc<ClientConfig>, Failure> {
    let unusable = |error: &dyn std::fmt::Display| Failure::Usage(format!("TLS: {error}"));
    let provider = Arc::new(provider);
    let versions: &[&SupportedProtocolVersion] = match settings.version.as_deref() {
        Some("tlsv1.2") => &[&TLS12],
        Some("tlsv1.3") => &[&TLS13],
        _ => &[&TLS13, &TLS12],
    };
    let roots = Arc::new(roots(settings)?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| unusable(&error))?;
    let verifier: Arc<dyn ServerCertVerifier> = if settings.insecure {
        Arc::new(AnyName(verifier))
    } else {
        verifier
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| unusable(&error))?
        // It is the library's own one, or differs in the host name only.
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &settings.identity {
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key =
                PrivateKeyDer::from_pem_file(key).map_err(|error| Failure::file(key, error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| Failure::file(certificate, error))?
        }
        None => builder.with_no_client_auth(),
    };
    if let Some(protocol) = &settings.alpn {
        config.alpn_protocols.push(protocol.clone().into_bytes());
    }
    Ok(Arc::new(config))
}

fn roots(settings: &TlsSettings) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &settings.cafile {
        for certificate in certificates(file)? {
            roots
                .add(certificate)
                .map_err(|error| Failure::file(file, error))?;
        }
    }
    if let Some(folder) = &settings.capath {
        let entries = fs::read_dir(folder).map_err(|error| Failure::file(folder, error))?;
        for entry in entries {
            let path = entry.map_err(|error| Failure::file(folder, error))?.path();
            // Keys and notes may lie there too.
            if path.is_file() {
                roots.add_parsable_certificates(certificates(&path).unwrap_or_default());
            }
        }
        if roots.is_empty() {
            return Err(Failure::file(
                folder,
                "no certificate of an authority in it",
            ));
        }
    }
    if settings.use_os_certs {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let said = "this system has no certificates of authorities to trust: give --cafile";
            return Err(Failure::Usage(said.to_owned()));
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let unreadable = |error| Failure::file(path, error);
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if certificates.is_empty() {
        return Err(Failure::file(path, "no certificate in it"));
    }
    Ok(certificates)
}

/// `--insecure`: the chain is checked as ever, and only the name of the host is not.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked =
            self.0
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match checked {
            // The name is what is looked at last.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
