"""What the table of brokers says, above all about what went wrong."""

import argparse
import contextlib
import io
import shutil
import tempfile
import unittest
from unittest import mock

from scripts import script

perf_peers = script("perf-peers")

from perf import broker, load, peers, workloads  # noqa: E402


def report(rate, lost=0, limit=False):
    return {"schema": 1, "delivered_per_s": rate, "generator": {"was_limit": limit},
            "truth": {"lost": lost, "passed": lost == 0}}


class Cell(unittest.TestCase):
    def cell(self, reports, errors=(), **more):
        return perf_peers.cell({"reports": reports, "errors": list(errors), **more}, "delivered_per_s")

    def test_it_is_the_median_with_its_range(self):
        self.assertEqual(self.cell([report(3000), report(1000), report(2000)]), "2.0 (1.0–3.0)")

    def test_loss_is_never_left_out(self):
        self.assertIn("lost up to 1,200", self.cell([report(1000), report(1000, lost=1200)]))

    def test_what_never_left_and_what_was_no_message_is_not_left_out(self):
        odd = report(1000)
        odd["truth"] |= {"unsent": 4, "unacknowledged": 2, "breaches": {"puback_missing": 2, "dup_set": 3}}
        said = self.cell([report(1000), odd])
        for remark in ("unsent up to 4", "unacknowledged up to 2", "wrong packets up to 3"):
            self.assertIn(remark, said)

    def test_a_generator_at_its_limit_is_named(self):
        self.assertIn("generator was the limit", self.cell([report(1000, limit=True)]))

    def test_failed_runs_are_counted(self):
        self.assertIn("1 runs failed", self.cell([report(1000)], errors=["no CONNACK"]))

    def test_what_a_broker_cannot_do_says_why(self):
        self.assertEqual(self.cell([], unable="QoS 1 at most"), "cannot: QoS 1 at most")

    def test_nothing_measured_is_not_a_zero(self):
        self.assertEqual(self.cell([]), "not measured")

    def test_what_failed_every_time_says_how(self):
        self.assertEqual(self.cell([], errors=["it ended\nand more"]), "failed: it ended")


class Rounds(unittest.TestCase):
    """`measure` with runs that are made up."""

    def measure(self, outcomes, **more):
        peer = perf_peers.Peer("mine", "true", "{program}")
        options = argparse.Namespace(**({"minutes": 1, "seed": 1, "runs": 2} | more))
        result, written = {"workloads": {}}, []
        outcomes = iter(outcomes)

        def run(*_):
            outcome = next(outcomes)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        with mock.patch.object(perf_peers, "run", run), contextlib.redirect_stderr(io.StringIO()):
            perf_peers.measure(result, [peer], ["pipe", "fan-in"], options, {}, lambda: written.append(len(written)))
        return result, written

    def table(self, result, **more):
        """The table of what was measured, under conditions that are made up, some of them by the caller."""
        conditions = {"peers": {}, "machine": perf_peers.machine.describe(), "broker_cpu": 0, "load_cpu": 1, "payload": 64,
                      "duration_s": 1, "not_installed": []}
        return perf_peers.table(result | conditions | more)

    def entry(self, result, workload):
        return result["workloads"][workload]["peers"]["mine"]

    def test_every_load_has_its_turn_in_every_round_and_is_written_after_it(self):
        result, written = self.measure([report(1), report(2), report(3), report(4)])
        rates = [found["delivered_per_s"] for found in self.entry(result, "fan-in")["reports"]]
        self.assertEqual(rates, [2, 4])
        self.assertEqual(result["workloads"]["pipe"]["medians"]["mine"]["delivered_per_s"], 2)
        self.assertEqual(len(written), 4)

    def test_whatever_goes_wrong_is_recorded_and_ends_nothing(self):
        result, _ = self.measure([RuntimeError("odd"), report(1), report(2), OSError(5, "no disk")])
        self.assertEqual(self.entry(result, "pipe")["errors"], ["RuntimeError: odd"])
        self.assertEqual(len(self.entry(result, "pipe")["reports"]), 1)
        self.assertEqual(len(self.entry(result, "fan-in")["errors"]), 1)

    def test_what_never_ends_is_not_asked_again(self):
        result, _ = self.measure([load.NoEnd("no end after 60 s"), report(1), report(2)])
        self.assertEqual(self.entry(result, "pipe")["unable"], "no end after 60 s")
        self.assertEqual(len(self.entry(result, "fan-in")["reports"]), 2)

    def test_the_table_says_once_why_there_is_nothing(self):
        result, _ = self.measure([load.NoEnd("no end after 60 s"), report(1000)], runs=1)
        text = self.table(result, peers={"mine": {"version": "mine 1", "remark": ""}}, not_installed=["other"])
        self.assertEqual(text.count("no end after 60 s"), 1)
        self.assertIn("delivered, k/s | 1.0 |", text)
        self.assertIn("Not installed here, so not measured: other.", text)

    def test_the_table_says_when_nothing_slept(self):
        result, _ = self.measure([report(1000)], runs=1)
        self.assertNotIn("No CPU halted", self.table(result))
        self.assertIn("No CPU halted", self.table(result, awake=True))

    def test_the_table_says_when_the_log_was_the_default_one(self):
        result, _ = self.measure([report(1000)], runs=1)
        self.assertNotIn("by default", self.table(result))
        self.assertIn("logged what they do by default", self.table(result, default_log=True))

    def test_the_table_says_when_a_broker_had_the_cpu_of_the_load_too(self):
        result, _ = self.measure([report(1000)], runs=1)
        self.assertIn("Each broker on CPU 0 alone, the load on CPU 1,", self.table(result))
        self.assertIn("Each broker on CPU 0 and on CPU 1, where the load is as well,", self.table(result, cores=2))

    def test_loads_with_a_rate_go_on_longer_for_every_broker_if_that_is_asked_for(self):
        options = argparse.Namespace(warmup=0.3, settle=4)
        self.assertEqual(perf_peers.warmup_for(workloads.ALL["trickle"], options), 4.3)
        self.assertEqual(perf_peers.warmup_for(workloads.ALL["pipe"], options), 0.3)
        result, _ = self.measure([report(1000)], runs=1)
        self.assertNotIn("longer before", self.table(result))
        self.assertIn("Loads with a rate went on for 4 s longer before they were measured.", self.table(result, settle_s=4))

    def test_only_a_whole_result_takes_the_place_of_the_readmes_table(self):
        whole = {"no_readme": False, "only": None, "peer": [], "settle": 0, "awake": False, "default_log": False, "cores": 1,
                 "workloads": list(workloads.ALL), "results": perf_peers.ROOT / "results"}
        self.assertTrue(perf_peers.is_for_readme(argparse.Namespace(**whole), {}))
        self.assertFalse(perf_peers.is_for_readme(argparse.Namespace(**whole), {"ended_early": "interrupted"}))
        for part in ({"only": "fastmq"}, {"workloads": ["pipe"]}, {"settle": 4}, {"cores": 2}, {"results": perf_peers.ROOT},
                     {"no_readme": True}):
            self.assertFalse(perf_peers.is_for_readme(argparse.Namespace(**(whole | part)), {}), part)

    def test_out_of_time_says_so_and_keeps_what_is_there(self):
        result, written = self.measure([], minutes=0)
        self.assertEqual(result["ended_early"], "out of time in round 1 of 2")
        self.assertEqual(len(written), 1)


