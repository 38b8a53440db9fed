//! OpenSSL's way to name cipher suites, for the suites that there are.
//!
//! Operators bring lists that name dozens of suites. What is known but not available is left out of the
//! list and reported, which only narrows what clients may use; a word that is not known at all is a
//! mistake, and a list of which nothing is left is refused.

#![forbid(unsafe_code)]

use rustls::SupportedCipherSuite;
use rustls::crypto::ring::cipher_suite;

/// A suite of TLS 1.2 and the words of OpenSSL's that select it, its two full names first.
struct Suite {
    suite: SupportedCipherSuite,
    words: [&'static str; 8],
    /// Bits of its key, by which `@STRENGTH` sorts.
    strength: u16,
}

/// In the order in which they are preferred when nothing is said.
const SUITES: [Suite; 6] = [
    Suite {
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        words: [
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "aECDSA",
            "ECDSA",
            "AES",
            "AESGCM",
            "AES256",
            "ECDHE-ECDSA",
        ],
        strength: 256,
    },
    Suite {
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        words: [
            "ECDHE-RSA-AES256-GCM-SHA384",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "aRSA",
            "AES",
            "AESGCM",
            "AES256",
            "ECDHE-RSA",
            "",
        ],
        strength: 256,
    },
    Suite {
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        words: [
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "aECDSA",
            "ECDSA",
            "CHACHA20",
            "ECDHE-ECDSA",
            "",
            "",
        ],
        strength: 256,
    },
    Suite {
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        words: [
            "ECDHE-RSA-CHACHA20-POLY1305",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "aRSA",
            "CHACHA20",
            "ECDHE-RSA",
            "",
            "",
            "",
        ],
        strength: 256,
    },
    Suite {
        suite: cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        words: [
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "aECDSA",
            "ECDSA",
            "AES",
            "AESGCM",
            "AES128",
            "ECDHE-ECDSA",
        ],
        strength: 128,
    },
    Suite {
        suite: cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        words: [
            "ECDHE-RSA-AES128-GCM-SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "aRSA",
            "AES",
            "AESGCM",
            "AES128",
            "ECDHE-RSA",
            "",
        ],
        strength: 128,
    },
];

/// Words that select every suite of [`SUITES`].
const ALL_OF_THEM: [&str; 12] = [
    "ALL",
    "DEFAULT",
    "HIGH",
    "ECDHE",
    "EECDH",
    "kECDHE",
    "kEECDH",
    "ECDH",
    "TLSv1.2",
    "AEAD",
    "FIPS",
    "SUITEB128",
];

/// Words that select none of them.
const NONE_OF_THEM: [&str; 58] = [
    "COMPLEMENTOFDEFAULT",
    "COMPLEMENTOFALL",
    "MEDIUM",
    "LOW",
    "EXP",
    "EXPORT",
    "EXPORT40",
    "EXPORT56",
    "eNULL",
    "NULL",
    "aNULL",
    "kRSA",
    "RSA",
    "kDHr",
    "kDHd",
    "kDH",
    "kDHE",
    "kEDH",
    "DH",
    "DHE",
    "EDH",
    "ADH",
    "AECDH",
    "aDSS",
    "DSS",
    "aDH",
    "aECDH",
    "kECDH",
    "kECDHe",
    "kECDHr",
    "TLSv1",
    "TLSv1.0",
    "TLSv1.1",
    "SSLv3",
    "SSLv2",
    "AESCCM",
    "AESCCM8",
    "ARIA",
    "ARIA128",
    "ARIA256",
    "ARIAGCM",
    "CAMELLIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "3DES",
    "DES",
    "RC4",
    "RC2",
    "IDEA",
    "SEED",
    "MD5",
    "SHA1",
    "SHA",
    "SHA256",
    "SHA384",
    "PSK",
    "SRP",
    "GOST",
];

/// Of what the full names of suites that there are not are made.
const PARTS: [&str; 36] = [
    "ECDHE",
    "DHE",
    "ECDH",
    "DH",
    "EDH",
    "ADH",
    "AECDH",
    "RSA",
    "ECDSA",
    "DSS",
    "PSK",
    "SRP",
    "KRB5",
    "EXP",
    "NULL",
    "AES128",
    "AES256",
    "CAMELLIA128",
    "CAMELLIA256",
    "ARIA128",
    "ARIA256",
    "ARIA",
    "CHACHA20",
    "POLY1305",
    "SEED",
    "IDEA",
    "DES",
    "CBC",
    "CBC3",
    "RC4",
    "GCM",
    "CCM",
    "CCM8",
    "SHA",
    "MD5",
    "3DES",
];

/// Suites of TLS 1.3 that there are.
const SUITES_13: [(&str, SupportedCipherSuite); 3] = [
    (
        "TLS_AES_256_GCM_SHA384",
        cipher_suite::TLS13_AES_256_GCM_SHA384,
    ),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_AES_128_GCM_SHA256",
        cipher_suite::TLS13_AES_128_GCM_SHA256,
    ),
];

