"""The gate on instruction counts."""

import unittest

from scripts import script

instructions = script("instructions")


class Gate(unittest.TestCase):
    def test_three_percent_more_fails_and_less_than_that_does_not(self):
        self.assertTrue(instructions.compare({"a": 1000}, {"a": 1030})[1])
        self.assertFalse(instructions.compare({"a": 1000}, {"a": 1029})[1])

    def test_cheaper_passes_and_is_named(self):
        rows, failed = instructions.compare({"a": 1000}, {"a": 900})
        self.assertFalse(failed)
        self.assertEqual(rows[0][4], "cheaper")

    def test_a_case_that_is_new_or_gone_fails_until_the_baseline_says_so(self):
        self.assertTrue(instructions.compare({"a": 1000}, {"a": 1000, "b": 1})[1])
        self.assertTrue(instructions.compare({"a": 1000, "b": 1}, {"a": 1000})[1])

    def test_an_update_keeps_every_reason_and_what_changed(self):
        first = instructions.update({}, {"a": 1000}, "first")
        second = instructions.update(first, {"a": 1100}, "a check more")
        self.assertEqual([entry["reason"] for entry in second["updates"]], ["first", "a check more"])
        self.assertEqual(second["updates"][1]["changes"], {"a": {"from": 1000, "to": 1100}})
        self.assertEqual(second["cases"], {"a": 1100})


if __name__ == "__main__":
    unittest.main()
