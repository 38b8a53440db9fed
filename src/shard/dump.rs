//! What the operator asked to see of a shard: its Sessions, their subscriptions, retained topics.

#![forbid(unsafe_code)]

use std::fmt::Write;

use super::Shard;

impl Shard {
    /// One line for each Session, subscription and retained message. Visits all of them.
    pub(super) fn tree(&self) -> String {
        let mut text = String::new();
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "Shard {}", self.id);
        for key in self.clients.members.keys() {
            let Some(member) = self.clients.members.get(key) else {
                continue;
            };
            let session = &member.session;
            let state = if session.connection.is_some() {
                "connected"
            } else {
                "away"
            };
            let _ = writeln!(
                text,
                "  {} ({state}, {} in flight, {} queued)",
                session.client_identifier,
                session.inflight.len(),
                session.queue.len(),
            );
            for &filter in member.subscriptions.keys() {
                let filter = String::from_utf8_lossy(self.router.filter_text(filter));
                let _ = writeln!(text, "    {filter}");
            }
        }
        // Every shard has the same.
        if self.id.0 == 0 {
            let _ = writeln!(text, "Retained messages: {}", self.router.retained_count());
            for (_, message) in self.retained_messages() {
                let topic_name = String::from_utf8_lossy(message.topic_name());
                let _ = writeln!(text, "  {topic_name} ({} bytes)", message.size());
            }
        }
        text
    }
}
