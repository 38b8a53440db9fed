"""Where samples belong, and what becomes of them in the tables of a profile."""

import unittest

from scripts import script

perf_profile = script("perf-profile")

from perf import places, profile, results, workloads  # noqa: E402

SCRIPT = """\
fastmq-0-1 29714 80669.434490: 
\tffffffff82203249 _raw_spin_unlock_irqrestore+0x19 ([kernel.kallsyms])
\tffffffff81e2d63e sock_def_readable+0x1e ([kernel.kallsyms])
\tffffffff820369a2 tcp_v4_rcv+0xe62 ([kernel.kallsyms])
\tffffffff81b63d62 io_send+0x162 ([kernel.kallsyms])
\t           f8a1a syscall+0x1d (/usr/lib/libc.so.6)

fastmq-0-1 29714 80669.500000: 
\t          16d809 __memmove_avx512_unaligned_erms+0x9 (/usr/lib/libc.so.6)
\t          2fe3a2 fastmq::codec::publish::<impl A for B>::encode (with) (/opt/fastmq)
\tffffffffffffffff [unknown] ([unknown])

a name 29714 80669.600000: 
\t          2fe3a2 fastmq::codec::publish::encode+0x4 (/opt/fastmq)
"""

ADDR2LINE = """\
0x32d149
allocate
/home/me/.cargo/registry/src/index/mimalloc-0.1.52/src/lib.rs:51
fastmq::router::Router::intern::h83817b09c41a28e7
/home/me/fastmq/src/router/mod.rs:623
0x1
??
??:0
"""


class Kernel(unittest.TestCase):
    def test_the_way_to_a_sample_decides_and_not_its_innermost_function(self):
        lock = "_raw_spin_unlock_irqrestore"
        loopback = ["tcp_v4_rcv", "net_rx_action", "__dev_queue_xmit", "tcp_sendmsg", "io_send", "__do_sys_io_uring_enter"]
        for place, way in (
                ("waking", ["__wake_up_sync_key", "sock_def_readable", *loopback]),
                ("other end", loopback),
                ("send", ["tcp_write_xmit", "tcp_sendmsg", "io_send", "__do_sys_io_uring_enter"]),
                ("receive", ["tcp_recvmsg_locked", "io_recv", "io_poll_task_func", "__do_sys_io_uring_enter"]),
                ("io_uring", ["io_poll_task_func", "io_cqring_wait", "__do_sys_io_uring_enter", "do_syscall_64"]),
                ("scheduler", ["finish_task_switch.isra.0", "schedule", "io_cqring_wait", "__do_sys_io_uring_enter"]),
                ("connections", ["tcp_close", "sock_close", "__fput", "__x64_sys_close", "do_syscall_64"]),
                ("page faults", ["do_anonymous_page", "asm_exc_page_fault", "_copy_to_iter", "tcp_recvmsg", "io_recv"]),
                ("entry", ["do_syscall_64", "entry_SYSCALL_64_after_hwframe"]),
                ("kernel, rest", ["asm_sysvec_apic_timer_interrupt"])):
            self.assertEqual(places.kernel_place([lock, *way]), place)

    def test_a_copy_is_one_only_where_it_is_sampled_itself(self):
        self.assertEqual(places.kernel_place(["_copy_from_iter", "tcp_sendmsg_locked", "io_send"]), "copies")
        self.assertEqual(places.kernel_place(["__check_object_size", "_copy_from_iter", "tcp_sendmsg_locked", "io_send"]), "send")

    def test_every_rule_and_every_file_leads_to_a_place_of_the_table(self):
        self.assertEqual({place for place, _ in places.RULES} - set(places.KERNEL), set())
        self.assertEqual({place for _, place in places.FILES} - set(places.USER), set())


