"""What decides between our ring and rtrb."""

import importlib.machinery
import importlib.util
import sys
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SCRIPTS))
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("compare_ring", str(SCRIPTS / "compare-ring"))
compare_ring = importlib.util.module_from_spec(importlib.util.spec_from_loader("compare_ring", loader))
loader.exec_module(compare_ring)


class Verdict(unittest.TestCase):
    def test_a_ring_that_is_always_cheaper_wins(self):
        self.assertEqual(compare_ring.verdict([10.0, 12.0, 9.0, 11.0, 10.0], 1)[0], "our ring is faster")

    def test_a_ring_that_is_always_dearer_loses(self):
        self.assertEqual(compare_ring.verdict([-10.0, -12.0, -9.0, -11.0, -10.0], 1)[0], "rtrb is faster")

    def test_what_goes_both_ways_decides_nothing(self):
        self.assertEqual(compare_ring.verdict([-10.0, 12.0, -9.0, 11.0, 1.0], 1)[0], "cannot tell")


if __name__ == "__main__":
    unittest.main()
