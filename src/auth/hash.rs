//! One hashed password: the forms that Mosquitto's files know, how to verify and how to make them.
//!
//! | begins with | scheme | written by Mosquitto |
//! | --- | --- | --- |
//! | `$6$salt$hash` | SHA-512 of password and salt | up to 1.6 |
//! | `$7$iterations$salt$hash` | PBKDF2 with HMAC-SHA-512 | 2.0 |
//! | `$argon2id$v=19$m=,t=,p=$salt$hash` | argon2id | 2.1 |
//!
//! `$6$` is not the crypt(3) scheme of that name, and no version has a `$5$`.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;

/// Bytes of a SHA-512.
const SHA512_SIZE: usize = 64;
/// Fewest and most bytes of a salt. Mosquitto writes 12, since 2.1 also 64.
const SALT_SIZE_MIN: usize = 8;
const SALT_SIZE_MAX: usize = 64;
/// Fewest bytes of an argon2id hash; the most is what Mosquitto writes.
const ARGON2_HASH_SIZE_MIN: usize = 16;
const ARGON2_HASH_SIZE_MAX: usize = 64;

/// Bounds of what one login may cost, about a second each: a file that asks for more is refused,
/// because everybody who can connect can ask for it.
const PBKDF2_ITERATIONS_MAX: u32 = 2_000_000;
const ARGON2_MEMORY_KIB_MAX: u32 = 256 << 10;
const ARGON2_LANES_MAX: u32 = 16;
/// Memory times passes.
const ARGON2_WORK_KIB_MAX: u64 = 1 << 20;

/// How a password is hashed, and how much work that is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Scheme {
    /// `$6$`: fast, and therefore weak.
    Sha512,
    /// `$7$`.
    Pbkdf2Sha512 {
        /// Rounds of HMAC.
        iterations: u32,
    },
    /// `$argon2id$`.
    Argon2id {
        /// 19, or 16 for the first version of the algorithm.
        version: u32,
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes over the memory.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
}

impl Scheme {
    /// PBKDF2 as Mosquitto 2.1 makes it.
    pub const PBKDF2_DEFAULT: Self = Self::Pbkdf2Sha512 { iterations: 1000 };
    /// argon2id as Mosquitto 2.1 makes it.
    pub const ARGON2ID_DEFAULT: Self = Self::Argon2id {
        version: 0x13,
        memory_kib: 47_104,
        passes: 1,
        lanes: 1,
    };

    /// Bytes of the salt of a new hash. Mosquitto 2.0 reads the first two with no other size.
    #[must_use]
    pub const fn salt_size(self) -> usize {
        match self {
            Self::Sha512 | Self::Pbkdf2Sha512 { .. } => 12,
            Self::Argon2id { .. } => 64,
        }
    }

    /// Checks that its cost is within bounds.
    ///
    /// # Errors
    /// [`HashError::Cost`].
    pub fn check(self) -> Result<(), HashError> {
        let is_bounded = match self {
            Self::Sha512 => true,
            Self::Pbkdf2Sha512 { iterations } => (1..=PBKDF2_ITERATIONS_MAX).contains(&iterations),
            Self::Argon2id {
                version,
                memory_kib,
                passes,
                lanes,
            } => {
                matches!(version, 0x10 | 0x13)
                    && memory_kib <= ARGON2_MEMORY_KIB_MAX
                    && u64::from(memory_kib) * u64::from(passes) <= ARGON2_WORK_KIB_MAX
                    && lanes <= ARGON2_LANES_MAX
                    && Params::new(memory_kib, passes, lanes, None).is_ok()
            }
        };
        is_bounded.then_some(()).ok_or(HashError::Cost)
    }

    /// Hashes into `hash`; false if that is not possible, which [`Self::check`] rules out.
    fn hash(self, password: &[u8], salt: &[u8], hash: &mut [u8]) -> bool {
        match self {
            Self::Sha512 => {
                let digest = Sha512::new().chain_update(password).chain_update(salt);
                let digest = digest.finalize();
                hash.len() == digest.len() && {
                    hash.copy_from_slice(&digest);
                    true
                }
            }
            Self::Pbkdf2Sha512 { iterations } => {
                pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, iterations, hash);
                true
            }
            Self::Argon2id {
                version,
                memory_kib,
                passes,
                lanes,
            } => {
                let version = if version == 0x10 {
                    Version::V0x10
                } else {
                    Version::V0x13
                };
                let Ok(params) = Params::new(memory_kib, passes, lanes, Some(hash.len())) else {
                    return false;
                };
                Argon2::new(Algorithm::Argon2id, version, params)
                    .hash_password_into(password, salt, hash)
                    .is_ok()
            }
        }
    }
}

/// A password as a password file keeps it.
#[derive(Clone, Eq, PartialEq)]
pub struct PasswordHash {
    scheme: Scheme,
    salt: Box<[u8]>,
    hash: Box<[u8]>,
}

impl PasswordHash {
    /// Hashes `password` with `salt`, which has to be random, and of [`Scheme::salt_size`] for
    /// Mosquitto to read the result.
    ///
    /// # Errors
    /// [`HashError`] if the scheme costs too much or the salt is too short or too long.
    pub fn new(scheme: Scheme, password: &[u8], salt: &[u8]) -> Result<Self, HashError> {
        scheme.check()?;
        if !(SALT_SIZE_MIN..=SALT_SIZE_MAX).contains(&salt.len()) {
            return Err(HashError::Malformed);
        }
        let mut hash = vec![0; SHA512_SIZE];
        if !scheme.hash(password, salt, &mut hash) {
            return Err(HashError::Cost);
        }
        Ok(Self {
            scheme,
            salt: salt.into(),
            hash: hash.into(),
        })
    }

