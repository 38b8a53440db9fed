//! A shard's own `io_uring`: set up for one thread that both submits and reaps.
//!
//! The executor's ring has the flags of 2020; this one lets the kernel run completions only when the
//! shard asks for them (`DEFER_TASKRUN`), which costs a third less CPU on many connections than
//! interrupting it does.

use super::buffer_ring::BufferRing;
use super::patience::when_memory_can_be_locked;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use socket2::SockAddr;
use std::io;
use std::mem::ManuallyDrop;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Submissions that fit before a system call is due. The rings count against the memory that a user
/// may lock, about 200 KiB with these sizes.
const SUBMISSIONS: u32 = 1024;
/// Completions that fit before the kernel has to queue them elsewhere.
const COMPLETIONS: u32 = 8192;
/// The group id of the only buffer ring.
const BUFFER_GROUP: u16 = 0;
/// `IORING_RECVSEND_POLL_FIRST`: the socket is known to be empty, do not try before polling.
const POLL_FIRST: u16 = 1 << 0;
/// `IORING_RECV_MULTISHOT`.
const RECV_MULTISHOT: u16 = 1 << 1;
/// `IORING_REGISTER_RING_FDS`, `IORING_ENTER_*` and the argument of `io_uring_enter`, from
/// `linux/io_uring.h`. The crate can enter through a registered ring only while it borrows it.
const REGISTER_RING_FDS: libc::c_uint = 20;
const ENTER_GETEVENTS: libc::c_uint = 1;
const ENTER_EXT_ARG: libc::c_uint = 8;
const ENTER_REGISTERED_RING: libc::c_uint = 16;

#[repr(C)]
struct RegisterUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

#[repr(C)]
struct EnterArgument {
    signal_mask: u64,
    signal_mask_size: u32,
    min_wait_us: u32,
    timespec: u64,
}

/// What a completion is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Operation {
    /// Nothing to be done about it: a cancellation that found nothing, a wake-up.
    Ignored = 0,
    /// `index` is a connection.
    Receive = 1,
    /// `index` is a connection whose socket has room again.
    Writable = 2,
    /// `index` is a position in the list of this turn's sends.
    Send = 3,
    /// `index` is a listener.
    Accept = 4,
    /// The shard's waker was written to.
    Wake = 5,
    /// `index` is a connection whose receive could not be cancelled.
    CancelFailed = 6,
    /// `index` is a connection that is being made.
    Connect = 7,
}

/// Which sends have a completion.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Report {
    /// Those that failed or were cut short.
    Failure,
    /// All: something waits for the success.
    Always,
}

/// What a submission is marked with, so that its completion finds its way back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Token {
    pub(super) operation: Operation,
    pub(super) index: u32,
    /// Generation of the connection, the low 24 bits of it.
    pub(super) generation: u32,
}

impl Token {
    /// Bits of a generation that fit.
    pub(super) const GENERATION_MASK: u32 = (1 << 24) - 1;

    pub(super) fn new(operation: Operation, index: u32, generation: u32) -> Self {
        Self {
            operation,
            index,
            generation: generation & Self::GENERATION_MASK,
        }
    }

    fn encode(self) -> u64 {
        (self.operation as u64) << 56 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn decode(user_data: u64) -> Self {
        Self {
            operation: match user_data >> 56 {
                1 => Operation::Receive,
                2 => Operation::Writable,
                3 => Operation::Send,
                4 => Operation::Accept,
                5 => Operation::Wake,
                6 => Operation::CancelFailed,
                7 => Operation::Connect,
                _ => Operation::Ignored,
            },
            index: user_data as u32,
            generation: (user_data >> 32) as u32 & Self::GENERATION_MASK,
        }
    }
}

/// By which other shards wake the one that waits in this ring.
#[derive(Clone, Debug)]
pub struct RingHandle {
    fd: Arc<OwnedFd>,
}

/// The ring of one shard. Every method belongs to the thread that made it.
pub(super) struct Uring {
    ring: IoUring,
    /// Freed in `drop` once the kernel has let go of it.
    buffers: ManuallyDrop<BufferRing>,
    /// Index under which the kernel knows the ring without a descriptor lookup.
    registered: Option<u32>,
    /// Whether the kernel can wait for many completions a while, and for one after that: Linux 6.12 and later.
    waits_for_many: bool,
    handle: RingHandle,
}

fn build() -> io::Result<IoUring> {
    IoUring::builder()
        .dontfork()
        .setup_clamp()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)
}