/// Suites of TLS 1.3 that OpenSSL knows besides.
const MISSING_13: [&str; 4] = [
    "TLS_AES_128_CCM_SHA256",
    "TLS_AES_128_CCM_8_SHA256",
    "TLS_SHA256_SHA256",
    "TLS_SHA384_SHA384",
];

/// A list of cipher suites makes no sense, or leaves nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CipherError {
    /// A word that OpenSSL does not know either.
    #[error("unknown cipher \"{0}\"")]
    Unknown(String),
    /// None of what the list names is available.
    #[error(
        "\"{list}\" names no cipher that is available; available are {}",
        available()
    )]
    NoneLeft {
        /// The list.
        list: String,
    },
}

fn available() -> String {
    let names = SUITES.iter().map(|suite| suite.words[0]);
    let names = names.chain(SUITES_13.iter().map(|(name, _)| *name));
    names.collect::<Vec<_>>().join(", ")
}

/// Suites in the order of preference, and names that were left out.
type Selection = (Vec<SupportedCipherSuite>, Vec<String>);

/// What a list for TLS 1.2 selects; without one, everything.
///
/// # Errors
/// [`CipherError`].
pub(super) fn select(list: Option<&str>) -> Result<Selection, CipherError> {
    let Some(list) = list else {
        return Ok((SUITES.iter().map(|suite| suite.suite).collect(), Vec::new()));
    };
    let mut selected: Vec<&Suite> = Vec::new();
    let mut banned: Vec<SupportedCipherSuite> = Vec::new();
    let mut left_out = Vec::new();
    for element in list
        .split([':', ',', ' ', ';'])
        .filter(|element| !element.is_empty())
    {
        if element == "@STRENGTH" {
            selected.sort_by_key(|suite| std::cmp::Reverse(suite.strength));
            continue;
        }
        if element.starts_with("@SECLEVEL=") {
            continue; // What level 2 forbids is not available in the first place.
        }
        let (operator, words) = match element.split_at_checked(1) {
            Some((operator @ ("!" | "-" | "+"), words)) => (operator, words),
            _ => ("", element),
        };
        let mut matching: Vec<&Suite> = SUITES.iter().collect();
        for word in words.split('+') {
            match kind(word) {
                Kind::Unknown => return Err(CipherError::Unknown(word.to_owned())),
                Kind::Missing if operator.is_empty() => left_out.push(word.to_owned()),
                _ => {}
            }
            matching.retain(|suite| selects(word, suite));
        }
        let is_matching = |suite: &Suite| matching.iter().any(|one| one.suite == suite.suite);
        match operator {
            "!" => {
                selected.retain(|suite| !is_matching(suite));
                banned.extend(matching.iter().map(|suite| suite.suite));
            }
            "-" => selected.retain(|suite| !is_matching(suite)),
            "+" => selected.sort_by_key(|suite| is_matching(suite)),
            _ => {
                matching.retain(|new| !banned.contains(&new.suite));
                matching.retain(|new| selected.iter().all(|old| old.suite != new.suite));
                selected.extend(matching);
            }
        }
    }
    finish(
        list,
        selected.iter().map(|suite| suite.suite).collect(),
        left_out,
    )
}

/// What a list for TLS 1.3 selects; without one, everything.
///
/// # Errors
/// [`CipherError`].
pub(super) fn select_13(list: Option<&str>) -> Result<Selection, CipherError> {
    let Some(list) = list else {
        return Ok((
            SUITES_13.iter().map(|(_, suite)| *suite).collect(),
            Vec::new(),
        ));
    };
    let mut selected = Vec::new();
    let mut left_out = Vec::new();
    for name in list
        .split(':')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        match SUITES_13.iter().find(|(known, _)| *known == name) {
            Some((_, suite)) if selected.contains(suite) => {}
            Some((_, suite)) => selected.push(*suite),
            None if MISSING_13.contains(&name) => left_out.push(name.to_owned()),
            None => return Err(CipherError::Unknown(name.to_owned())),
        }
    }
    finish(list, selected, left_out)
}

