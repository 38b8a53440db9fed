"""What decides between our ring and rtrb."""

import unittest

from scripts import script

compare_ring = script("compare-ring")


class Verdict(unittest.TestCase):
    def test_a_ring_that_is_always_cheaper_wins(self):
        self.assertEqual(compare_ring.verdict([10.0, 12.0, 9.0, 11.0, 10.0], 1)[0], "our ring is faster")

    def test_a_ring_that_is_always_dearer_loses(self):
        self.assertEqual(compare_ring.verdict([-10.0, -12.0, -9.0, -11.0, -10.0], 1)[0], "rtrb is faster")

    def test_what_goes_both_ways_decides_nothing(self):
        self.assertEqual(compare_ring.verdict([-10.0, 12.0, -9.0, 11.0, 1.0], 1)[0], "cannot tell")


if __name__ == "__main__":
    unittest.main()