class Peers(unittest.TestCase):
    def test_a_listener_adds_to_the_configuration_and_names_its_port(self):
        listener = peers.Listener("spare", {"a.conf": "listener {spare}\n"})
        peer = peers.Peer("mine", "true", "{program}", files={"a.conf": "listener {port}\n"}, listeners={"tls": listener})
        tls = peer.started_for(workloads.ALL["tls-qos1"])
        self.assertEqual(tls, ("{program}", {"a.conf": "listener {port}\nlistener {spare}\n"}, "spare"))
        self.assertEqual(peer.started_for(workloads.ALL["pipe"]), ("{program}", peer.files, "port"))
        self.assertIsNone(peer.reason_against(workloads.ALL["tls-qos1"]))
        self.assertIn("WebSocket", peer.reason_against(workloads.ALL["websocket-qos1"]))

    def test_fastmq_is_started_on_as_many_cpus_as_it_is_given(self):
        self.assertIn("--cores 2", peers.fastmq("/some/fastmq", 2).command)
        self.assertEqual(peers.fastmq("/some/fastmq"), peers.Peer("fastmq", "/some/fastmq", **peers.FASTMQ))

    def test_with_the_default_log_nothing_is_said_of_it(self):
        named = {peer.name: peer for peer in (*peers.KNOWN, peers.Peer("fastmq", "true", **peers.FASTMQ))}
        for name, peer in named.items():
            logs_errors_alone = any("log_type" in text for text in peer.files.values())
            self.assertEqual(logs_errors_alone, name in ("fastmq", "mosquitto", "mosquitto-2.1"))
            self.assertFalse(any("log_type" in text for text in peer.with_default_log().files.values()), name)

    def test_a_program_and_a_folder_may_have_blanks_in_their_names(self):
        found = broker.Broker("mine", "'{program}' --conf '{dir}/a b' {port}", 0, tempfile.mkdtemp(prefix="a b "),
                              values={"program": "/opt/a b/mine"})
        self.addCleanup(shutil.rmtree, found.folder.parent)
        found.ports = {"port": 7}
        self.assertEqual(found.words(), ["/opt/a b/mine", "--conf", f"{found.folder}/a b", "7"])

    def test_no_two_ports_of_a_broker_are_the_same(self):
        self.assertEqual(len(set(broker.free_ports(4))), 4)


if __name__ == "__main__":
    unittest.main()
