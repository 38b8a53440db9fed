//! What is counted of each bridge, for whoever asks.

#![forbid(unsafe_code)]

use super::topics::Way;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What the bridges of a broker have done. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct BridgeTable(Arc<Mutex<Vec<Arc<BridgeNumbers>>>>);

/// What one bridge has done, now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BridgePicture {
    /// What it is called.
    pub name: String,
    /// Whether it is connected.
    pub is_connected: bool,
    /// Messages that went to the remote broker.
    pub sent: u64,
    /// Messages that came from there.
    pub received: u64,
    /// Messages that were not passed on.
    pub dropped: u64,
}

/// What one bridge counts.
#[derive(Debug, Default)]
pub(super) struct BridgeNumbers {
    name: String,
    is_connected: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    dropped: AtomicU64,
}

impl BridgeTable {
    /// As it is now.
    #[must_use]
    pub fn read(&self) -> Vec<BridgePicture> {
        let bridges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bridges.iter().map(|bridge| bridge.read()).collect()
    }

    pub(super) fn add(&self, name: &str) -> Arc<BridgeNumbers> {
        let numbers = Arc::new(BridgeNumbers {
            name: name.to_owned(),
            ..BridgeNumbers::default()
        });
        let mut bridges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was there before and has ended.
        bridges.retain(|bridge| bridge.name != name);
        bridges.push(numbers.clone());
        numbers
    }

    pub(super) fn remove(&self, name: &str) {
        let mut bridges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bridges.retain(|bridge| bridge.name != name);
    }
}

impl BridgeNumbers {
    fn read(&self) -> BridgePicture {
        BridgePicture {
            name: self.name.clone(),
            is_connected: self.is_connected.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    pub(super) fn set_connected(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Relaxed);
    }

    pub(super) fn count(&self, way: Way) {
        let count = match way {
            Way::Out => &self.sent,
            Way::In => &self.received,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}
