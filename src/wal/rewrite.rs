//! Writing a whole store at once: for another number of shards, and for what was imported.

#![forbid(unsafe_code)]

use super::directory::{Directory, DirectoryError, Manifest, SegmentName};
use super::inventory::Extent;
use super::segment::SEGMENT_HEADER_SIZE;
use super::storage::StoredFile;
use super::writer::{make_segment, size_of_pieces, write_pieces};
use crate::journal::{
    Journal, Lsn, Origins, Progress, Record, Replayed, ReplayedSession, StoredIdentity,
    StoredMessage, Suspect, WallClock, WillRecord,
};
use crate::key::ShardId;
use crate::message::Message;
use crate::shard::Placement;
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of journal at which they are written.
pub(super) const WRITE_SIZE: usize = 1 << 20;

/// What was written for one shard.
pub(super) struct Written {
    /// The frame that comes next.
    pub(super) next: Lsn,
    pub(super) segments: Vec<SegmentName>,
    /// Bytes of its frames.
    pub(super) size: u64,
}

impl Written {
    pub(super) fn extent(&self) -> Extent {
        Extent::of(&self.segments, self.next)
    }
}

/// Writes `replayed` as the generation that `manifest` names, and brings it to the disk. What each shard
/// has then. It counts once [`Directory::set_manifest`] says so.
///
/// # Errors
/// [`DirectoryError`].
pub(super) fn rewrite(
    directory: &Directory,
    manifest: &Manifest,
    replayed: &Replayed,
    clock: WallClock,
    segment_size: u64,
    ports: &[u16],
) -> Result<Vec<Written>, DirectoryError> {
    let placement = Placement::new(manifest.shard_count, manifest.seed);
    let mut written = Vec::new();
    let mut suspects: HashMap<u64, Vec<&Suspect>> = HashMap::new();
    for suspect in &replayed.suspects {
        let publisher = suspect.origin.session;
        suspects.entry(publisher).or_default().push(suspect);
    }
    for shard in 0..manifest.shard_count {
        let id = ShardId(shard as u16);
        let mut file = ShardFile::new(directory, manifest, shard, clock, segment_size, ports);
        let mine = replayed.sessions.values().filter(|session| {
            let identifier = session.client_identifier();
            placement.shard_of(identifier) == id
        });
        for session in mine {
            file.session(session, suspects.get(&session.session))?;
        }
        for retained in &replayed.retained {
            if placement.shard_of_bytes(retained.message.topic_name()) == id
                && !retained.is_removal()
            {
                let content = StoredMessage::new(retained.message.as_ref().as_ref(), clock);
                let version = retained.version;
                let source = retained.message.source();
                file.journal.append(&Record::Retained {
                    version,
                    source: source.map(|source| StoredIdentity::new(source, ports)),
                    content,
                });
                file.end_packet(false)?;
            }
        }
        written.push(file.finish()?);
    }
    directory.storage().sync().map_err(directory.at(""))?;
    Ok(written)
}

struct ShardFile<'a> {
    directory: &'a Directory,
    generation: u64,
    shard: u64,
    segment_size: u64,
    clock: WallClock,
    ports: &'a [u16],
    journal: Journal,
    /// Names of messages that several Sessions are owed.
    names: HashMap<*const Message, u64>,
    next: Lsn,
    file: Option<(Box<dyn StoredFile>, u64, u64)>,
    segments: Vec<SegmentName>,
    /// Bytes written.
    size: u64,
}

impl<'a> ShardFile<'a> {
    fn new(
        directory: &'a Directory,
        manifest: &Manifest,
        shard: usize,
        clock: WallClock,
        segment_size: u64,
        ports: &'a [u16],
    ) -> Self {
        Self {
            directory,
            generation: manifest.generation,
            shard: shard as u64,
            segment_size,
            clock,
            ports,
            journal: Journal::new(shard, manifest.shard_count, Origins::default(), clock),
            names: HashMap::new(),
            next: 1,
            file: None,
            segments: Vec::new(),
            size: 0,
        }
    }

