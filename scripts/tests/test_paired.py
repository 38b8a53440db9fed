"""The statistics that decide whether a change is slower."""

import argparse
import contextlib
import random
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perf import paired, workloads  # noqa: E402
from scripts import script  # noqa: E402

perf_compare = script("perf-compare")


def runs(chance, count, cost, noise, drift):
    """Costs of `count` rounds: the round's own drift hits every arm, the noise hits each alone."""
    return [cost * drift[number] * chance.gauss(1, noise) for number in range(count)]


def trial(seed, head, noise=0.02, count=10):
    chance = random.Random(seed)
    drift = [chance.uniform(0.8, 1.3) for _ in range(count)]
    arms = [runs(chance, count, cost, noise, drift) for cost in (1, 1, head)]
    return paired.compare(*arms, seed=seed, resolution=5)


class Differences(unittest.TestCase):
    def test_they_are_percent_of_the_base_of_the_same_round(self):
        self.assertEqual(paired.differences([1, 2, 4], [2, 2, 2]), [100, 0, -50])

    def test_rounds_without_a_partner_are_refused(self):
        with self.assertRaises(ValueError):
            paired.differences([1, 2], [1])


class Interval(unittest.TestCase):
    def test_the_same_seed_gives_the_same_interval(self):
        values = [random.Random(3).gauss(0, 1) for _ in range(10)]
        self.assertEqual(paired.bootstrap_interval(values, 7), paired.bootstrap_interval(values, 7))

    def test_equal_values_leave_nothing_open(self):
        self.assertEqual(paired.bootstrap_interval([2.5] * 10, 1), (2.5, 2.5))

    def test_it_holds_the_median_and_stays_within_the_values(self):
        values = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
        low, high = paired.bootstrap_interval(values, 1)
        self.assertTrue(min(values) <= low <= 3.5 <= high <= max(values))

    def test_one_wild_round_does_not_move_it_far(self):
        low, high = paired.bootstrap_interval([1.0] * 9 + [1000.0], 1)
        self.assertEqual((low, high), (1.0, 1.0))

    def test_it_covers_the_truth_about_as_often_as_it_says(self):
        covered = 0
        for seed in range(200):
            chance = random.Random(seed)
            low, high = paired.bootstrap_interval([chance.gauss(2, 1) for _ in range(20)], seed, resamples=500)
            covered += low <= 2 <= high
        self.assertGreater(covered, 200 * 0.88)

    def test_no_rounds_are_refused(self):
        with self.assertRaises(ValueError):
            paired.bootstrap_interval([], 1)


class Verdict(unittest.TestCase):
    def test_an_interval_beyond_zero_and_the_floor_is_an_alarm(self):
        self.assertEqual(paired.verdict((3, 5), 2, 5), paired.SLOWER)
        self.assertEqual(paired.verdict((-5, -3), 2, 5), paired.FASTER)

    def test_an_interval_beyond_zero_but_not_the_floor_is_none(self):
        self.assertEqual(paired.verdict((1, 5), 2, 5), paired.CANNOT_TELL)
        self.assertEqual(paired.verdict((-5, -1), 2, 5), paired.CANNOT_TELL)

    def test_a_narrow_interval_around_zero_is_no_difference(self):
        self.assertEqual(paired.verdict((-1, 1), 2, 5), paired.NO_DIFFERENCE)

    def test_noise_wider_than_the_resolution_cannot_tell(self):
        self.assertEqual(paired.verdict((-1, 1), 8, 5), paired.CANNOT_TELL)
        self.assertEqual(paired.verdict((-9, 1), 2, 5), paired.CANNOT_TELL)

    def test_the_floor_is_the_far_end_of_the_control(self):
        self.assertEqual(paired.noise_floor((-3, 1)), 3)
        self.assertEqual(paired.noise_floor((0.5, 2)), 2)


