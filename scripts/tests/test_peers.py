"""What the table of brokers says, above all about what went wrong."""

import importlib.machinery
import importlib.util
import sys
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SCRIPTS))
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("perf_peers", str(SCRIPTS / "perf-peers"))
perf_peers = importlib.util.module_from_spec(importlib.util.spec_from_loader("perf_peers", loader))
loader.exec_module(perf_peers)


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

    def test_a_generator_at_its_limit_is_named(self):
        self.assertIn("generator was the limit", self.cell([report(1000, limit=True)]))

    def test_failed_runs_are_counted(self):
        self.assertIn("1 runs failed", self.cell([report(1000)], errors=["no CONNACK"]))

    def test_what_a_broker_cannot_do_says_why(self):
        self.assertEqual(self.cell([], unable="QoS 1 at most"), "cannot: QoS 1 at most")

    def test_nothing_measured_is_not_a_zero(self):
        self.assertEqual(self.cell([]), "not measured")


if __name__ == "__main__":
    unittest.main()
