//! From root to somebody who may do less: what a stranger could make the broker do, root must not do.
//!
//! `nix` calls setuid(2) and its kin for all threads, in Rust that needs no `unsafe` here; it is the most
//! used and the best kept binding.

#![forbid(unsafe_code)]

use crate::log::Owner;
use crate::shown::shown;
use nix::unistd::{self, Uid, User};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::CString;

/// Users to become when the configuration names none, in this order.
const USERS: [&str; 3] = ["mosquitto", "fastmq", "nobody"];

/// Privileges cannot be dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegesError {
    #[error("user {}: there is no such user", shown(.0))]
    NoSuchUser(String),
    #[error("user {}: {source}", shown(.name))]
    Refused {
        name: String,
        source: nix::errno::Errno,
    },
}

/// Whom the process becomes.
#[derive(Debug)]
pub(crate) enum Successor {
    /// Another user than root.
    User(User),
    /// Nobody else, since it is not root's.
    Same,
    /// Root stays root, because of this.
    Root(String),
}

impl Successor {
    /// `name`, or one of [`USERS`], if the process is root's.
    pub(crate) fn find(name: Option<&str>) -> Result<Self, PrivilegesError> {
        if !Uid::effective().is_root() {
            return Ok(Self::Same);
        }
        let find = |name: &str| User::from_name(name).map_err(refused(name));
        match name {
            Some("root") => Ok(Self::Root(
                "the broker stays root, as configured; another user would be safer".to_owned(),
            )),
            Some(name) => {
                let user = find(name)?;
                user.map(Self::User)
                    .ok_or_else(|| PrivilegesError::NoSuchUser(name.to_owned()))
            }
            None => {
                for name in USERS {
                    if let Some(user) = find(name)? {
                        return Ok(Self::User(user));
                    }
                }
                let users = USERS.join(", ");
                Ok(Self::Root(format!(
                    "there is no user {users}: the broker stays root"
                )))
            }
        }
    }

    /// Who is to own what root makes for it, if that is not who makes it.
    pub(crate) fn owner(&self) -> Option<Owner> {
        match self {
            Self::User(user) => Some(Owner {
                user: user.uid.as_raw(),
                group: user.gid.as_raw(),
            }),
            Self::Same | Self::Root(_) => None,
        }
    }

    /// Becomes it.
    pub(crate) fn succeed(&self) -> Result<(), PrivilegesError> {
        match self {
            Self::User(user) => become_user(user),
            Self::Same => Ok(()),
            Self::Root(why) => {
                tracing::warn!("{why}");
                Ok(())
            }
        }
    }
}

fn refused(name: &str) -> impl FnOnce(nix::errno::Errno) -> PrivilegesError {
    let name = name.to_owned();
    move |source| PrivilegesError::Refused { name, source }
}

fn become_user(user: &User) -> Result<(), PrivilegesError> {
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
    let change = || -> nix::Result<()> {
        let name = CString::new(user.name.as_str()).map_err(|_| nix::errno::Errno::EINVAL)?;
        unistd::initgroups(&name, user.gid)?;
        unistd::setgid(user.gid)?;
        unistd::setuid(user.uid)
    };
    change().map_err(refused(&user.name))?;
    tracing::debug!("running as user {}", user.name);
    Ok(())
}
