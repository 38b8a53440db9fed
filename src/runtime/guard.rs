//! Keeps the executor from sleeping through its own work.
//!
//! glommio 0.9 decides that there is nothing to run when its preemption timer has fired before it
//! has looked at its queues, which happens whenever the thread loses its core at that moment for as
//! long as the timer runs. If no event is at hand either it sleeps until there is one, with runnable
//! tasks in its queues: for a shard that waits for nothing, for ever. It does wake for a timer of
//! ours, so one is always set while the shard's task is not running.

#![forbid(unsafe_code)]

use glommio::timer::Timer;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

/// Awaits `future`, which at the latest every `period` gets the chance to notice that it is ready.
pub(super) async fn guarded<F: Future>(future: F, period: Duration) -> F::Output {
    let mut future = pin!(future);
    let mut timer = Timer::new(period);
    poll_fn(move |context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(output);
        }
        while Pin::new(&mut timer).poll(context).is_ready() {
            timer = Timer::new(period);
        }
        Poll::Pending
    })
    .await
}
