//! The names in a certificate, written as operators know them from Mosquitto's user names.

#![forbid(unsafe_code)]

use crate::origin::CertificateIdentity;
use std::fmt::Write;
use x509_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};
use x509_parser::x509::AttributeTypeAndValue;

/// Short names of what may be in a subject, as OpenSSL prints them. Anything else is printed by its
/// number, and its value as the hexadecimal of its DER.
const SHORT_NAMES: [(&str, &str); 31] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.16", "postalAddress"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.18", "postOfficeBox"),
    ("2.5.4.20", "telephoneNumber"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.45", "x500UniqueIdentifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.97", "organizationIdentifier"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.3", "mail"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC"),
];

/// The names in the certificate `der`. `None` if it is none.
pub(super) fn of(der: &[u8]) -> Option<CertificateIdentity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().next();
    Some(CertificateIdentity {
        common_name: common_name.and_then(|name| {
            let text = text(name.attr_value())?;
            // A name that looks shorter to one reader than to another is nobody's name.
            (!text.contains('\0')).then_some(text)
        }),
        subject: rfc2253(subject),
    })
}

/// A name as RFC 2253 writes it: last part first, separated by commas, everything beyond ASCII
/// escaped.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        let mut separator = if out.is_empty() { "" } else { "," };
        let attributes: Vec<_> = part.iter().collect();
        for attribute in attributes.into_iter().rev() {
            out.push_str(separator);
            separator = "+";
            write_attribute(attribute, &mut out);
        }
    }
    out
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, out: &mut String) {
    let identifier = attribute.attr_type().to_id_string();
    let known = SHORT_NAMES.iter().find(|(id, _)| *id == identifier);
    out.push_str(known.map_or(&identifier, |(_, short)| short));
    out.push('=');
    match text(attribute.attr_value()).filter(|_| known.is_some()) {
        Some(text) => write_escaped(&text, out),
        None => {
            out.push('#');
            // What was parsed can be written again.
            let der = attribute.attr_value().to_der_vec().unwrap_or_default();
            write_hex(&der, "", out);
        }
    }
}

/// The characters of a value that has any.
fn text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String => std::str::from_utf8(value.data).ok().map(str::to_owned),
        // One byte each, as OpenSSL reads them.
        Tag::PrintableString
        | Tag::NumericString
        | Tag::Ia5String
        | Tag::TeletexString
        | Tag::VisibleString => Some(value.data.iter().copied().map(char::from).collect()),
        Tag::BmpString => characters(value.data, |unit: [u8; 2]| u16::from_be_bytes(unit).into()),
        Tag::UniversalString => characters(value.data, u32::from_be_bytes),
        _ => None,
    }
}

fn characters<const SIZE: usize>(data: &[u8], read: impl Fn([u8; SIZE]) -> u32) -> Option<String> {
    let (units, rest) = data.as_chunks::<SIZE>();
    let text = units.iter().map(|&unit| char::from_u32(read(unit)));
    rest.is_empty().then(|| text.collect()).flatten()
}

fn write_escaped(text: &str, out: &mut String) {
    let last = text.chars().count().saturating_sub(1);
    for (index, character) in text.chars().enumerate() {
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.extend(['\\', character]),
            '#' if index == 0 => out.push_str("\\#"),
            ' ' if index == 0 || index == last => out.push_str("\\ "),
            ' '..='~' => out.push(character),
            _ => write_hex(character.encode_utf8(&mut [0; 4]).as_bytes(), "\\", out),
        }
    }
}

fn write_hex(bytes: &[u8], before_each: &str, out: &mut String) {
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(out, "{before_each}{byte:02X}");
    }
}
