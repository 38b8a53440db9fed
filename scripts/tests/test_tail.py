"""What is read from a histogram of turns, and what counts as too long or too much."""

import unittest

from scripts import script

tail, idle = script("perf-tail"), script("perf-idle")

from perf import mqtt  # noqa: E402

METRICS = """\
# TYPE fastmq_turn_duration_seconds histogram
fastmq_turn_duration_seconds_sum{shard="0"} 1.5
fastmq_turn_duration_seconds_count{shard="0"} 16
fastmq_turn_duration_seconds_bucket{shard="0",le="0.000016"} 10
fastmq_turn_duration_seconds_bucket{shard="0",le="0.001024"} 14
fastmq_turn_duration_seconds_bucket{shard="0",le="0.002048"} 15
fastmq_turn_duration_seconds_bucket{shard="0",le="1.7976931348623157e308"} 16
fastmq_turn_duration_seconds_bucket{shard="0",le="+Inf"} 16
fastmq_turn_duration_seconds_sum{shard="1"} 0.5
fastmq_turn_duration_seconds_bucket{shard="1",le="0.000016"} 1
fastmq_turn_duration_seconds_bucket{shard="1",le="0.001024"} 3
fastmq_turn_duration_seconds_bucket{shard="1",le="0.002048"} 3
fastmq_turn_duration_seconds_bucket{shard="1",le="+Inf"} 3
fastmq_other_seconds_bucket{shard="0",le="0.1"} 99
fastmq_turn_cpu_seconds_sum{shard="0"} 0.25
fastmq_turn_cpu_seconds_bucket{shard="0",le="0.000016"} 3
fastmq_turn_cpu_seconds_bucket{shard="0",le="+Inf"} 4
"""
INFINITE = float("inf")


class Turns(unittest.TestCase):
    def test_cumulated_buckets_of_all_shards_become_counts(self):
        turns = tail.parse_turns(METRICS)
        self.assertEqual(turns.buckets, ((0.000016, 11), (0.001024, 6), (0.002048, 1), (INFINITE, 1)))
        self.assertEqual(turns.busy_s, 2.0)

    def test_turns_by_cpu_time_are_told_apart_from_those_by_the_clock(self):
        own = tail.parse_turns(METRICS, "fastmq_turn_cpu")
        self.assertEqual((own.buckets, own.busy_s), (((0.000016, 3), (INFINITE, 1)), 0.25))

    def test_only_what_came_in_between_counts(self):
        later = METRICS.replace('le="0.000016"} 10', 'le="0.000016"} 12').replace("} 14", "} 16").replace("} 15", "} 17").replace("} 16\n", "} 18\n")
        turns = tail.between(tail.parse_turns(METRICS), tail.parse_turns(later))
        self.assertEqual(dict(turns.buckets)[0.000016], 2)
        self.assertEqual(turns.busy_s, 0)

    def test_a_turn_up_to_the_bound_is_well_and_one_beyond_it_is_not(self):
        well = tail.Turns(((0.000016, 5), (0.001024, 2), (0.002048, 0), (INFINITE, 0)), 1)
        self.assertEqual((tail.longest(well), tail.beyond(well)), (0.001024, 0))
        long = tail.Turns(((0.000016, 5), (0.001024, 2), (0.002048, 3), (INFINITE, 1)), 1)
        self.assertEqual((tail.longest(long), tail.beyond(long)), (INFINITE, 4))

    def test_no_turns_have_no_longest(self):
        self.assertEqual(tail.longest(tail.Turns((), 0)), 0)

    def test_one_long_round_of_three_may_be_the_machine_and_two_may_not(self):
        rounds = lambda *counts: [{"beyond": 9, "own": {"beyond": count}} for count in counts]
        self.assertFalse(tail.violates(rounds(0, 40, 0)))
        self.assertTrue(tail.violates(rounds(1, 0, 2)))
        self.assertTrue(tail.violates(rounds(1)))
        self.assertFalse(tail.violates([]))


class Idle(unittest.TestCase):
    def test_questions_once_a_second_and_sys_are_allowed(self):
        self.assertIsNone(idle.verdict({"fastmq-0-1": (0.001, 40), "watch": (0.002, 20)}, 20, 1, 10))

    def test_a_shard_that_ticks_is_named(self):
        self.assertIn("fastmq-0-1 woke 4000 times", idle.verdict({"fastmq-0-1": (0.001, 4000)}, 20, 1, 10))
        self.assertIn("fastmq-0-1 woke 60 times", idle.verdict({"fastmq-0-1": (0.001, 60)}, 20, 1, 0))

    def test_measurable_cpu_is_too_much_whoever_uses_it(self):
        self.assertIn("0.20% of a core", idle.verdict({"fastmq-log": (0.04, 0)}, 20, 1, 10))

    def test_the_interval_is_read_from_the_configuration(self):
        self.assertEqual([idle.interval_of(idle.CASES[case][1]) for case in ("plain", "sys", "quiet")], [10, 1, 0])

    def test_a_thread_that_came_meanwhile_counts_from_zero(self):
        self.assertEqual(idle.difference({"a": (1.0, 5)}, {"a": (1.5, 7), "b": (0.25, 1)}), {"a": (0.5, 2), "b": (0.25, 1)})


class Packets(unittest.TestCase):
    def test_sizes_of_more_than_a_byte_are_written_as_mqtt_does(self):
        self.assertEqual(mqtt.packet(0x30, b"x" * 127)[:2].hex(), "307f")
        self.assertEqual(mqtt.packet(0x30, b"x" * 128)[:3].hex(), "308001")
        self.assertEqual(mqtt.packet(0x30, b"x" * 16_384)[:4].hex(), "30808001")

    def test_packets_are_those_of_the_specification(self):
        self.assertEqual(mqtt.connect_packet("a", version=5, expiry=10).hex(), "101300044d5154540502000005110000000a000161")
        self.assertEqual(mqtt.connect_packet("a", clean=False, user="u", password="p").hex(), "101300044d51545404c000000001610001750001" "70")
        self.assertEqual(mqtt.publish_packet("t", b"x", retain=True, qos=1, identifier=7).hex(), "33060001740007" "78")
        self.assertEqual(mqtt.subscribe_packet(["a", "b"], 1).hex(), "820a0001000161010001" "6201")


if __name__ == "__main__":
    unittest.main()
