//! A disk under control: it forgets what was not brought to it, tears, refuses, runs full, rots.
//!
//! What processes see is the cache. What a power failure leaves is the platter: everything that a sync
//! brought there, and of what came later whatever chance decides, sector by sector. Changes of names since
//! they were last brought there are kept or lost one by one, in any order: a journaling file system keeps
//! them up to some point, others promise nothing, and all that can be relied on is that a file has its old
//! name or its new one. After a sync that failed the cache counts as clean, so the next one succeeds and
//! brings nothing.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::random::Random;
use crate::journal::WallClock;
use crate::wal::{Directory, OpenError, Source, Storage, Store, StoreOptions, StoredFile, open};

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// What the disk does to those who use it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// There is no room that was not set aside before.
    pub is_full: bool,
    /// Percent of operations that fail.
    pub failing: usize,
    /// What a sync that fails did not bring to the platter is not shown for long either.
    pub forgets: bool,
    /// Operations until the power fails; everything fails from then on.
    pub power_for: Option<usize>,
}

/// A disk, and whoever uses it.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Clone, Debug)]
struct State {
    random: Random,
    faults: Faults,
    names: BTreeMap<String, usize>,
    /// Changes of names since they were last brought to the platter, oldest first.
    renamings: Vec<Renaming>,
    names_on_platter: BTreeMap<String, usize>,
    files: Vec<File>,
    /// Syncs done.
    syncs: u64,
}

/// Names that change at once, and the files that they are of then, if any.
#[derive(Clone, Debug)]
struct Renaming(Vec<(String, Option<usize>)>);

#[derive(Clone, Debug, Default)]
struct File {
    cache: Vec<u8>,
    platter: Vec<u8>,
    /// What the platter does not have, oldest first.
    dirty: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Resize(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => put(content, *offset, bytes),
            Self::Resize(size) => content.resize(*size, 0),
        }
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl File {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.cache);
        self.dirty.push(change);
    }

    fn sync(&mut self) {
        for change in self.dirty.drain(..) {
            change.apply(&mut self.platter);
        }
    }

    /// Some of what is dirty comes to the platter, in no order.
    fn leak(&mut self, random: &mut Random) {
        for change in std::mem::take(&mut self.dirty) {
            match (random.below(3), change) {
                (0, _) => {}
                (1, Change::Write { offset, bytes }) => {
                    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                        if random.chance(50) {
                            put(&mut self.platter, offset + index * SECTOR, sector);
                        }
                    }
                }
                (_, change) => change.apply(&mut self.platter),
            }
        }
    }
}

impl Renaming {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        for (name, file) in self.0 {
            match file {
                Some(file) => names.insert(name, file),
                None => names.remove(&name),
            };
        }
    }
}

impl State {
    /// What an operation does before it does anything.
    fn begin(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.faults.power_for {
            if *left == 0 {
                return Err(io::Error::other("no power"));
            }
            *left -= 1;
        }
        if self.random.chance(self.faults.failing) {
            return Err(io::Error::other("simulated I/O error"));
        }
        Ok(())
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&mut self, names: Vec<(String, Option<usize>)>) {
        let renaming = Renaming(names);
        renaming.clone().apply(&mut self.names);
        self.renamings.push(renaming);
    }

    /// The power fails: some changes of names come to the platter, and the others never happened.
    fn leak_names(&mut self) {
        let Self {
            random, renamings, ..
        } = self;
        match random.below(3) {
            // As a journal keeps them.
            0 => renamings.truncate(random.below(renamings.len() + 1)),
            1 => renamings.retain(|_| random.chance(50)),
            // All but one: what only counts together with another one is seen without it.
            _ if renamings.is_empty() => {}
            _ => drop(renamings.remove(random.below(renamings.len()))),
        }
        self.sync_names();
    }

    fn sync_names(&mut self) {
        for renaming in self.renamings.drain(..) {
            renaming.apply(&mut self.names_on_platter);
        }
    }
}

impl Disk {
    /// An empty one.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self(Arc::new(Mutex::new(State {
            random,
            faults: Faults::default(),
            names: BTreeMap::new(),
            renamings: Vec::new(),
            names_on_platter: BTreeMap::new(),
            files: Vec::new(),
            syncs: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The data directory on it.
    #[must_use]
    pub fn directory(&self) -> Directory {
        Directory::in_storage(Arc::new(self.clone()))
    }

