"""What the trends put into one chart."""

import json
import tempfile
import unittest
from pathlib import Path

from scripts import script

perf_history = script("perf-history")


def result(when, cpu_us, **more):
    return {"kind": "perf-peers", "machine": {"cpu": "CPU", "cpus": 2}, "started_at_unix_s": when, "revision": "abc",
            "workloads": {"pipe": {"title": "1 → 1", "medians": {"fastmq": {"cpu_us_per_delivered": cpu_us}}}}} | more


class Series(unittest.TestCase):
    def series(self, results):
        with tempfile.TemporaryDirectory() as folder:
            for number, content in enumerate(results):
                path = Path(folder) / str(number)
                path.mkdir()
                (path / "raw.json").write_text(json.dumps(content))
            found = perf_history.peer_series(Path(folder))
        return {key[0]: [point.value for point in points] for key, points in found.items()}

    def test_the_same_machine_and_way_are_one_chart_oldest_first(self):
        self.assertEqual(self.series([result(2, 0.2), result(1, 0.1, cores=1, awake=False)]), {"CPU, 2 CPUs": [0.1, 0.2]})

    def test_another_way_to_measure_is_a_chart_of_its_own(self):
        found = self.series([result(1, 0.1), result(2, 0.2, cores=2), result(3, 0.3, awake=True), result(4, 0.4, default_log=True)])
        self.assertEqual(sorted(found.values()), [[0.1], [0.2], [0.3], [0.4]])

    def test_a_file_that_is_no_whole_result_is_named_and_not_left_out(self):
        whole = json.dumps(result(1, 0.1))
        future = json.dumps(result(1, 0.1, schema=2))
        unknown = whole.replace("cpu_us_per_delivered", "of_the_future")
        for text, said in [(whole[:40], "raw.json: "), ("[]", "raw.json: no JSON object"), (future, "raw.json: a result of schema 2"),
                           ('{"kind": "perf-peers"}', "raw.json: not a whole result"), (unknown, "of_the_future")]:
            with self.subTest(text=text), tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "one").mkdir()
                (Path(folder) / "one" / "raw.json").write_text(text)
                with self.assertRaises(SystemExit) as ended:
                    perf_history.peer_series(Path(folder))
                self.assertIn(said, str(ended.exception.code))


if __name__ == "__main__":
    unittest.main()
