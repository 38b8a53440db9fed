//! What the operator asked to see of a shard: its Sessions, their subscriptions, retained topics; as much of it
//! as one turn has time for.

#![forbid(unsafe_code)]

use std::fmt::Write;

use super::effects::Effects;
use super::timers::Slot;
use super::{Notice, Shard};
use crate::key::SessionKey;
use crate::router::FilterKey;
use crate::time::Instant;

/// Sessions and rows of retained messages visited in one turn, whatever they hold.
const VISITS_A_TURN: usize = 128;

/// Subscriptions told in a visit.
const SUBSCRIPTIONS_A_VISIT: usize = 8;

/// What a Client has chosen, on one line: whoever writes it takes an end of line for the end of one of ours.
fn on_one_line(text: &str) -> String {
    text.replace('\n', "\\n")
}

/// How far a dump has come: what it visits next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cursor {
    /// The Session in this slot.
    Session(u32),
    /// Subscriptions of this Session behind that one.
    Subscriptions(SessionKey, FilterKey),
    /// The retained message in this row.
    Retained(u32),
}

impl Shard {
    /// Begins to tell, unless that is under way.
    pub(super) fn begin_dump(&mut self, now: Instant, effects: &mut Effects) {
        if self.dump.is_none() {
            self.dump = Some(Cursor::Session(0));
            self.continue_dump(now, effects);
        }
    }

    /// One line for each Session, subscription and retained message that the turn has time for. What
    /// changes while a dump is under way is told as it is when its turn comes.
    pub(super) fn continue_dump(&mut self, now: Instant, effects: &mut Effects) {
        let Some(cursor) = self.dump.take() else {
            return;
        };
        let mut text = String::new();
        let is_start = matches!(cursor, Cursor::Session(0));
        // Writing to a `String` does not fail.
        let _ = match cursor {
            Cursor::Session(0) => writeln!(text, "Shard {}", self.id),
            _ => writeln!(text, "Shard {}, continued", self.id),
        };
        if let Cursor::Subscriptions(session, _) = cursor
            && let Some(member) = self.clients.members.get(session)
        {
            let name = on_one_line(&member.session.identity.client_identifier);
            let _ = writeln!(text, "  {name}, continued");
        }
        let heading_size = text.len();
        let mut next = Some(cursor);
        for _ in 0..VISITS_A_TURN {
            let Some(cursor) = next else {
                break;
            };
            next = self.tell(cursor, &mut text);
        }
        // Slots and rows may be empty for many turns.
        if is_start || text.len() > heading_size {
            effects.notices.push(Notice::Tree(text.into()));
        }
        self.dump = next;
        if self.dump.is_some() {
            self.arm_next_turn(Slot::Dump, now);
        }
    }

    /// Tells what is at `cursor`, and what comes after it.
    fn tell(&self, cursor: Cursor, text: &mut String) -> Option<Cursor> {
        match cursor {
            Cursor::Session(slot) if (slot as usize) < self.clients.members.slots() => {
                let session = self.clients.members.key_at(slot);
                let next = session.and_then(|session| {
                    self.tell_session(session, text);
                    self.tell_subscriptions(session, None, text)
                });
                Some(next.unwrap_or(Cursor::Session(slot + 1)))
            }
            Cursor::Subscriptions(session, last) => {
                let next = self.tell_subscriptions(session, Some(last), text);
                Some(next.unwrap_or(Cursor::Session(session.index + 1)))
            }
            // Every shard has the same.
            Cursor::Session(_) if self.id.0 == 0 => {
                let count = self.router.retained_count();
                let _ = writeln!(text, "Retained messages: {count}");
                Some(Cursor::Retained(0))
            }
            Cursor::Session(_) => None,
            Cursor::Retained(row) => {
                let (found, is_row) = self.router.retained_in_row(row);
                let message = found.map(|(message, _)| message);
                if let Some(message) = message.filter(|it| !it.topic_name().starts_with(b"$")) {
                    let topic_name = String::from_utf8_lossy(message.topic_name());
                    let topic_name = on_one_line(&topic_name);
                    let _ = writeln!(text, "  {topic_name} ({} bytes)", message.size());
                }
                is_row.then_some(Cursor::Retained(row + 1))
            }
        }
    }

    fn tell_session(&self, session: SessionKey, text: &mut String) {
        let Some(member) = self.clients.members.get(session) else {
            return;
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
            on_one_line(&session.identity.client_identifier),
            session.inflight.len(),
            session.queue.len(),
        );
    }

    /// Tells some of a Session's subscriptions, those behind `last`. What comes next if there may be more.
    fn tell_subscriptions(
        &self,
        session: SessionKey,
        last: Option<FilterKey>,
        text: &mut String,
    ) -> Option<Cursor> {
        let member = self.clients.members.get(session)?;
        let rest = member.subscriptions_behind(last);
        let (mut count, mut last) = (0, None);
        for (filter, _) in rest.take(SUBSCRIPTIONS_A_VISIT) {
            (count, last) = (count + 1, Some(filter));
            let filter = String::from_utf8_lossy(self.router.filter_text(filter));
            let _ = writeln!(text, "    {}", on_one_line(&filter));
        }
        let last = last.filter(|_| count == SUBSCRIPTIONS_A_VISIT)?;
        Some(Cursor::Subscriptions(session, last))
    }
}
