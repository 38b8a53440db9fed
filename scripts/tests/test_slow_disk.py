"""Which disk is made slower, and which cannot be."""

import unittest
from pathlib import Path

import scripts  # noqa: F401, it makes `perf` known

from perf import slow_disk


class SlowDisk(unittest.TestCase):
    def test_a_folder_that_is_on_no_disk_is_refused_by_name(self):
        with self.assertRaisesRegex(slow_disk.SlowDiskError, "/proc is on no disk"):
            with slow_disk.reads_at_most(100, "/proc"):
                self.fail("it was taken")

    def test_without_a_limit_no_disk_is_looked_for(self):
        with slow_disk.reads_at_most(None, "/proc"):
            pass

    def test_a_folder_on_a_disk_names_the_whole_disk(self):
        try:
            disk = slow_disk.disk_of(Path(__file__).parent)
        except slow_disk.SlowDiskError:
            self.skipTest("the files of this project are on no disk of its own here")
        major, minor = disk.split(":")
        self.assertFalse(Path(f"/sys/dev/block/{major}:{minor}/partition").exists())
