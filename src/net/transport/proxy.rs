//! The PROXY protocol's header, versions 1 and 2: who is at the other end of a load balancer.
//!
//! Only the version that the listener was set to is taken, since a sender that may choose could also
//! pretend. Written here rather than taken from a crate: it is one screen of rules, and the bounds,
//! the checksum and the certificate fields are what matters to a broker.

#![forbid(unsafe_code)]

use crate::origin::{CertificateIdentity, PeerAddress};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1, with its line end: from the protocol's text.
const V1_SIZE_MAX: usize = 107;
/// Longest header of version 2 that is taken. Addresses need 232 bytes at most; the rest is room for
/// the fields about TLS, the client's certificate among them.
pub const V2_SIZE_MAX: usize = 4096;
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_SIZE: usize = 16;

const TYPE_CRC32C: u8 = 0x03;
const TYPE_SSL: u8 = 0x20;
const SUBTYPE_SSL_COMMON_NAME: u8 = 0x22;
const SUBTYPE_SSL_CLIENT_CERTIFICATE: u8 = 0x28;
/// Bits of the client field of [`TYPE_SSL`].
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERTIFICATE: u8 = 0x02 | 0x04;

/// Which header a listener expects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary, with fields about TLS.
    V2,
}

/// What a header said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProxyHeader {
    /// The client, unless the proxy speaks for itself or does not know: then the socket's own peer.
    pub peer: Option<PeerAddress>,
    /// Whether the client spoke TLS to the proxy.
    pub is_tls: bool,
    /// The client's certificate, if it showed one and the proxy found it valid.
    pub certificate: Option<CertificateIdentity>,
    /// Whether it did: a proxy need not tell names.
    pub has_certificate: bool,
}

/// The connection does not begin with a header of the expected version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProxyError {
    /// Something else than a header.
    #[error("no PROXY header")]
    Missing,
    /// A header that breaks the protocol's rules.
    #[error("malformed PROXY header")]
    Malformed,
    /// A header larger than any that makes sense.
    #[error("PROXY header of more than {V2_SIZE_MAX} bytes")]
    TooLarge,
    /// UDP, or an address family that is not known.
    #[error("PROXY header for a transport other than TCP")]
    Unsupported,
    /// The checksum in it is of something else.
    #[error("PROXY header with a wrong checksum")]
    Checksum,
}

/// Reads the header at the start of `bytes` and tells its size. `None` if more bytes are needed.
///
/// # Errors
/// [`ProxyError`], as early as the bytes show it.
pub fn parse(
    version: ProxyVersion,
    bytes: &[u8],
) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    match version {
        ProxyVersion::V1 => parse_v1(bytes),
        ProxyVersion::V2 => parse_v2(bytes),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    let start = &bytes[..bytes.len().min(6)];
    if !b"PROXY ".starts_with(start) {
        return Err(ProxyError::Missing);
    }
    let window = &bytes[..bytes.len().min(V1_SIZE_MAX)];
    let Some(end) = window.windows(2).position(|two| two == b"\r\n") else {
        return if bytes.len() < V1_SIZE_MAX {
            Ok(None)
        } else {
            Err(ProxyError::Malformed)
        };
    };
    let line = std::str::from_utf8(&window[..end]).map_err(|_| ProxyError::Malformed)?;
    let mut words = line.split(' ').skip(1);
    let peer = match words.next() {
        // Whatever follows it is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(v1_addresses::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(v1_addresses::<Ipv6Addr>(words)?),
        _ => return Err(ProxyError::Malformed),
    };
    let header = ProxyHeader {
        peer: peer.map(PeerAddress::from),
        ..ProxyHeader::default()
    };
    Ok(Some((header, end + 2)))
}

