"""Where a sample of a broker's CPU time belongs: a fixed table of places, in the kernel and outside of it.

A kernel sample is judged by all functions it was called through, because what costs is seldom what is
wanted: waking the reader is `_raw_spin_unlock_irqrestore` below `sock_def_readable`. A sample outside the
kernel is judged by the file that the innermost line of ours comes from, however much was inlined into
what, and by its callers where that is none of ours.
"""

import re

#: Name to what it holds, in the order in which a byte meets them.
KERNEL = {
    "receive": "`recv`: from the socket's queue to the shard's buffer, without the copy; acknowledging to the sender",
    "send": "`send`: from the shard's buffer to a packet at the loopback device, without the copy",
    "other end": "what the network would carry to the other machine: its TCP, run by the sender's CPU on loopback",
    "waking": "waking the thread that waits for what was sent",
    "copies": "copying between user and kernel memory",
    "io_uring": "taking submissions, polling, posting completions",
    "entry": "entering and leaving the kernel",
    "scheduler": "waiting for the next event: switching to idle and back",
    "connections": "accepting, opening and closing sockets",
    "page faults": "memory that was not mapped yet",
    "kernel, rest": "interrupts, timers, what is named nowhere above",
}
USER = {
    "rings and runtime": "the shard's loop, `io_uring_enter` and its queues, the clock",
    "data path": "`net`: completions to bytes, output to sends, buffers",
    "codec": "`codec`, `topic`: packets and topics read, checked and written",
    "routing": "`router`: who wants a topic",
    "delivery": "`session`, `shard/clients.rs`: inflight windows, queues, outboxes",
    "publishing": "`shard/publish.rs`, the dispatch of packets",
    "core, rest": "everything else of `shard`, and `auth`, `policy`, `metrics`, the log's records",
    "forwarder": "the null broker's own",
    "allocator": "`mimalloc`",
    "memory": "`memcpy` and its kin",
    "user, rest": "what is none of ours, and named nowhere above",
}
PLACES = KERNEL | USER

#: The first rule with one of these on the way to the sample decides; a name that ends in `*` is a beginning.
RULES = (
    ("page faults", "asm_exc_page_fault exc_page_fault"),
    ("waking", "sock_def_readable sock_def_write_space sk_stream_write_space sock_def_error_report __wake_up* try_to_wake_up "
               "wake_up_* io_poll_wake ep_poll_callback io_msg_ring* eventfd_signal* eventfd_write"),
    ("scheduler", "schedule schedule_hrtimeout* schedule_timeout* __schedule finish_task_switch* preempt_schedule* schedule_tail"),
    ("connections", "io_accept inet_accept inet_csk_accept __x64_sys_close __x64_sys_shutdown __x64_sys_getpeername "
                    "__x64_sys_setsockopt __x64_sys_getsockname __x64_sys_accept4 __fput fput_close_sync "
                    "____fput sock_close task_work_run io_socket io_connect "
                    "__x64_sys_socket __x64_sys_connect"),
    ("other end", "net_rx_action process_backlog __netif_receive_skb* tcp_v4_rcv tcp_v6_rcv do_softirq* handle_softirqs"),
    ("send", "io_send io_sendmsg sock_sendmsg __sock_sendmsg tcp_sendmsg tcp_sendmsg_locked __x64_sys_sendto __x64_sys_write"),
    ("receive", "io_recv io_recvmsg sock_recvmsg tcp_recvmsg tcp_recvmsg_locked __x64_sys_recvfrom __x64_sys_read"),
    ("io_uring", "io_* __io_* __do_sys_io_uring_enter __x64_sys_io_uring_enter tcp_poll sock_poll"),
    ("kernel, rest", "asm_sysvec_* asm_common_interrupt* __sysvec_* irqentry_*"),
    ("entry", "do_syscall_64 entry_SYSCALL_64* syscall_* __x64_sys_* x64_sys_call entry_SYSRETQ* syscall_return_via_sysret"),
)
COPIES = ("_copy_to_iter _copy_from_iter copy_user_* rep_movs_alternative rep_stos_alternative copy_to_user* _copy_to_user "
          "_copy_from_user copy_page_from_iter* copy_page_to_iter* __memcpy memcpy_orig raw_copy_* "
          "simple_copy_to_iter csum_and_copy_* skb_copy_bits")


