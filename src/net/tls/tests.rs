//! Settings that operators get right, and wrong.

#[path = "../../../tests/support/authority.rs"]
mod authority;
#[path = "../../../tests/support/folder.rs"]
mod folder;

pub(crate) use authority::{Authority, Leaf};
pub(crate) use folder::Folder;

use super::{KeyLogFile, Prepared, TlsSettings, chain};
use rustls::ServerConnection;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Writes the files of a server certificate into `folder`.
pub(crate) fn settings(authority: &Authority, folder: &Folder) -> TlsSettings {
    let leaf = authority.server();
    TlsSettings {
        cafile: Some(folder.write("ca.crt", authority.certificate())),
        certfile: folder.write("server.crt", leaf.certificate),
        keyfile: folder.write("server.key", leaf.key),
        protocol: "mqtt",
        ..TlsSettings::default()
    }
}

/// As `openssl pkcs8 -topk8 -nocrypt` has it.
const P521: &str = "\
-----BEGIN PRIVATE KEY-----
MIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIABhsdYbXjvD5eAAp7
MnDgocOxHRwNeufRaQIzrumOCpv4AhoKFWSRbcqEMHBrX4o9hv/WFr+kQjEDbZ/M
4+NyvmyhgYkDgYYABADLz5yi5UvHY/aCYbmuQSUH+ZVEIYtL6zNvM5Kzuk8a4L+m
ry05OG3jqaGya/r8TdVl0aZH/p4XoYKMvRrE9qGEqgCEZedZFPRtyUEsFTaLvPQ3
rZ2nsP9AhXuWksBwTCcQOm8/EZHqUZ+fL8ec7g0p7lK+wzS/ufJToFoQOzhMjLxA
2w==
-----END PRIVATE KEY-----
";

fn said(settings: &TlsSettings) -> String {
    Prepared::load(settings).unwrap_err().to_string()
}

#[test]
fn errors_name_directive_file_and_reason() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let good = settings(&authority, &folder);
    Prepared::load(&good).unwrap();
    let missing = || folder.path().join("missing.pem");
    let empty = || folder.write("empty.pem", "no PEM in here\n");
    let other_key = folder.write("other.key", authority.server().key);
    let encrypted = folder.write(
        "encrypted.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let old_encrypted = folder.write(
        "old.key",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMIIB\n-----END RSA PRIVATE KEY-----\n",
    );
    let p521 = folder.write("p521.key", P521);
    let with = |change: &dyn Fn(&mut TlsSettings)| {
        let mut settings = good.clone();
        change(&mut settings);
        said(&settings)
    };
    for (message, parts) in [
        (
            with(&|s| s.certfile = missing()),
            ["certfile ", "missing.pem", "No such file"],
        ),
        (
            with(&|s| s.certfile = empty()),
            ["certfile ", "empty.pem", "no certificate"],
        ),
        (
            with(&|s| s.keyfile = missing()),
            ["keyfile ", "missing.pem", "No such file"],
        ),
        (
            with(&|s| s.keyfile = empty()),
            ["keyfile ", "empty.pem", "no items"],
        ),
        (
            with(&|s| s.keyfile = other_key.clone()),
            ["keyfile ", "other.key", "certfile"],
        ),
        (
            with(&|s| s.keyfile = encrypted.clone()),
            ["keyfile ", "encrypted.key", "passphrase"],
        ),
        (
            with(&|s| s.keyfile = old_encrypted.clone()),
            ["keyfile ", "old.key", "encrypted"],
        ),
        (
            with(&|s| s.keyfile = p521.clone()),
            ["keyfile ", "p521.key", "the curve P-521 are not supported"],
        ),
        (
            with(&|s| s.cafile = Some(empty())),
            ["cafile ", "empty.pem", "no certificate"],
        ),
        (
            with(&|s| s.crlfile = Some(empty())),
            ["crlfile ", "empty.pem", "no revocation list"],
        ),
        (
            with(&|s| s.capath = Some(folder.path().into())),
            ["capath ", "", "openssl rehash"],
        ),
        (
            with(&|s| s.ciphers = Some("NOPE".into())),
            ["ciphers: ", "unknown", "NOPE"],
        ),
        (
            with(&|s| s.ciphers_tls13 = Some("NOPE".into())),
            ["ciphers_tls1.3: ", "unknown", "NOPE"],
        ),
    ] {
        assert!(message.starts_with(parts[0]), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let mut nobody = good.clone();
    nobody.cafile = None;
    Prepared::load(&nobody).unwrap();
    nobody.require_certificate = true;
    assert!(said(&nobody).starts_with("require_certificate needs"));
}

#[test]
fn a_folder_of_authorities_counts_only_under_the_names_that_openssl_looks_for() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let mut settings = settings(&authority, &folder);
    settings.require_certificate = true;
    settings.cafile = None;
    let authorities = Folder::new();
    authorities.write("ca.pem", authority.certificate());
    settings.capath = Some(authorities.path().into());
    assert!(said(&settings).contains("openssl rehash"));
    authorities.write("0123abcd.0", authority.certificate());
    Prepared::load(&settings).unwrap();
}