class User(unittest.TestCase):
    OURS = "/home/me/fastmq/src/"

    def place(self, *frames):
        return places.user_place([(symbol, [("f", path) for path in paths]) for symbol, *paths in frames])

    def test_the_innermost_line_of_ours_decides(self):
        std = "/rustc/5980/library/core/src/result.rs"
        self.assertEqual(self.place(("handle_bytes", std, self.OURS + "codec/publish.rs", self.OURS + "shard/mod.rs")), "codec")
        self.assertEqual(self.place(("f", "/home/me/fastmq/benches/null_broker/forwarder.rs")), "forwarder")

    def test_a_checkout_may_lie_anywhere(self):
        self.assertEqual(places.our_file("/src/broker/src/net/uring.rs"), "net/uring.rs")
        self.assertEqual(places.our_file("src/codec/mod.rs"), "codec/mod.rs")
        self.assertEqual(places.our_file("/src/b/benches/null_broker/main.rs"), "benches/null_broker/main.rs")
        self.assertIsNone(places.our_file("/rustc/5980/library/core/src/result.rs"))
        self.assertIsNone(places.our_file(None))

    def test_tables_and_foreign_functions_belong_to_who_uses_them(self):
        self.assertEqual(self.place(("f", self.OURS + "shard/slab.rs", self.OURS + "shard/clients.rs")), "delivery")
        self.assertEqual(self.place(("__memcmp_evex",), ("get", self.OURS + "router/cache.rs")), "routing")
        self.assertEqual(self.place(("from_utf8", "/rustc/1/library/core/src/str.rs"), ("f", self.OURS + "topic/name.rs")), "codec")

    def test_allocator_copies_and_clock_are_places_of_their_own(self):
        caller = ("f", self.OURS + "shard/clients.rs")
        self.assertEqual(self.place(("_mi_theap_realloc_zero",), caller), "allocator")
        self.assertEqual(self.place(("alloc", "/home/me/.cargo/registry/src/i/mimalloc-0.1.52/src/lib.rs"), caller), "allocator")
        self.assertEqual(self.place(("__memmove_avx512_unaligned_erms",), caller), "memory")
        self.assertEqual(self.place(("__memmove_avx512_unaligned_erms",), ("mi_realloc",)), "memory")
        self.assertEqual(self.place(("<std::sys::pal::unix::time::Timespec>::now",), caller), "rings and runtime")

    def test_what_is_known_nowhere_is_the_rest(self):
        self.assertEqual(self.place(("[unknown]",)), "user, rest")
        self.assertEqual(self.place(("f", "/home/me/.cargo/registry/src/i/serde-1.0/src/lib.rs")), "user, rest")

    def test_every_file_of_the_rooms_of_the_message_path_has_a_place(self):
        source = results.ROOT / "src"
        for room in ("codec", "topic", "router", "session", "shard", "net", "runtime", "ring"):
            for path in (source / room).rglob("*.rs"):
                name = str(path.relative_to(source))
                if name not in places.PLUMBING:
                    self.assertNotIn(places.line_place(str(path)), (None, "user, rest"), name)


class Read(unittest.TestCase):
    def test_samples_have_their_time_and_their_frames(self):
        samples = list(profile.parse(SCRIPT))
        self.assertEqual([sample.at_s for sample in samples], [80669.434490, 80669.5, 80669.6])
        self.assertEqual([len(sample.frames) for sample in samples], [5, 3, 1])
        self.assertEqual(samples[0].frames[0].symbol, "_raw_spin_unlock_irqrestore")
        self.assertEqual(samples[1].frames[1].symbol, "fastmq::codec::publish::<impl A for B>::encode (with)")
        self.assertEqual(samples[1].frames[1].address, 0x2fe3a2)

    def test_lines_have_what_was_inlined_innermost_first(self):
        first, second = profile.parse_lines(ADDR2LINE)
        self.assertEqual([function for function, _ in first], ["allocate", "fastmq::router::Router::intern::h83817b09c41a28e7"])
        self.assertEqual(second, [("??", None)])

    def test_samples_are_summed_by_place_and_named_by_function(self):
        lines = profile.Lines("/opt/fastmq")
        lines.shift = 0
        path = "/home/me/fastmq/src/codec/publish.rs"
        lines.known = {0x2fe3a2: [("encode", path)], 0x2fe3a1: [("encode", path)]}
        by_place, by_function = profile.sum_up(list(profile.parse(SCRIPT)), lines)
        self.assertEqual(by_place, {"waking": 1, "memory": 1, "codec": 1})
        self.assertIn(("memory", "__memmove_avx512_unaligned_erms from codec/publish.rs: encode"), by_function)
        self.assertIn(("codec", "codec/publish.rs: encode"), by_function)

    def test_counts_are_of_the_intervals_within_what_was_measured(self):
        # perf began at 100.0; its lines arrive a little late, one of them very late.
        arrived = [(100.051, "0.050,1000,,raw_syscalls:sys_enter,1,100,,\n"), (100.101, "0.100,10,,raw_syscalls:sys_enter,1,100,,\n"),
                   (100.150, "0.150,30,,raw_syscalls:sys_enter,1,100,,\n"), (100.150, "0.150,5,,page-faults,1,100,,\n"),
                   (100.9, "0.200,1000,,raw_syscalls:sys_enter,1,100,,\n"), (100.9, "0.2,<not counted>,,page-faults,0,0,,\n")]
        found = profile.rates(arrived, 100.04, 100.17)
        self.assertAlmostEqual(found["raw_syscalls:sys_enter"], 400)
        self.assertAlmostEqual(found["page-faults"], 50)

    def test_counts_without_a_whole_interval_are_none(self):
        with self.assertRaises(profile.ProfileError):
            profile.rates([(1.0, "0.05,1,,page-faults,1,100,,")], 0.96, 0.99)
        with self.assertRaises(profile.ProfileError):
            profile.rates([(1.0, "event is unknown")], 0, 10)


