//! Listening sockets that tell of a connection once its peer has spoken.
//!
//! Whoever connects to a broker speaks first: CONNECT, or the handshake that comes before it. Until then there
//! is nothing to do for a connection, so the kernel keeps it to itself and a shard is woken once for both. Of a
//! connection whose peer stays silent it tells a second later.

use socket2::Socket;
use std::os::fd::AsRawFd;

/// How long the kernel waits for a peer's first bytes. Its unit is that of a retransmitted SYN-ACK, the
/// first of which comes after a second.
const SILENCE_S: libc::c_int = 1;

/// Has `socket`, which does not listen yet, wait for what connections have to say. Where that is not to be had
/// it tells of them at once.
pub(super) fn defer_accept(socket: &Socket) {
    let silence_s = SILENCE_S;
    // SAFETY: the value is an `int` that lives until the call returns, as this option and the size say.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const silence_s).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}