    /// A Session, and what it may send again.
    fn session(
        &mut self,
        session: &ReplayedSession,
        suspects: Option<&Vec<&Suspect>>,
    ) -> Result<(), DirectoryError> {
        let Some(identity) = &session.identity else {
            return Ok(());
        };
        let name = session.session;
        // All before those that are open are over.
        let open = suspects.into_iter().flatten();
        let first = open.clone().map(|it| it.origin.exchange).min();
        let taken_up_to = first.map_or(session.exchanges, |first| first.saturating_sub(1));
        let will = session.will.as_ref().map(|will| WillRecord {
            message: StoredMessage::new(will.message.as_ref(), self.clock),
            delay_interval_s: will.delay_interval_s,
            message_expiry_interval_s: will.message_expiry_interval_s,
        });
        if session.is_ending {
            // Before its Will, if that is what there is of it.
            self.journal.append(&Record::Ending { session: name });
        }
        self.journal.append(&Record::Session {
            session: name,
            identity: StoredIdentity::new(identity, self.ports),
            expiry_interval_s: session.expiry_interval_s,
            next_sequence: session.next_sequence,
            exchanges: taken_up_to,
            window: session.window,
            will,
        });
        if session.left_before.max(session.sent_before) > 0 {
            self.journal.append(&Record::Interrupted {
                session: name,
                sent_before: session.sent_before,
                left_before: session.left_before,
            });
        }
        if !session.is_connected {
            self.journal.append(&Record::Detached {
                session: name,
                expires_at_ms: session.expires_at_ms,
                will_at_ms: session.will_at_ms,
            });
        }
        for (filter, subscription) in &session.subscriptions {
            self.journal.append(&Record::Subscribed {
                session: name,
                filter,
                options: subscription.options,
                identifier: subscription.identifier,
                is_replaying: subscription.is_replaying,
            });
        }
        for &packet_identifier in &session.inbound {
            self.journal.append(&Record::Received {
                session: name,
                packet_identifier,
                exchange: taken_up_to,
            });
        }
        for suspect in open {
            suspect.append_to(&mut self.journal);
        }
        for delivery in &session.deliveries {
            let sequence = delivery.sequence;
            match (&delivery.message, delivery.progress) {
                (None, _) | (_, Progress::Released) => self.journal.append(&Record::Released {
                    session: name,
                    sequence,
                }),
                (Some(message), progress) => {
                    let message = self.message(message);
                    let identifiers: Vec<[u8; 4]> = delivery
                        .subscription_identifiers
                        .iter()
                        .map(|identifier| identifier.get().to_le_bytes())
                        .collect();
                    self.journal.append(&Record::Delivery {
                        session: name,
                        sequence,
                        message,
                        qos: delivery.qos,
                        retain: delivery.retain,
                        sent: progress == Progress::Sent,
                        share: delivery.share.as_deref(),
                        subscription_identifiers: &identifiers,
                    });
                }
            }
            self.end_packet(false)?;
        }
        Ok(())
    }

    fn message(&mut self, message: &Arc<Message>) -> u64 {
        if let Some(&name) = self.names.get(&Arc::as_ptr(message)) {
            return name;
        }
        let shared = Arc::strong_count(message) > 1;
        let name = self.journal.name_message();
        self.journal.append(&Record::Message {
            message: name,
            shared,
            origin: None,
            content: StoredMessage::new(message.as_ref().as_ref(), self.clock),
        });
        if shared {
            self.names.insert(Arc::as_ptr(message), name);
        }
        name
    }

    fn end_packet(&mut self, is_last: bool) -> Result<(), DirectoryError> {
        self.journal.end_packet();
        if self.journal.size() < WRITE_SIZE && !is_last {
            return Ok(());
        }
        let mut frames = Vec::new();
        let Some(last) = self.journal.take(&mut frames) else {
            return Ok(());
        };
        let size = size_of_pieces(&frames);
        if self
            .file
            .as_ref()
            .is_none_or(|(_, offset, room)| offset + size > *room)
        {
            self.begin_segment(size)?;
        }
        if let Some((file, offset, _)) = &mut self.file {
            let at = self.directory.at("");
            *offset = write_pieces(file.as_mut(), &frames, *offset).map_err(at)?;
        }
        self.size += size;
        self.next = last + 1;
        Ok(())
    }

    fn begin_segment(&mut self, size: u64) -> Result<(), DirectoryError> {
        self.sync()?;
        let name = SegmentName {
            generation: self.generation,
            shard: self.shard,
            first: self.next,
        };
        let storage = &**self.directory.storage();
        let (file, room) = make_segment(storage, name, &[], size, self.segment_size)
            .map_err(self.directory.at(&name.file_name()))?;
        self.file = Some((file, SEGMENT_HEADER_SIZE as u64, room));
        self.segments.push(name);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DirectoryError> {
        match self.file.take() {
            Some((mut file, offset, _)) => file
                // Room that was not needed is given back.
                .set_len(offset)
                .and_then(|()| file.sync_all())
                .map_err(self.directory.at(""))?,
            None => return Ok(()),
        }
        self.journal.set_synced(self.next - 1);
        Ok(())
    }

    fn finish(mut self) -> Result<Written, DirectoryError> {
        self.end_packet(true)?;
        self.sync()?;
        Ok(Written {
            next: self.next,
            segments: self.segments,
            size: self.size,
        })
    }
}