def matcher(names):
    names = names.split()
    return re.compile("|".join(f"{re.escape(name[:-1])}.*" if name.endswith("*") else re.escape(name) for name in names)).fullmatch


RULES = tuple((place, matcher(names)) for place, names in RULES)
IS_COPY = matcher(COPIES)


def kernel_place(functions):
    """`functions` from the sampled one to the outermost, those of the kernel only."""
    if functions and IS_COPY(functions[0]):
        return "copies"
    for place, matches in RULES:
        if any(matches(function) for function in functions):
            # What is below `io_uring_enter` is a system call too, and all of the scheduler's is waiting.
            return place
    return "kernel, rest"


#: Files by which a line of ours belongs somewhere, the first that fits; below `src/` where nothing else is said.
FILES = (
    ("benches/null_broker/", "forwarder"),
    ("net/uring.rs", "rings and runtime"),
    ("net/waker.rs", "rings and runtime"),
    ("net/peers.rs", "forwarder"),
    ("net/", "data path"),
    ("runtime/", "rings and runtime"),
    ("ring/", "rings and runtime"),
    ("codec/", "codec"),
    ("topic/", "codec"),
    ("router/", "routing"),
    ("session/", "delivery"),
    ("shard/clients.rs", "delivery"),
    ("shard/pool.rs", "delivery"),
    ("shard/publish.rs", "publishing"),
    ("shard/mod.rs", "publishing"),
    ("shard/connection.rs", "publishing"),
    ("shard/", "core, rest"),
    ("auth/", "core, rest"),
    ("policy", "core, rest"),
    ("metrics/", "core, rest"),
    ("journal/", "core, rest"),
    ("log/", "core, rest"),
    ("server/", "core, rest"),
    ("admin/", "core, rest"),
)
#: Tables and small types, which belong to whoever uses them.
PLUMBING = ("shard/slab.rs", "router/slab.rs", "chunks.rs", "key.rs", "message.rs", "time.rs", "limits.rs", "origin.rs", "main.rs",
            "net/core.rs")
ALLOCATOR = re.compile(r"_?mi_.*|__rust_(alloc|dealloc|realloc|no_alloc).*|__rustc::__rust_.*")
MEMORY = re.compile(r"_*(memmove|memcpy|memset|mempcpy)(_.*)?")
CLOCK = re.compile(r".*(clock_gettime|Timespec>?::now|Instant>?::now).*")


def our_file(path):
    """The part of a source path by which it is known here; None for what is not ours."""
    if path is None or "/.cargo/" in path or "/rustc/" in path:
        return None
    # The last one: a checkout may lie below a folder of that name.
    found = re.search(r".*/(benches/null_broker/.*|(?<=/src/).*)$", f"/{path}")
    return found and found[1]


def line_place(path):
    """The place of a line of source; None if it belongs to its caller."""
    name = our_file(path)
    if name is None or name in PLUMBING:
        return None
    return next((place for start, place in FILES if name.startswith(start)), "user, rest")


def user_place(frames):
    """`frames` from the sampled one to the outermost: (symbol, [(function, path), innermost first])."""
    for number, (symbol, lines) in enumerate(frames):
        if ALLOCATOR.fullmatch(symbol):
            return "allocator"
        if MEMORY.fullmatch(symbol) and number == 0:
            return "memory"
        if CLOCK.fullmatch(symbol) or symbol == "syscall":
            return "rings and runtime"
        for function, path in lines:
            if path and ("/mimalloc-" in path or "/libmimalloc-sys-" in path):
                return "allocator"
            if path and ("/io-uring-" in path or "/glommio-" in path):
                return "rings and runtime"
            if place := line_place(path):
                return place
    return "user, rest"
