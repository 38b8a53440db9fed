//! From root to somebody who may do less: what a stranger could make the broker do, root must not do.
//!
//! `nix` calls setuid(2) and its kin for all threads, in Rust that needs no `unsafe` here; it is the most
//! used and the best kept binding.

#![forbid(unsafe_code)]

use nix::unistd::{self, Uid, User};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::CString;

/// Users to become when the configuration names none, in this order.
const USERS: [&str; 3] = ["mosquitto", "fastmq", "nobody"];

/// Privileges cannot be dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegesError {
    #[error("user {0}: there is no such user")]
    NoSuchUser(String),
    #[error("user {name}: {source}")]
    Refused {
        name: String,
        source: nix::errno::Errno,
    },
}

/// Becomes `name`, or one of [`USERS`], if the process is root's.
pub(crate) fn drop(name: Option<&str>) -> Result<(), PrivilegesError> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    if name == Some("root") {
        tracing::warn!("the broker stays root, as configured; another user would be safer");
        return Ok(());
    }
    let refused = |name: &str| {
        let name = name.to_owned();
        move |source| PrivilegesError::Refused { name, source }
    };
    let find = |name: &str| User::from_name(name).map_err(refused(name));
    let user = match name {
        Some(name) => find(name)?.ok_or_else(|| PrivilegesError::NoSuchUser(name.to_owned()))?,
        None => {
            let mut found = None;
            for name in USERS {
                found = find(name)?;
                if found.is_some() {
                    break;
                }
            }
            let Some(user) = found else {
                tracing::warn!(
                    "there is no user {}: the broker stays root",
                    USERS.join(", ")
                );
                return Ok(());
            };
            user
        }
    };
    // Rings lock memory, which root may without limit and others may not.
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if getrlimit(Resource::Memlock) != unlimited
        && let Err(error) = setrlimit(Resource::Memlock, unlimited)
    {
        tracing::debug!("the limit of locked memory stays: {error}");
    }
    let become_user = || -> nix::Result<()> {
        let name = CString::new(user.name.as_str()).map_err(|_| nix::errno::Errno::EINVAL)?;
        unistd::initgroups(&name, user.gid)?;
        unistd::setgid(user.gid)?;
        unistd::setuid(user.uid)
    };
    become_user().map_err(refused(&user.name))?;
    tracing::debug!("running as user {}", user.name);
    Ok(())
}