def run(cpu_us, **found):
    return {"cpu_us": cpu_us, "delivered_per_s": 1e6, "samples": sum(found.values()), "places": found,
            "hottest": [["codec", "codec/publish.rs: decode", found.get("codec", 0)]]}


class Tables(unittest.TestCase):
    def result(self):
        counts = [{event: 0.25 for event in profile.COUNTED}]
        entry = {"title": "1 → 1", "arguments": [], "errors": ["null: it went away\nmore"],
                 "profiles": {"fastmq": [run(0.2, codec=50, copies=50), run(0.4, codec=100)], "null": [run(0.1, copies=7)]},
                 "counts": {"fastmq": counts, "null": counts}}
        return {"machine": {"cpu": "CPU", "cpus": 2, "kernel": "6"}, "runs": 2, "duration_s": 1, "broker_cpu": "0", "load_cpu": "1",
                "workloads": {"pipe": entry}}

    def test_places_add_up_to_the_mean_of_what_loadgen_found(self):
        costs = perf_profile.by_place([run(0.2, codec=50, copies=50), run(0.4, codec=100)])
        self.assertAlmostEqual(costs["codec"], 0.25)
        self.assertAlmostEqual(costs["copies"], 0.05)
        self.assertAlmostEqual(sum(costs.values()), 0.3)

    def test_a_place_shows_its_cost_its_share_and_what_is_beyond_the_forwarder(self):
        text = perf_profile.summary(self.result())
        self.assertIn("| copies | 0.050 | 17% | 0.100 | -0.050 |", text)
        self.assertIn("| codec | 0.250 | 83% | 0.000 | 0.250 |", text)
        self.assertEqual(perf_profile.number(-0.0001), "0.000")
        self.assertIn("| **all** | 0.300 | 100% | 0.100 | 0.200 |", text)
        self.assertIn("system calls 0.25 (0.25)", text)
        self.assertIn("`codec/publish.rs: decode` 0.250", text)
        self.assertIn("1 runs failed; the first: null: it went away", text)

    def test_a_load_that_only_a_broker_can_do_has_no_second_column(self):
        result = self.result()
        del result["workloads"]["pipe"]["profiles"]["null"], result["workloads"]["pipe"]["counts"]["null"]
        self.assertIn("| codec | 0.250 | 83% |\n", perf_profile.summary(result))

    def test_a_load_without_a_profile_says_why(self):
        result = self.result()
        result["workloads"]["pipe"]["profiles"]["fastmq"] = []
        self.assertIn("No profile: null: it went away.", perf_profile.summary(result))

    def test_every_load_is_known_and_the_forwarder_has_its_part_of_them(self):
        self.assertTrue(set(perf_profile.FORWARDED) <= set(perf_profile.WORKLOADS) <= set(workloads.ALL))


if __name__ == "__main__":
    unittest.main()