/// Whether a client that knows only `root` and a server with these settings agree.
fn is_trusted(root: &Authority, settings: &TlsSettings) -> bool {
    let offered = None::<std::iter::Empty<&[u8]>>;
    let config = Prepared::load(settings).unwrap().config_for(offered);
    let mut server = ServerConnection::new(config).unwrap();
    let mut client = root.client_session(None);
    while client.is_handshaking() {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut there).unwrap();
        }
        server.read_tls(&mut &*there).unwrap();
        server.process_new_packets().unwrap();
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        let mut back = &*back;
        while !back.is_empty() {
            client.read_tls(&mut back).unwrap();
            if client.process_new_packets().is_err() {
                return false;
            }
        }
    }
    true
}

#[test]
fn a_lone_certificate_is_sent_with_those_of_cafile_or_capath_that_lead_to_a_root() {
    let (root, folder) = (Authority::new(), Folder::new());
    let upper = root.below("upper");
    let lower = upper.below("lower");
    // Of the same name, and with another key.
    let other = root.below("lower");
    let alone = settings(&lower, &folder);
    let with_cafile = |authorities: &[&Authority]| {
        let all: Vec<_> = authorities.iter().map(|it| it.certificate()).collect();
        TlsSettings {
            cafile: Some(folder.write("all.crt", all.concat())),
            ..alone.clone()
        }
    };
    assert!(is_trusted(
        &root,
        &with_cafile(&[&other, &root, &upper, &lower])
    ));
    assert!(!is_trusted(&root, &with_cafile(&[&other, &root, &lower])));

    let hashed = Folder::new();
    hashed.write("0123abcd.0", upper.certificate());
    hashed.write("0123abcd.1", lower.certificate());
    let mut with_capath = alone.clone();
    with_capath.cafile = None;
    with_capath.capath = Some(hashed.path().into());
    assert!(is_trusted(&root, &with_capath));
}

#[test]
fn a_chain_of_the_operators_is_sent_as_it_is_and_a_root_not_at_all() {
    let root = Authority::new();
    let authority = root.below("authority");
    let der = |pem: String| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let known = [der(root.certificate()), der(authority.certificate())];
    let complete = |certificates: &[CertificateDer<'static>]| {
        let mut chain = certificates.to_vec();
        chain::complete(&mut chain, &known);
        chain
    };
    let of_root = der(root.server().certificate);
    let alone = std::slice::from_ref(&of_root);
    assert_eq!(complete(alone), alone);
    let leaf = der(authority.server().certificate);
    assert_eq!(
        complete(std::slice::from_ref(&leaf)),
        [leaf.clone(), known[1].clone()]
    );
    let chosen = [leaf, of_root];
    assert_eq!(complete(&chosen), chosen);
}

#[test]
fn ciphers_that_are_left_out_are_reported() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let mut settings = settings(&authority, &folder);
    assert!(Prepared::load(&settings).unwrap().warnings().is_empty());
    settings.ciphers = Some("ECDHE-ECDSA-AES128-GCM-SHA256:DHE-RSA-AES256-SHA".to_owned());
    let prepared = Prepared::load(&settings).unwrap();
    let warnings = prepared.warnings();
    assert_eq!(
        warnings,
        ["ciphers: not available and left out: DHE-RSA-AES256-SHA"]
    );
}

#[test]
fn a_key_log_is_for_its_owner_only() {
    let folder = Folder::new();
    let path = folder.path().join("keys");
    let log = KeyLogFile::open(&path).unwrap();
    rustls::KeyLog::log(&log, "LABEL", &[0xAB, 1], &[0xFF]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "LABEL ab01 ff\n");
    let mode = |path: &PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(KeyLogFile::open(&path).is_err());
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(KeyLogFile::open(&link).is_err());
}