    /// A hash that no password has, and that takes as long to find that out.
    pub(super) fn decoy(scheme: Scheme) -> Self {
        Self {
            scheme,
            salt: vec![0; scheme.salt_size()].into(),
            hash: vec![0; SHA512_SIZE].into(),
        }
    }

    /// How it was hashed.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether it is the hash of `password`. Takes as long whether it is or not.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        let mut buffer = [0; ARGON2_HASH_SIZE_MAX];
        let Some(hash) = buffer.get_mut(..self.hash.len()) else {
            return false;
        };
        self.scheme.hash(password, &self.salt, hash) && bool::from(hash.ct_eq(&self.hash))
    }
}

const _: () = assert!(ARGON2_HASH_SIZE_MAX >= SHA512_SIZE);

impl FromStr for PasswordHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let Some(fields) = text.strip_prefix('$') else {
            return Err(HashError::PlainText);
        };
        let mut fields = fields.split('$');
        let mut field = || fields.next().ok_or(HashError::Malformed);
        let (scheme, salt, hash) = match field()? {
            "6" => (
                Scheme::Sha512,
                decode(&STANDARD, field()?)?,
                decode(&STANDARD, field()?)?,
            ),
            "7" => {
                let iterations = number(field()?)?;
                let scheme = Scheme::Pbkdf2Sha512 { iterations };
                (
                    scheme,
                    decode(&STANDARD, field()?)?,
                    decode(&STANDARD, field()?)?,
                )
            }
            "argon2id" => {
                let mut cost = field()?;
                // The first version of the algorithm did not say so.
                let mut version = 0x10;
                if let Some(explicit) = cost.strip_prefix("v=") {
                    version = number(explicit)?;
                    cost = field()?;
                }
                let mut costs = cost.split(',');
                let mut cost = |name| {
                    let cost = costs.next().and_then(|cost| cost.strip_prefix(name));
                    number(cost.ok_or(HashError::Malformed)?)
                };
                let scheme = Scheme::Argon2id {
                    version,
                    memory_kib: cost("m=")?,
                    passes: cost("t=")?,
                    lanes: cost("p=")?,
                };
                if costs.next().is_some() {
                    return Err(HashError::Malformed);
                }
                (
                    scheme,
                    decode(&STANDARD_NO_PAD, field()?)?,
                    decode(&STANDARD_NO_PAD, field()?)?,
                )
            }
            _ => return Err(HashError::UnknownScheme),
        };
        let has_hash_size = match scheme {
            Scheme::Argon2id { .. } => {
                (ARGON2_HASH_SIZE_MIN..=ARGON2_HASH_SIZE_MAX).contains(&hash.len())
            }
            _ => hash.len() == SHA512_SIZE,
        };
        let has_salt_size = (SALT_SIZE_MIN..=SALT_SIZE_MAX).contains(&salt.len());
        if fields.next().is_some() || !has_hash_size || !has_salt_size {
            return Err(HashError::Malformed);
        }
        scheme.check()?;
        Ok(Self {
            scheme,
            salt: salt.into(),
            hash: hash.into(),
        })
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, hash) = (&self.salt, &self.hash);
        match self.scheme {
            Scheme::Sha512 => {
                let (salt, hash) = (STANDARD.encode(salt), STANDARD.encode(hash));
                write!(formatter, "$6${salt}${hash}")
            }
            Scheme::Pbkdf2Sha512 { iterations } => {
                let (salt, hash) = (STANDARD.encode(salt), STANDARD.encode(hash));
                write!(formatter, "$7${iterations}${salt}${hash}")
            }
            Scheme::Argon2id {
                version,
                memory_kib,
                passes,
                lanes,
            } => {
                let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
                write!(
                    formatter,
                    "$argon2id$v={version}$m={memory_kib},t={passes},p={lanes}${salt}${hash}"
                )
            }
        }
    }
}

impl fmt::Debug for PasswordHash {
    /// Without the hash, which nobody needs in a log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PasswordHash")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

fn decode(engine: &impl Engine, text: &str) -> Result<Vec<u8>, HashError> {
    engine.decode(text).map_err(|_| HashError::Malformed)
}

fn number(text: &str) -> Result<u32, HashError> {
    // `parse` would take a sign.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HashError::Malformed);
    }
    text.parse().map_err(|_| HashError::Malformed)
}

/// Why something is not a hashed password.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HashError {
    /// It does not begin with `$`, so it is a password that was not hashed, or none.
    #[error("the password is not hashed; `fastmq passwd -U` hashes all passwords of a file")]
    PlainText,
    /// A hash of another kind.
    #[error("unknown kind of password hash: it is $6$, $7$ or $argon2id$")]
    UnknownScheme,
    /// Fields are missing, too many, or not what they should be.
    #[error("malformed password hash")]
    Malformed,
    /// Verifying it once would take longer than about a second, or more memory than a login may.
    #[error(
        "the password hash costs too much: at most {PBKDF2_ITERATIONS_MAX} iterations of PBKDF2, \
         {ARGON2_MEMORY_KIB_MAX} KiB, {ARGON2_LANES_MAX} lanes and {ARGON2_WORK_KIB_MAX} KiB times \
         passes of argon2id"
    )]
    Cost,
}
