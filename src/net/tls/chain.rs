//! What a listener sends behind its own certificate where `certfile` holds no other: the certificates that lead from
//! it to an authority that clients know, as far as `cafile` and `capath` have them. OpenSSL does the same, so there
//! are configurations of Mosquitto that clients only trust because of it.

#![forbid(unsafe_code)]

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

/// Most certificates between ours and the one that clients know.
const INTERMEDIATES_MAX: usize = 8;

/// Puts behind a certificate that is alone those between it and its authority. What the operator has put there stays.
pub(super) fn complete(
    chain: &mut Vec<CertificateDer<'static>>,
    authorities: &[CertificateDer<'static>],
) {
    let [leaf] = chain.as_slice() else { return };
    let mut last = leaf.clone();
    while chain.len() <= INTERMEDIATES_MAX
        && let Some(issuer) = intermediate_above(&last, authorities)
        && !chain.contains(issuer)
    {
        chain.push(issuer.clone());
        last = issuer.clone();
    }
}

/// Who has issued `certificate`. `None` as well if that is the end: a root, which clients have or do not trust.
fn intermediate_above<'a>(
    certificate: &[u8],
    authorities: &'a [CertificateDer<'static>],
) -> Option<&'a CertificateDer<'static>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let mut newest = None;
    for der in authorities {
        let Ok((_, authority)) = X509Certificate::from_der(der) else {
            continue;
        };
        if !may_have_issued(&authority, &certificate) {
            continue;
        }
        if authority.issuer() == authority.subject() {
            return None;
        }
        let until = authority.validity().not_after.timestamp();
        if newest.is_none_or(|(other, _)| other < until) {
            newest = Some((until, der));
        }
    }
    newest.map(|(_, der)| der)
}

/// By their names and, where both say which key it was, by that.
fn may_have_issued(authority: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
    let key = certificate
        .iter_extensions()
        .find_map(|it| match it.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(it) => it.key_identifier.as_ref(),
            _ => None,
        });
    let authority_key = authority
        .iter_extensions()
        .find_map(|it| match it.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(it) => Some(it),
            _ => None,
        });
    authority.subject() == certificate.issuer()
        && key
            .zip(authority_key)
            .is_none_or(|(one, other)| one == other)
}
