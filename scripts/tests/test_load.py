"""What is read from a report of loadgen."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perf import load, results  # noqa: E402

REPORT = {
    "schema": 1, "delivered": 10, "delivered_per_s": 5.0,
    "latency_us": {"intended": {"p50": 1.0, "p99": 2.0, "p999": 3.0}, "actual": None},
    "broker_cost": {"cpu_us_per_delivered": 0.5, "rss_peak_kib": 7}, "generator": {"was_limit": True},
    "connections": {"count": 4, "bytes_per_connection": 700.0}, "stored": {"per_s": 9.0, "cpu_us_per_stored": 2.5},
    "truth": {"lost": 0, "duplicated": 0, "reordered": 0, "corrupt": 0, "unsent": 0, "unacknowledged": 1, "passed": True,
              "breaches": {"puback_missing": 1, "retain_set": 2}}, "error": None,
}


class Figures(unittest.TestCase):
    def test_every_figure_is_found(self):
        figures = load.figures(REPORT)
        self.assertEqual([name for name, value in figures.items() if value is None], [])
        self.assertEqual(figures["cpu_us_per_delivered"], 0.5)
        self.assertEqual(figures["p99_us"], 2.0)
        self.assertEqual(figures["rss_bytes_per_connection"], 700.0)
        self.assertEqual(figures["stored_per_s"], 9.0)
        self.assertEqual(figures["wrong_packets"], 2)

    def test_a_broken_promise_shows(self):
        self.assertFalse(load.figures(REPORT | {"truth": {"passed": False}})["passed"])

    def test_what_a_workload_does_not_have_is_none(self):
        figures = load.figures({"schema": 1, "latency_us": None, "broker_cost": None, "truth": {"passed": True}})
        self.assertIsNone(figures["p50_us"])
        self.assertIsNone(figures["cpu_us_per_delivered"])
        self.assertIsNone(figures["rss_bytes_per_connection"])


class Placeless(unittest.TestCase):
    def test_a_result_names_what_was_measured_and_not_where_it_lay(self):
        words = ["--fastmq", "/somewhere/bin/fastmq", "--json=/somewhere/a.json", "--peer", "mine=/else/where --port {port}",
                 "-c", "relative/one.conf", "--name", "first"]
        self.assertEqual(results.placeless(words), [
            "--fastmq", "fastmq", "--json=a.json", "--peer", "mine=where --port {port}", "-c", "relative/one.conf", "--name",
            "first"])

if __name__ == "__main__":
    unittest.main()