fn finish(
    list: &str,
    selected: Vec<SupportedCipherSuite>,
    left_out: Vec<String>,
) -> Result<Selection, CipherError> {
    if selected.is_empty() {
        return Err(CipherError::NoneLeft {
            list: list.to_owned(),
        });
    }
    Ok((selected, left_out))
}

enum Kind {
    /// Selects suites that there are, or a group that has none.
    Known,
    /// The full name of a suite that there is not.
    Missing,
    Unknown,
}

fn kind(word: &str) -> Kind {
    let is_known = ALL_OF_THEM.contains(&word)
        || NONE_OF_THEM.contains(&word)
        || SUITES.iter().any(|suite| selects(word, suite));
    let is_part = |part: &str| PARTS.contains(&part) || matches!(part, "SHA256" | "SHA384");
    if is_known {
        Kind::Known
    } else if word.starts_with("TLS_") || (word.contains('-') && word.split('-').all(is_part)) {
        Kind::Missing
    } else {
        Kind::Unknown
    }
}

fn selects(word: &str, suite: &Suite) -> bool {
    !word.is_empty() && (ALL_OF_THEM.contains(&word) || suite.words.contains(&word))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn names(list: &str) -> Vec<&'static str> {
        let (suites, _) = select(Some(list)).unwrap();
        let name = |suite| {
            SUITES
                .iter()
                .find(|known| known.suite == suite)
                .unwrap()
                .words[0]
        };
        suites.into_iter().map(name).collect()
    }

    #[test]
    fn full_names_select_in_their_order() {
        assert_eq!(
            names("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384"),
            ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"]
        );
        assert_eq!(
            names("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
            ["ECDHE-RSA-AES128-GCM-SHA256"]
        );
    }

    #[test]
    fn words_select_groups_and_operators_change_them() {
        assert_eq!(
            names("DEFAULT:!aNULL:!eNULL:!LOW:!EXPORT:!SSLv2:@STRENGTH").len(),
            6
        );
        assert_eq!(names("EECDH+AESGCM:EDH+AESGCM:!ECDSA").len(), 2);
        assert_eq!(names("HIGH:!AES:!ECDSA"), ["ECDHE-RSA-CHACHA20-POLY1305"]);
        assert_eq!(
            names("AES128:AES256:!ECDSA:@STRENGTH")[0],
            "ECDHE-RSA-AES256-GCM-SHA384"
        );
        assert_eq!(names("ALL:+CHACHA20")[5], "ECDHE-RSA-CHACHA20-POLY1305");
        // What was banned does not come back, what was removed does.
        assert_eq!(names("CHACHA20:!AES:ALL").len(), 2);
        assert_eq!(names("ALL:-AES:AES128").len(), 4);
    }

    #[test]
    fn known_suites_that_are_missing_are_left_out_and_named() {
        let list = "ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256:AES256-SHA:!DES-CBC3-SHA";
        let (suites, left_out) = select(Some(list)).unwrap();
        assert_eq!(suites.len(), 1);
        assert_eq!(left_out, ["DHE-RSA-AES128-GCM-SHA256", "AES256-SHA"]);
        let (suites, left_out) =
            select_13(Some("TLS_AES_128_GCM_SHA256:TLS_AES_128_CCM_SHA256")).unwrap();
        assert_eq!(suites.len(), 1);
        assert_eq!(left_out, ["TLS_AES_128_CCM_SHA256"]);
    }

    #[test]
    fn unknown_words_and_empty_selections_are_errors() {
        let unknown = |word: &str| CipherError::Unknown(word.to_owned());
        assert_eq!(
            select(Some("HIGH:ECDHE-RSA-AES512")).unwrap_err(),
            unknown("ECDHE-RSA-AES512")
        );
        assert_eq!(select(Some("HIHG")).unwrap_err(), unknown("HIHG"));
        assert_eq!(select_13(Some("AES")).unwrap_err(), unknown("AES"));
        let error = select(Some("AES256-SHA:AES128-SHA")).unwrap_err();
        assert!(
            error.to_string().contains("available are ECDHE-"),
            "{error}"
        );
        assert!(select(Some("ALL:!ALL")).is_err());
    }
}
