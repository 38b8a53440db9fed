"""What is made of the figures of a growth measurement, and of those of the practical limit."""

import unittest
from html.parser import HTMLParser

from scripts import script

growth, limit = script("perf-growth"), script("perf-limit")

from perf import plot, results  # noqa: E402


def points(function, *xs):
    return [(x, function(x), function(x), function(x)) for x in xs]


def entry(figures):
    """An entry of a series in the result, from CPU times by point."""
    return {"title": "", "errors": [], "points": {
        point: [{"cpu_us_per_delivered": cpu, "delivered_per_s": 1e6, "p99_us": 10.0, "rss_peak_kib": 2048} for cpu in runs]
        for point, runs in figures.items()}}


class Exponent(unittest.TestCase):
    def test_it_is_the_power_with_which_a_cost_grows(self):
        for power in (-0.5, 0, 0.5, 1, 2):
            self.assertAlmostEqual(growth.exponent(points(lambda x: 3 * x**power, 10, 100, 1_000, 7_000)), power)

    def test_one_point_has_none(self):
        self.assertIsNone(growth.exponent(points(lambda x: x, 10)))
        self.assertIsNone(growth.exponent([]))


class FixedAndEach(unittest.TestCase):
    def test_both_parts_are_found_though_they_lie_far_apart(self):
        fixed, each = growth.fixed_and_each(points(lambda x: 0.25 + 0.0005 * x, 64, 1_024, 65_536, 1_048_576))
        self.assertAlmostEqual(fixed, 0.25)
        self.assertAlmostEqual(each, 0.0005)


class Verdict(unittest.TestCase):
    def test_flat_is_well_and_twofold_in_a_decade_is_worse_than_flat(self):
        series = growth.ALL["topics"]
        text, worse = growth.verdict(series, points(lambda _: 0.2, 10, 100_000))
        self.assertFalse(worse)
        self.assertIn("from 10 to 100,000 1.00 times as much, exponent +0.00", text)
        text, worse = growth.verdict(series, points(lambda x: x**0.3, 10, 100, 1_000))
        self.assertTrue(worse)
        self.assertIn("worse than 0", text)

    def test_a_payload_may_grow_with_its_bytes_and_no_faster(self):
        series = growth.ALL["payload"]
        self.assertFalse(growth.verdict(series, points(lambda x: 0.2 + x / 1000, 64, 1024, 65536))[1])
        self.assertTrue(growth.verdict(series, points(lambda x: x**1.2, 64, 1024, 65536))[1])

    def test_shards_are_judged_from_two_on_because_one_has_nowhere_to_send(self):
        cost = {1: 0.1, 2: 0.3, 4: 0.3, 8: 0.3}
        text, worse = growth.verdict(growth.ALL["shards"], points(cost.get, *cost))
        self.assertFalse(worse)
        self.assertIn("from 2 to 8", text)

    def test_shards_may_cost_more_as_messages_cross_more_often_and_no_more_than_that(self):
        series = growth.ALL["shards"]
        text, worse = growth.verdict(series, points(lambda n: 0.1 + 0.2 * (n - 1) / n, 1, 2, 4, 8))
        self.assertFalse(worse)
        self.assertIn("from 2 to 8 1.38 times as much, exponent +0.23; by theory 1.38 times", text)
        cost = {1: 0.1, 2: 0.15, 4: 0.25, 8: 0.4}
        text, worse = growth.verdict(series, points(cost.get, *cost))
        self.assertTrue(worse)
        self.assertIn("worse than that by an exponent of", text)

    def test_the_line_of_shards_goes_through_two_and_on_by_how_often_messages_cross(self):
        line = growth.expected(growth.ALL["shards"], points({1: 0.1, 2: 0.2, 4: 0.5}.get, 1, 2, 4))
        for (x, y), (expected_x, expected_y) in zip(line, [(2, 0.2), (4, 0.25)], strict=True):
            self.assertEqual(x, expected_x)
            self.assertAlmostEqual(y, expected_y)
        self.assertIsNone(growth.expected(growth.ALL["shards"], points(lambda _: 1, 2, 4)))

    def test_too_few_points_are_no_verdict(self):
        self.assertEqual(growth.verdict(growth.ALL["shards"], points(lambda _: 1, 1, 2)), ("too few points", False))