/// Whether a ring of this kind can be made here at all, and used: each of the three system calls can be forbidden by
/// itself.
///
/// # Errors
/// What `io_uring_setup`, `io_uring_register` or `io_uring_enter` said.
pub fn probe() -> io::Result<()> {
    let mut uring = Uring::new()?;
    let nothing = opcode::Nop::new().build();
    // SAFETY: it refers to no memory.
    unsafe { uring.ring.submission().push(&nothing) }.map_err(io::Error::other)?;
    uring.ring.submit_and_wait(1).map(drop)
}

impl Uring {
    pub(super) fn new() -> io::Result<Self> {
        when_memory_can_be_locked(Self::try_new)
    }

    fn try_new() -> io::Result<Self> {
        let ring = build()?;
        let buffers = BufferRing::new();
        // SAFETY: page aligned, with that many entries; it stays where it is until `drop`, which
        // unregisters it first.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buffers.address(),
                buffers.entries(),
                BUFFER_GROUP,
                0,
            )?;
        }
        let registered = register(ring.as_raw_fd());
        let waits_for_many = ring.params().is_feature_min_timeout();
        // SAFETY: the ring's descriptor is open as long as `ring`, which outlives this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }.try_clone_to_owned()?;
        Ok(Self {
            ring,
            buffers: ManuallyDrop::new(buffers),
            registered,
            waits_for_many,
            handle: RingHandle { fd: Arc::new(fd) },
        })
    }

    pub(super) fn handle(&self) -> &RingHandle {
        &self.handle
    }

    pub(super) fn buffers(&self) -> &BufferRing {
        &self.buffers
    }

    pub(super) fn buffers_mut(&mut self) -> &mut BufferRing {
        &mut self.buffers
    }

    /// Puts one entry into the submission queue, entering the kernel if that is full.
    ///
    /// # Safety
    /// Memory that the entry refers to stays valid until the next [`Uring::enter`] or [`Uring::submit`]
    /// returns with an empty submission queue, and for operations that outlive it until their completion.
    #[inline]
    unsafe fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            self.enter(0, None);
        }
    }

    #[inline]
    pub(super) fn accept(&mut self, listener: RawFd, token: Token) {
        let entry = opcode::AcceptMulti::new(types::Fd(listener))
            .flags(libc::SOCK_CLOEXEC)
            .build()
            .user_data(token.encode());
        // SAFETY: refers to no memory.
        unsafe { self.push(&entry) }
    }

    /// Receives into the buffer ring: once, and no more than `at_most` bytes, or until it fails, ends
    /// or is cancelled.
    #[inline]
    pub(super) fn receive(&mut self, socket: RawFd, at_most: Option<NonZeroU32>, token: Token) {
        // With many receives the length has to be zero: each takes a buffer. The first bytes of a connection are
        // there when it is accepted; whoever receives many has just read what there was.
        let (length, ioprio) = match at_most {
            Some(at_most) => (at_most.get(), 0),
            None => (0, POLL_FIRST | RECV_MULTISHOT),
        };
        let entry = opcode::Recv::new(types::Fd(socket), std::ptr::null_mut(), length)
            .ioprio(ioprio)
            .buf_group(BUFFER_GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(token.encode());
        // SAFETY: the memory is the buffer ring's, which lives as long as the ring.
        unsafe { self.push(&entry) }
    }

    /// One completion when `socket` has something to be read, or has ended or failed.
    #[inline]
    pub(super) fn poll_readable(&mut self, socket: RawFd, token: Token) {
        self.poll(socket, libc::POLLIN, token);
    }

    /// Sends within the next `enter`, as much as the socket takes.
    ///
    /// # Safety
    /// `bytes` stay where they are until [`Uring::enter`] has returned.
    #[inline]
    pub(super) unsafe fn send(
        &mut self,
        socket: RawFd,
        bytes: &[u8],
        report: Report,
        token: Token,
    ) {
        // A larger send is cut short here and continued like one that the socket cut short.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(types::Fd(socket), bytes.as_ptr(), length)
            // Without waiting, so that it is over when `enter` returns; "wait for all", so that a
            // short send counts as failed and is not skipped.
            .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .flags(match report {
                Report::Always => squeue::Flags::empty(),
                Report::Failure => squeue::Flags::SKIP_SUCCESS,
            })
            .user_data(token.encode());
        // SAFETY: the caller's promise; a send that does not wait is over when `enter` returns.
        unsafe { self.push(&entry) }
    }

    /// One completion when `socket` has room again, or has failed.
    #[inline]
    pub(super) fn poll_writable(&mut self, socket: RawFd, token: Token) {
        self.poll(socket, libc::POLLOUT, token);
    }

    #[inline]
    fn poll(&mut self, socket: RawFd, events: libc::c_short, token: Token) {
        let entry = opcode::PollAdd::new(types::Fd(socket), events as u32)
            .build()
            .user_data(token.encode());
        // SAFETY: refers to no memory.
        unsafe { self.push(&entry) }
    }

    /// Connects `socket`; one completion says how that went.
    ///
    /// # Safety
    /// `address` stays where it is until [`Uring::enter`] has returned: the kernel copies it when it
    /// takes the submission.
    pub(super) unsafe fn connect(&mut self, socket: RawFd, address: &SockAddr, token: Token) {
        let entry = opcode::Connect::new(types::Fd(socket), address.as_ptr().cast(), address.len())
            .build()
            .user_data(token.encode());
        // SAFETY: the caller's promise.
        unsafe { self.push(&entry) }
    }

    /// Cancels what was submitted with `token`. That has its own last completion, soon; the attempt
    /// has one, with `on_failure`, only if there was nothing to cancel at that moment.
    pub(super) fn cancel(&mut self, token: Token, on_failure: Token) {
        let entry = opcode::AsyncCancel::new(token.encode())
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(on_failure.encode());
        // SAFETY: refers to no memory.
        unsafe { self.push(&entry) }
    }

    /// Posts a completion to another shard's ring, which ends its waiting there.
    pub(super) fn wake(&mut self, peer: &RingHandle) {
        let ignored = Token::new(Operation::Ignored, 0, 0).encode();
        let entry = opcode::MsgRingData::new(types::Fd(peer.fd.as_raw_fd()), 0, ignored, None)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(ignored);
        // SAFETY: refers to no memory.
        unsafe { self.push(&entry) }
    }

    /// A completion for each write to an eventfd, until one says that no more will follow.
    pub(super) fn poll_wakes(&mut self, eventfd: RawFd) {
        let entry = opcode::PollAdd::new(types::Fd(eventfd), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(Token::new(Operation::Wake, 0, 0).encode());
        // SAFETY: refers to no memory.
        unsafe { self.push(&entry) }
    }

    /// Submits what was pushed, and lets the kernel do nothing else.
    pub(super) fn submit(&mut self) {
        let pending = self.ring.submission().len() as u32;
        // SAFETY: without an argument; what the submissions refer to is the promise of `push`.
        let result = unsafe { self.enter_with(pending, 0, 0, std::ptr::null(), 0) };
        if !result.is_ok_and(|submitted| submitted >= pending) {
            self.enter(0, None);
        }
    }

    /// Submits what was pushed, and waits for `want` completions, at most `timeout`.
    ///
    /// Returns with an empty submission queue. Tells nothing of completions: those are in the queue.
    pub(super) fn enter(&mut self, want: u32, timeout: Option<Duration>) {
        self.enter_and_wait(want, timeout, Duration::ZERO);
    }

    /// The same; after `for_many` one completion is enough. On a kernel that cannot wait like this, one always is.
    pub(super) fn enter_for_many(&mut self, many: u32, for_many: Duration, timeout: Duration) {
        if self.waits_for_many {
            self.enter_and_wait(many, Some(timeout), for_many);
        } else {
            self.enter(1, Some(timeout));
        }
    }

    fn enter_and_wait(&mut self, want: u32, timeout: Option<Duration>, for_many: Duration) {
        loop {
            let pending = self.ring.submission().len() as u32;
            match self.enter_once(pending, want, timeout, for_many) {
                Ok(submitted) if submitted >= pending => return,
                // The kernel had no memory for the rest, or was interrupted: try those again.
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    // Nothing came in time. Whatever was pending is submitted before the wait.
                    Some(libc::ETIME | libc::EINTR) if pending == 0 => return,
                    Some(libc::ETIME | libc::EINTR) => {}
                    // Completions are queued outside of the ring because that is full: the caller
                    // has to reap before more is accepted.
                    Some(libc::EBUSY) if pending == 0 => return,
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => std::thread::yield_now(),
                    _ => panic!("io_uring_enter of a ring that worked until now: {error}"),
                },
            }
        }
    }

    #[inline]
    fn enter_once(
        &mut self,
        pending: u32,
        want: u32,
        timeout: Option<Duration>,
        for_many: Duration,
    ) -> io::Result<u32> {
        let timespec = timeout.map(types::Timespec::from);
        let argument = EnterArgument {
            signal_mask: 0,
            signal_mask_size: 0,
            min_wait_us: for_many.as_micros() as u32,
            timespec: timespec
                .as_ref()
                .map_or(0, |timespec| &raw const *timespec as u64),
        };
        let flags = ENTER_GETEVENTS | ENTER_EXT_ARG;
        // SAFETY: the argument and its timespec live until the call returns. What the submissions
        // refer to is the promise of `push`.
        unsafe {
            self.enter_with(
                pending,
                want,
                flags,
                &raw const argument,
                size_of::<EnterArgument>(),
            )
        }
    }

    /// The system call.
    ///
    /// # Safety
    /// `argument` is what `flags` say, and valid until this returns, as is what the first `pending` submissions refer to.
    #[inline]
    unsafe fn enter_with(
        &self,
        pending: u32,
        want: u32,
        flags: u32,
        argument: *const EnterArgument,
        size: usize,
    ) -> io::Result<u32> {
        let (fd, registered) = match self.registered {
            Some(index) => (index as libc::c_int, ENTER_REGISTERED_RING),
            None => (self.ring.as_raw_fd(), 0),
        };
        let flags = flags | registered;
        // SAFETY: the caller's promise.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd,
                pending,
                want,
                flags,
                argument,
                size,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(result as u32)
        }
    }

    /// What was pushed and not submitted yet.
    #[inline]
    pub(super) fn pending(&mut self) -> usize {
        self.ring.submission().len()
    }

    /// Moves all completions into `completions`.
    pub(super) fn reap(&mut self, completions: &mut Vec<cqueue::Entry>) {
        loop {
            completions.extend(self.ring.completion());
            // Completions that found the ring full wait in the kernel until it is entered again. A
            // send whose failure is among them must not pass for a success.
            if !self.ring.submission().cq_overflow() {
                return;
            }
            self.enter(0, None);
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // A receive takes a buffer at the moment it copies into it, so once the group is gone none
        // can write any more, though closing the ring ends them only later.
        if self
            .ring
            .submitter()
            .unregister_buf_ring(BUFFER_GROUP)
            .is_ok()
        {
            // SAFETY: dropped here only, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.buffers) }
        }
        // Otherwise (dropped on another thread than its own) the buffers are leaked, not freed.
    }
}

/// Registers the ring with itself. `None` if the kernel does not want to: then it is found by its
/// descriptor.
fn register(ring: RawFd) -> Option<u32> {
    let mut update = RegisterUpdate {
        offset: u32::MAX,
        reserved: 0,
        data: ring as u64,
    };
    // SAFETY: one update, which the kernel reads and writes during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring,
            REGISTER_RING_FDS,
            &raw mut update,
            1,
        )
    };
    (result == 1).then_some(update.offset)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_way_through_the_kernel() {
        for operation in [
            Operation::Ignored,
            Operation::Receive,
            Operation::Writable,
            Operation::Send,
            Operation::Accept,
            Operation::Wake,
            Operation::CancelFailed,
            Operation::Connect,
        ] {
            let token = Token::new(operation, u32::MAX, 0xABCD_EF01);
            assert_eq!(Token::decode(token.encode()), token);
            assert_eq!(token.generation, 0xCD_EF01);
        }
    }
}
