"""What scripts leave behind when they are ended, what their exit status says, and what their options refuse."""

import argparse
import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
from unittest import mock
from pathlib import Path

from scripts import SCRIPTS, script

perf_compare, perf_peers, tail = script("perf-compare"), script("perf-peers"), script("perf-tail")

from perf import program  # noqa: E402

#: Accepts every CONNECT, and ends with SIGTERM only.
FAKE_BROKER = """\
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listener.accept()
    connection.recv(100)
    connection.sendall(bytes([0x20, 2, 0, 0]))
"""
#: Starts it, says its process id, and waits.
MEASURES = """\
import os, sys, tempfile, time
sys.path.insert(0, sys.argv[1])
from perf import program
from perf.broker import Broker

def main():
    with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder:
        cpu = min(os.sched_getaffinity(0))
        with Broker("a fake", f"{sys.executable} {{dir}}/broker.py {{port}}", cpu, folder, {"broker.py": sys.argv[3]}) as broker:
            print(broker.pid, flush=True)
            time.sleep(60)

program.run(main)
"""


def heed_signals():
    """Whoever runs these tests may ignore them, as what a shell begins with `&` does, and what is begun inherits that."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)


def is_alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


class Ending(unittest.TestCase):
    def ended_by(self, number):
        with tempfile.TemporaryDirectory(prefix="with blanks ") as place:
            measures = subprocess.Popen([sys.executable, "-B", "-c", MEASURES, SCRIPTS, place, FAKE_BROKER],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        preexec_fn=heed_signals)
            broker = int(measures.stdout.readline())
            self.assertTrue(is_alive(broker))
            measures.send_signal(number)
            _, said = measures.communicate(timeout=30)
            self.assertEqual((measures.returncode, said), (program.INTERRUPTED, "interrupted\n"))
            self.assertFalse(is_alive(broker))
            self.assertEqual(list(Path(place).iterdir()), [])

    def test_a_signal_ends_the_broker_and_leaves_no_files(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number):
                self.ended_by(number)

    def status_of(self, body, failed):
        source = "import sys\nsys.path.insert(0, sys.argv[1])\nfrom perf import program\ndef main():\n" + textwrap.indent(body, "  ")
        return subprocess.run([sys.executable, "-B", "-c", f"{source}\nprogram.run(main, {failed})", SCRIPTS],
                              capture_output=True, text=True)

    def test_what_could_not_be_made_is_no_verdict(self):
        self.assertEqual(self.status_of("return 1", 2).returncode, 1)
        self.assertEqual(self.status_of("return 0", 2).returncode, 0)
        said = self.status_of("sys.exit('no such file')", 2)
        self.assertEqual((said.returncode, said.stderr), (2, "no such file\n"))
        self.assertEqual(self.status_of("raise OSError('odd')", 2).returncode, 2)
        self.assertEqual(self.status_of("import subprocess; subprocess.run(['false'], check=True)", 2).returncode, 2)


class Options(unittest.TestCase):
    def refused(self, kind, *texts):
        for text in texts:
            with self.assertRaises(argparse.ArgumentTypeError, msg=text):
                kind(text)

    def test_numbers_that_cannot_be_meant_are_refused(self):
        self.refused(program.count, "0", "-1", "1.5", "x", "")
        self.refused(program.seconds, "0", "-1", "nan", "inf", "x")
        self.refused(program.seconds_or_none, "-0.1", "nan", "inf")
        self.assertEqual((program.count("3"), program.seconds("0.5"), program.seconds_or_none("0")), (3, 0.5, 0))

    def test_a_list_has_what_is_there_once(self):
        kind = program.names(("pipe", "fan-in"), "workload")
        self.refused(kind, "", "pipe,", "pipe,pipe", "other")
        self.assertEqual(kind("fan-in,pipe"), ["fan-in", "pipe"])

    def test_the_name_of_a_folder_leads_nowhere_else(self):
        self.refused(program.folder_part, "../x", "a b", "")
        self.assertEqual(program.folder_part("long-2"), "long-2")

    def status(self, module, *arguments):
        """Of a command line that is refused before anything is built or started."""
        said = io.StringIO()
        with mock.patch.object(sys, "argv", ["script", *arguments]), contextlib.redirect_stderr(said):
            with self.assertRaises(SystemExit) as raised:
                module.main()
        return raised.exception.code, said.getvalue()

    @unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "nothing is measured on one CPU")
    def test_a_comparison_that_cannot_be_meant_is_refused_before_a_build(self):
        one = str(min(os.sched_getaffinity(0)))
        for arguments, said in ((["main"], "no head"), (["main", "HEAD", "--duration", "0"], "above 0"),
                                (["main", "HEAD", "--broker-cpu", one, "--load-cpu", one], f"both {one}"),
                                (["main", "HEAD", "--broker-cpu", "999"], "--broker-cpu 999"),
                                (["main", "HEAD", "--json", str(SCRIPTS)], "cannot be written")):
            status, text = self.status(perf_compare, *arguments)
            self.assertEqual(status, 2, text)
            self.assertIn(said, text)

    @unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "nothing is measured on one CPU")
    def test_a_cpu_that_is_not_there_is_not_left_out(self):
        one, *_, other = sorted(os.sched_getaffinity(0))
        program.check_cpu_lists(str(one), f"{one},{other}")
        for text in ("999", f"{one},999", f"{one}-999", "x", "", "-1"):
            with self.assertRaises(SystemExit, msg=text) as raised:
                program.check_cpu_lists(str(one), text)
            self.assertIsInstance(raised.exception.code, str)

    def test_settling_needs_a_load_that_leaves_time(self):
        status, text = self.status(perf_peers, "--quick", "--settle", "2", "--workloads", "pipe")
        self.assertEqual(status, 2)
        self.assertIn("none of these loads has a rate", text)


class Tail(unittest.TestCase):
    def test_a_case_without_a_run_has_not_passed(self):
        run = {"own": {"beyond": 0}}
        self.assertEqual(tail.status({"cases": {"alone": {"runs": [run]}, "reload": {"runs": [run]}}}), 0)
        self.assertEqual(tail.status({"cases": {"alone": {"runs": [run]}, "reload": {"runs": []}}}), 2)
        slow = {"own": {"beyond": 3}}
        self.assertEqual(tail.status({"cases": {"alone": {"runs": [run]}, "reload": {"runs": [slow]}}}), 1)
        self.assertEqual(tail.status({"cases": {}, "ended_early": "interrupted"}), program.INTERRUPTED)


if __name__ == "__main__":
    unittest.main()
