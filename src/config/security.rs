//! Security settings that hold for the broker or for one listener.

#![forbid(unsafe_code)]

use super::value::FileReference;

/// What `per_listener_settings` moves from the broker to its listeners.
///
/// Every field is `None` until a directive sets it, so that a listener can fall back on the broker.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SecurityOptions {
    /// Whether a Client may connect without a User Name.
    pub allow_anonymous: Option<bool>,
    /// Whether a Client may leave its identifier to us.
    pub allow_zero_length_clientid: Option<bool>,
    /// Begins the identifiers we make up.
    pub auto_id_prefix: Option<String>,
    /// User Names and passwords.
    pub password_file: Option<FileReference>,
    /// Rules about topics.
    pub acl_file: Option<FileReference>,
}
