"""What is a change of level, and what is not."""

import random
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perf import changepoints  # noqa: E402


def level(chance, count, cost):
    return [cost * chance.gauss(1, 0.02) for _ in range(count)]


class ChangePoints(unittest.TestCase):
    def test_a_step_is_found_where_it_is(self):
        chance = random.Random(1)
        self.assertEqual(changepoints.find(level(chance, 8, 1) + level(chance, 8, 1.2)), [8])

    def test_two_steps_are_both_found(self):
        chance = random.Random(2)
        series = level(chance, 10, 1) + level(chance, 10, 0.7) + level(chance, 10, 0.5)
        self.assertEqual(changepoints.find(series), [10, 20])

    def test_noise_alone_is_hardly_ever_a_change(self):
        found = sum(bool(changepoints.find(level(random.Random(seed), 12, 1))) for seed in range(20))
        self.assertLessEqual(found, 1)

    def test_one_odd_run_is_no_change(self):
        chance = random.Random(4)
        self.assertEqual(changepoints.find(level(chance, 8, 1) + [3.0] + level(chance, 8, 1)), [])

    def test_too_few_points_say_nothing(self):
        self.assertEqual(changepoints.find([1, 1, 9, 9]), [])
        self.assertEqual(changepoints.find([]), [])


if __name__ == "__main__":
    unittest.main()