/// The source of the two addresses and two ports that `words` must be.
fn v1_addresses<'a, A: std::str::FromStr + Into<IpAddr>>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<SocketAddr, ProxyError> {
    let mut next = || words.next().ok_or(ProxyError::Malformed);
    let address = |word: &str| word.parse::<A>().map_err(|_| ProxyError::Malformed);
    let port = |word: &str| match word.bytes().all(|byte| byte.is_ascii_digit()) {
        true => word.parse::<u16>().map_err(|_| ProxyError::Malformed),
        // A sign, which a number could have elsewhere.
        false => Err(ProxyError::Malformed),
    };
    let source = address(next()?)?;
    address(next()?)?;
    let source_port = port(next()?)?;
    port(next()?)?;
    match words.next() {
        None => Ok(SocketAddr::new(source.into(), source_port)),
        Some(_) => Err(ProxyError::Malformed),
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyError> {
    let start = &bytes[..bytes.len().min(V2_SIGNATURE.len())];
    if !V2_SIGNATURE.starts_with(start) {
        return Err(ProxyError::Missing);
    }
    let Some(fixed) = bytes.first_chunk::<V2_FIXED_SIZE>() else {
        return Ok(None);
    };
    let [version_and_command, family, size_high, size_low] =
        [fixed[12], fixed[13], fixed[14], fixed[15]];
    if version_and_command >> 4 != 2 {
        return Err(ProxyError::Malformed);
    }
    let size = V2_FIXED_SIZE + usize::from(u16::from_be_bytes([size_high, size_low]));
    if size > V2_SIZE_MAX {
        return Err(ProxyError::TooLarge);
    }
    let is_local = match version_and_command & 0x0F {
        0 => true,
        1 => false,
        _ => return Err(ProxyError::Malformed),
    };
    let Some(header) = bytes.get(..size) else {
        return Ok(None);
    };
    let mut rest = &header[V2_FIXED_SIZE..];
    let peer = match family {
        // The proxy speaks for itself, or of something that it has no address of; whatever follows
        // is to be ignored.
        _ if is_local => return Ok(Some((ProxyHeader::default(), size))),
        0x00 => None,
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *take(&mut rest)?;
            let address = Ipv4Addr::new(a, b, c, d);
            let port = u16::from_be_bytes([high, low]);
            Some(PeerAddress::Ip(address.into(), port))
        }
        0x21 => {
            let source = *take::<16>(&mut rest)?;
            take::<16>(&mut rest)?;
            let [high, low, _, _] = *take(&mut rest)?;
            let port = u16::from_be_bytes([high, low]);
            let address = Ipv6Addr::from(source);
            Some(PeerAddress::Ip(address.into(), port))
        }
        0x31 => {
            take::<216>(&mut rest)?;
            Some(PeerAddress::Local)
        }
        _ => return Err(ProxyError::Unsupported),
    };
    let mut said = ProxyHeader {
        peer,
        ..ProxyHeader::default()
    };
    while !rest.is_empty() {
        match take_field(&mut rest)? {
            (TYPE_SSL, value) => parse_ssl(value, &mut said)?,
            (TYPE_CRC32C, value) => check(header, header.len() - rest.len(), value)?,
            _ => {}
        }
    }
    Ok(Some((said, size)))
}

fn take<'a, const SIZE: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; SIZE], ProxyError> {
    let (chunk, rest) = bytes.split_first_chunk().ok_or(ProxyError::Malformed)?;
    *bytes = rest;
    Ok(chunk)
}

/// The type and value of the field that `bytes` begin with.
fn take_field<'a>(bytes: &mut &'a [u8]) -> Result<(u8, &'a [u8]), ProxyError> {
    let [kind, high, low] = *take(bytes)?;
    let size = usize::from(u16::from_be_bytes([high, low]));
    let (value, rest) = bytes.split_at_checked(size).ok_or(ProxyError::Malformed)?;
    *bytes = rest;
    Ok((kind, value))
}

fn parse_ssl(mut value: &[u8], said: &mut ProxyHeader) -> Result<(), ProxyError> {
    let [client, verify @ ..] = *take::<5>(&mut value)?;
    said.is_tls = client & CLIENT_SSL != 0;
    // Zero also when there was no certificate to verify.
    let is_verified = verify == [0; 4];
    said.has_certificate = said.is_tls && client & CLIENT_CERTIFICATE != 0 && is_verified;
    let mut common_name = None;
    let mut certificate = None;
    while !value.is_empty() {
        match take_field(&mut value)? {
            (SUBTYPE_SSL_COMMON_NAME, name) => {
                let name = std::str::from_utf8(name).map_err(|_| ProxyError::Malformed)?;
                common_name = Some(name.to_owned());
            }
            (SUBTYPE_SSL_CLIENT_CERTIFICATE, der) => {
                certificate = Some(super::identity::of(der).ok_or(ProxyError::Malformed)?);
            }
            _ => {}
        }
    }
    if said.has_certificate {
        // Without the certificate itself its subject is not known: an empty one matches nobody.
        said.certificate = certificate.or(common_name.map(|name| CertificateIdentity {
            common_name: Some(name),
            subject: String::new(),
        }));
    }
    Ok(())
}

/// Checks the CRC-32C of `header`. The field that holds it, which ends at `end`, counts as zero.
fn check(header: &[u8], end: usize, sum: &[u8]) -> Result<(), ProxyError> {
    let expected: [u8; 4] = sum.try_into().map_err(|_| ProxyError::Malformed)?;
    let crc = crc32c::crc32c(&header[..end - expected.len()]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    let crc = crc32c::crc32c_append(crc, &header[end..]);
    if crc.to_be_bytes() == expected {
        Ok(())
    } else {
        Err(ProxyError::Checksum)
    }
}
