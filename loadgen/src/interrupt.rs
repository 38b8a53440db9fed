//! SIGINT and SIGTERM while a load is measured: what was measured until then is told; a second one ends all at once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

static CAME: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on the first one is kept for [`came`].
pub fn heed() -> io::Result<()> {
    let came = Arc::new(AtomicBool::new(false));
    if CAME.set(came.clone()).is_err() {
        return Ok(());
    }
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first one finds the flag down, and raises it.
        flag::register_conditional_default(signal, came.clone())?;
        flag::register(signal, came.clone())?;
    }
    Ok(())
}

pub fn came() -> bool {
    CAME.get().is_some_and(|came| came.load(Ordering::Relaxed))
}
