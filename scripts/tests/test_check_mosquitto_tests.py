"""Which of Mosquitto's tests are run, and which of its sequences of packets count as failed."""

import tempfile
import unittest
from pathlib import Path

from scripts import script

check = script("check-mosquitto-tests")


def failed(name, received, expected):
    return f"\x1b[31mv5.0   {name} failed: Receive message  | rec:{received!r} | exp:{expected!r}\x1b[0m"


class Sequences(unittest.TestCase):
    def wrong(self, *lines):
        return list(check.sequences_that_fail("\n".join(lines)))

    def test_another_reason_for_the_same_refusal_is_no_failure(self):
        self.assertEqual(self.wrong(failed("AUTH F1", b"\xe0\x01\x81", b"\xe0\x01\x82")), [])
        self.assertEqual(self.wrong(failed("CONNECT 10", b" \x03\x00\x81\x00", b" \x03\x00\x82\x00")), [])

    def test_a_packet_of_another_type_is_a_failure(self):
        self.assertEqual(len(self.wrong(failed("PUBLISH 30", b"0\x03\x00\x01a", b"\xe0\x01\x82"))), 1)

    def test_taking_what_is_to_be_refused_is_a_failure(self):
        self.assertEqual(len(self.wrong(failed("CONNECT 10", b" \x03\x00\x00\x00", b" \x03\x00\x82\x00"))), 1)
        self.assertEqual(len(self.wrong("v5.0   SUBSCRIBE 82 failed: Still connected")), 1)

    def test_what_is_known_to_end_otherwise_and_what_passes_are_none(self):
        known = "v3.1.1 CONNECT 10 Will topic with U+0001 failed: Still connected"
        self.assertEqual(self.wrong(known, "v5.0   PINGREQ C0 passed"), [])


class Tests(unittest.TestCase):
    def listed(self, text):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "test.py").write_text(text)
            return list(check.listed(Path(folder)))

    def test_they_are_read_from_the_list_with_ports_and_arguments(self):
        first, second = self.listed("import ptest\ntests = [\n    (2, './01-a.py'),\n    #(1, './02-no.py'),\n    (1, './03-b.py', 'of it'),\n]\n")
        self.assertEqual((first.number, first.ports, first.name, first.arguments), (0, 2, "01-a", []))
        self.assertEqual((second.number, second.ports, second.name, second.arguments), (1, 1, "03-b", ["of it"]))

    def test_what_is_about_something_that_is_not_there_says_what(self):
        lacks = check.Test(0, 1, "./22-http-api.py", []).lacks
        self.assertEqual(lacks("", []), "protocol http_api")
        self.assertIsNone(check.Test(0, 1, "./06-bridge-b2br.py", []).lacks("", []))
        plain = check.Test(0, 1, "./03-publish-qos1.py", []).lacks
        self.assertIsNone(plain("do_test()", []))
        self.assertEqual(plain("import psutil\n", []), "needs python3-psutil")
        self.assertIsNone(plain("import psutil\n", ["psutil"]))
        self.assertEqual(plain("    f.write('plugin x.so')", []), "plugins")


if __name__ == "__main__":
    unittest.main()
