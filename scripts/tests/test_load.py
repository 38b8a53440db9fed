"""Reports of both shapes give the same figures."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perf import load  # noqa: E402

OLDER = {
    "delivered": 10, "delivered_per_second": 5.0, "latency_us": {"p50": 1.0, "p99": 2.0, "p999": 3.0, "max": 4.0},
    "broker_cpu_us_per_message": 0.5, "broker_rss_peak_kib": 7, "generator_saturated": True,
    "truth": {"lost": 0, "duplicated": 0, "reordered": 0, "corrupt": 0}, "broken_promises": [],
}
NEWER = {
    "schema": 1, "delivered": 10, "delivered_per_s": 5.0,
    "latency_us": {"intended": {"p50": 1.0, "p99": 2.0, "p999": 3.0}, "actual": None},
    "broker_cost": {"cpu_us_per_delivered": 0.5, "rss_peak_kib": 7}, "generator": {"was_limit": True},
    "truth": {"lost": 0, "duplicated": 0, "reordered": 0, "corrupt": 0, "passed": True}, "error": None,
}


class Figures(unittest.TestCase):
    def test_both_shapes_read_alike(self):
        self.assertEqual(load.figures(OLDER), load.figures(NEWER))
        self.assertEqual(load.figures(NEWER)["cpu_us_per_delivered"], 0.5)
        self.assertEqual(load.figures(NEWER)["p99_us"], 2.0)

    def test_a_broken_promise_shows_in_both(self):
        self.assertFalse(load.figures(OLDER | {"broken_promises": ["lost"]})["passed"])
        self.assertFalse(load.figures(NEWER | {"truth": {"passed": False}})["passed"])

    def test_what_a_workload_does_not_have_is_none(self):
        figures = load.figures({"schema": 1, "latency_us": None, "broker_cost": None, "truth": {"passed": True}})
        self.assertIsNone(figures["p50_us"])
        self.assertIsNone(figures["cpu_us_per_delivered"])


if __name__ == "__main__":
    unittest.main()