class Trials(unittest.TestCase):
    """Simulated runs: 2 % noise an arm, and a machine that drifts by tens of percent between rounds."""

    def test_ten_percent_more_is_caught(self):
        caught = sum(trial(seed, 1.1).verdict == paired.SLOWER for seed in range(20))
        self.assertGreaterEqual(caught, 19)

    def test_ten_percent_less_is_seen(self):
        seen = sum(trial(seed, 0.9).verdict == paired.FASTER for seed in range(20))
        self.assertGreaterEqual(seen, 19)

    def test_equal_revisions_raise_hardly_an_alarm(self):
        alarms = sum(trial(seed, 1).verdict in (paired.SLOWER, paired.FASTER) for seed in range(20))
        self.assertLessEqual(alarms, 1)

    def test_noise_larger_than_the_difference_is_not_called_anything(self):
        verdicts = {trial(seed, 1.02, noise=0.15).verdict for seed in range(20)}
        self.assertNotIn(paired.NO_DIFFERENCE, verdicts)


def measured(*verdicts):
    """Workloads of these verdicts."""
    names = ("pipe", "fan-in", "fan-out")
    return {name: {"comparison": {"verdict": verdict, "interval": (-1.0, 24.3), "floor": 10.6}}
            for name, verdict in zip(names, verdicts)}


class Status(unittest.TestCase):
    def test_what_is_slower_is_always_an_alarm(self):
        for strict in (False, True):
            self.assertEqual(perf_compare.status(measured(paired.CANNOT_TELL, paired.SLOWER), strict), 1)

    def test_what_could_not_be_told_has_a_status_of_its_own_for_whoever_asks(self):
        open_one = measured(paired.NO_DIFFERENCE, paired.CANNOT_TELL, paired.FASTER)
        self.assertEqual(perf_compare.status(open_one, False), 0)
        self.assertEqual(perf_compare.status(open_one, True), 3)

    def test_no_difference_passes_however_strict(self):
        self.assertEqual(perf_compare.status(measured(paired.NO_DIFFERENCE, paired.FASTER), True), 0)


class Arms(unittest.TestCase):
    """How the two revisions are started."""

    def started(self, name):
        found = {}

        def broker(arm, command, cpu, folder, files, **more):
            found.update(more, arm=arm, command=command, files=files)
            return contextlib.nullcontext()

        report = {"truth": {"passed": True}, "broker_cost": {"cpu_us_per_delivered": 1.0}}
        options = argparse.Namespace(broker_cpu=0, load_cpu=1, duration=1, warmup=0)
        values = {"certificate": "/c/certificate.pem", "key": "/c/key.pem"}
        with mock.patch.object(perf_compare, "Broker", broker), mock.patch.object(perf_compare.load, "run", lambda *_: report):
            perf_compare.measure("head", workloads.ALL[name], {"head": "/h/fastmq", "loadgen": "/l"}, options, "/f", values)
        return found

    def test_a_load_by_tls_or_websocket_goes_to_a_listener_for_that(self):
        for name, directive in (("tls-qos0", "certfile {certificate}"), ("tls-qos1", "keyfile {key}"),
                                ("websocket-qos1", "protocol websockets")):
            found = self.started(name)
            self.assertEqual(found["load_port"], "spare")
            self.assertIn(directive, found["files"]["fastmq.conf"])
            self.assertEqual(found["values"]["program"], "/h/fastmq")
            self.assertEqual(found["values"]["certificate"], "/c/certificate.pem")

    def test_all_others_go_to_the_plain_one(self):
        found = self.started("pipe")
        self.assertEqual(found["load_port"], "port")
        self.assertNotIn("{spare}", found["files"]["fastmq.conf"])


class Advice(unittest.TestCase):
    """What stands below the table."""

    def said(self, verdict, strict=False):
        return "\n".join(perf_compare.advice(measured(verdict), strict))

    def test_what_is_slower_is_named_with_the_script_that_says_where(self):
        self.assertRegex(self.said(paired.SLOWER), "Slower: pipe.*perf-profile")

    def test_what_could_not_be_told_is_not_passed_over_as_no_difference(self):
        self.assertRegex(self.said(paired.CANNOT_TELL), r"pipe \(up to 24.3 %\).*does not count it without --strict.*--runs")
        self.assertRegex(self.said(paired.CANNOT_TELL, strict=True), r"pipe \(up to 24.3 %\).*--strict counts it.*--runs")

    def test_a_clear_result_needs_no_advice(self):
        self.assertEqual(self.said(paired.NO_DIFFERENCE) + self.said(paired.FASTER), "")


if __name__ == "__main__":
    unittest.main()
