//! What comes to a shard from outside of the message path: side threads and the operator.

#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::auth::Security;
use crate::key::ConnectionKey;
use crate::message::Message;
use crate::policy::Settings;

/// Something a side thread wants of a shard. Commands arrive in the order they were sent.
#[derive(Clone, Debug)]
pub enum Command {
    /// The answer to [`super::Notice::Authenticate`]. Ignored if that connection has gone.
    Authenticated {
        /// Whose CONNECT it was.
        connection: ConnectionKey,
        /// What became of it.
        verdict: Verdict,
        /// What it was checked against. If that is not what the listener has now, the verdict is void and
        /// the shard asks again.
        security: Arc<Security>,
    },
    /// The configuration was read again. Goes to every shard.
    Configure(Arc<Settings>),
    /// A message of the broker itself, such as a value of `$SYS`. Goes to one shard, which gives it to
    /// the others.
    Publish(Arc<Message>),
    /// The operator wants to see this shard's subscriptions and retained messages; answered with
    /// [`super::Notice::Tree`], one or many of them. Ignored while an answer is under way.
    DumpTree,
}

/// What a password check came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// User Name and password belong together.
    Accepted,
    /// They do not, or there is no such User Name.
    Refused,
}