class Result(unittest.TestCase):
    def result(self):
        return {"machine": {"cpu": "CPU", "cpus": 2, "kernel": "6"}, "revision": "abc", "runs": 3, "duration_s": 1, "broker_cpu": "0",
                "load_cpu": "1", "series": {
                    "filters": entry({10: [0.3, 0.1, 0.2], 100: [0.2], 1_000: []}),
                    "payload": entry({64: [0.2], 1024: [0.6], 65536: [30.0]})}}

    def test_the_median_its_range_and_what_is_missing_are_in_the_table(self):
        text = growth.table(self.result())
        self.assertIn("| 10 | 0.200 (0.100–0.300) | 1,000.0", text)
        self.assertIn("| 1,000 | – | – | – | – |", text)

    def test_a_run_that_failed_is_named(self):
        result = self.result()
        result["series"]["filters"]["errors"].append("1,000: no end after 60 s\nmore")
        self.assertIn("A run failed: 1,000: no end after 60 s\n", growth.table(result))

    def test_the_page_holds_a_chart_for_each_series_and_asks_for_nothing(self):
        page = growth.page(self.result())
        self.assertEqual(page.count("<figure>"), 2)
        self.assertIn("broker CPU per message, µs", page)
        self.assertNotIn("http", page.replace("http-equiv", ""))
        HTMLParser().feed(page)


class Chart(unittest.TestCase):
    def test_ticks_are_round_within_the_range_and_few(self):
        self.assertEqual(plot.ticks(0.1, 1), [0.1, 0.2, 0.5, 1])
        self.assertEqual(plot.ticks(0.09, 0.4), [0.1, 0.15000000000000002, 0.2, 0.30000000000000004, 0.4])
        self.assertEqual(plot.ticks(10, 1_000_000), [10, 100, 1_000, 10_000, 100_000, 1_000_000])

    def test_noise_is_not_drawn_as_growth(self):
        low, high = plot.span([0.20, 0.21])
        self.assertGreaterEqual(high / low, 4)

    def test_everything_is_drawn_inside(self):
        chart = plot.growth_chart("t", "s", "x", "y", points(lambda x: x, 10, 100, 1_000))
        for part in chart.split('cx="')[1:]:
            self.assertTrue(plot.LEFT < float(part.split('"')[0]) < plot.WIDTH)
        for part in chart.split('cy="')[1:]:
            self.assertTrue(0 < float(part.split('"')[0]) < plot.HEIGHT)


class Limit(unittest.TestCase):
    ROUNDS = [{"fastmq": {"cpu_us_per_delivered": 0.3, "delivered_per_s": 1e6},
               "null": {"cpu_us_per_delivered": 0.1, "delivered_per_s": 2e6}},
              {"fastmq": {"cpu_us_per_delivered": 0.4, "delivered_per_s": 1e6},
               "null": {"cpu_us_per_delivered": 0.3, "delivered_per_s": 2e6}}]

    def test_what_mqtt_costs_is_taken_within_a_round(self):
        found = limit.costs(self.ROUNDS)
        self.assertEqual([round(cost, 6) for cost in found["mqtt"]], [0.2, 0.1])
        self.assertAlmostEqual(found["share"][1], 0.25)

    def test_a_load_without_a_whole_round_says_why(self):
        result = {"machine": {"cpu": "CPU", "cpus": 2, "kernel": "6"}, "runs": 1, "duration_s": 1, "broker_cpu": "0", "load_cpu": "1",
                  "workloads": {"pipe": {"title": "1 → 1", "rounds": [], "errors": ["null: it went away\nmore"]}}}
        self.assertIn("| 1 → 1 | null: it went away |", limit.table(result))


class Shown(unittest.TestCase):
    def test_one_value_has_no_range_and_none_is_a_dash(self):
        self.assertEqual(results.shown([1.5], 1), "1.5")
        self.assertEqual(results.shown([3, 1, 2], 0), "2 (1–3)")
        self.assertEqual(results.shown([]), "–")


if __name__ == "__main__":
    unittest.main()
