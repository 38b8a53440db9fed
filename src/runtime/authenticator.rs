//! Password checks, beside the shards: each takes milliseconds on purpose.

#![forbid(unsafe_code)]

use super::Mailbox;
use crate::key::ShardId;
use crate::shard::{AuthenticationRequest, Command, Verdict};
use crossbeam::channel::Receiver;
use std::io;
use std::sync::Arc;

/// Checks passwords on threads of its own until no shard can ask any more.
///
/// # Errors
/// When a thread cannot be started.
pub fn authenticate(
    requests: Receiver<(ShardId, Box<AuthenticationRequest>)>,
    mailboxes: Arc<[Mailbox]>,
) -> io::Result<()> {
    std::thread::Builder::new()
        .name("fastmq-passwords".into())
        .spawn(move || {
            for (shard, request) in &requests {
                let passwords = request.security.passwords.as_ref();
                let accepted =
                    passwords.is_some_and(|it| it.verify(&request.username, &request.password));
                let verdict = if accepted {
                    Verdict::Accepted
                } else {
                    Verdict::Refused
                };
                if let Some(mailbox) = mailboxes.get(shard.index()) {
                    mailbox.send(Command::Authenticated {
                        connection: request.connection,
                        verdict,
                    });
                }
            }
        })?;
    Ok(())
}