    /// A broker starts with what is stored on it, one second after 1970 began. All of its lives are as if of one
    /// process, whose clock goes on.
    ///
    /// # Errors
    /// What is stored is damaged, or cannot be read or written.
    pub fn open(
        &self,
        options: &StoreOptions,
        shards: usize,
        seed: u64,
    ) -> Result<Store, OpenError> {
        let clock = WallClock { start_ms: 1000 };
        open(self.directory(), options, shards, seed, clock, &[0])
    }

    /// Behaves like that from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Goes on with other random numbers.
    #[cfg(test)]
    pub(super) fn set_random(&self, random: Random) {
        self.state().random = random;
    }

    /// Whether the power has not failed.
    #[cfg(test)]
    pub(super) fn has_power(&self) -> bool {
        self.state().faults.power_for != Some(0)
    }

    /// Syncs that succeeded.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// The power fails and comes back.
    pub fn lose_power(&self) {
        let state = &mut *self.state();
        state.faults = Faults::default();
        state.leak_names();
        state.names = state.names_on_platter.clone();
        for file in &mut state.files {
            file.leak(&mut state.random);
            file.cache = file.platter.clone();
        }
    }

    /// A copy of all that is there.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// What a file holds.
    #[must_use]
    pub fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        let file = state.names.get(name).map(|&file| &state.files[file]);
        file.map_or_else(Vec::new, |file| file.cache.clone())
    }

    /// Turns one bit of a file over.
    pub fn flip(&self, name: &str, bit: usize) {
        let state = &mut *self.state();
        if let Some(&file) = state.names.get(name) {
            let file = &mut state.files[file];
            for content in [&mut file.cache, &mut file.platter] {
                if let Some(byte) = content.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
    }
}

impl Storage for Disk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("simulated").join(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.begin()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Box<dyn StoredFile>> {
        let state = &mut *self.state();
        state.begin()?;
        // One that is there stays the same file, whatever else its name is going to be.
        let file = match state.names.get(name) {
            Some(&file) => file,
            None => {
                let file = state.files.len();
                state.files.push(File::default());
                state.rename(vec![(name.to_owned(), Some(file))]);
                file
            }
        };
        if !state.files[file].cache.is_empty() {
            state.files[file].change(Change::Resize(0));
        }
        if size > 0 {
            if state.faults.is_full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.files[file].change(Change::Resize(size as usize));
        }
        let disk = self.clone();
        Ok(Box::new(Open { disk, file }))
    }

    fn open(&self, name: &str) -> io::Result<(Box<dyn Source>, u64)> {
        let mut state = self.state();
        state.begin()?;
        let file = state.find(name)?;
        let content = state.files[file].cache.clone();
        let size = content.len() as u64;
        Ok((Box::new(Cursor::new(content)), size))
    }

    fn open_to_write(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        let mut state = self.state();
        state.begin()?;
        let file = state.find(name)?;
        let disk = self.clone();
        Ok(Box::new(Open { disk, file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        let file = state.find(from)?;
        state.rename(vec![(from.to_owned(), None), (to.to_owned(), Some(file))]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        state.find(name)?;
        state.rename(vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let state = &mut *self.state();
        state.begin()?;
        state.sync_names();
        Ok(())
    }
}

/// A file that is written.
#[derive(Debug)]
struct Open {
    disk: Disk,
    file: usize,
}

impl StoredFile for Open {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let state = &mut *self.disk.state();
        let offset = offset as usize;
        let file = &mut state.files[self.file];
        let has_room = offset + bytes.len() <= file.cache.len();
        let (bytes, outcome) = if state.faults.is_full && !has_room {
            (&bytes[..0], Err(io::ErrorKind::StorageFull.into()))
        } else {
            match state.begin() {
                Ok(()) => (bytes, Ok(())),
                // Some of it.
                Err(error) => (&bytes[..state.random.below(bytes.len() + 1)], Err(error)),
            }
        };
        let bytes = bytes.to_vec();
        state.files[self.file].change(Change::Write { offset, bytes });
        outcome
    }

    fn set_len(&mut self, size: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.begin()?;
        state.files[self.file].change(Change::Resize(size as usize));
        Ok(())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        let state = &mut *self.disk.state();
        let outcome = state.begin();
        let file = &mut state.files[self.file];
        if outcome.is_ok() {
            file.sync();
            state.syncs += 1;
        } else if state.faults.power_for != Some(0) {
            file.leak(&mut state.random);
            if state.faults.forgets {
                file.cache.clone_from(&file.platter);
            }
        }
        outcome
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
