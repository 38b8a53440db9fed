"""The loads that brokers and revisions are put under: name, title, loadgen's arguments."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    arguments: tuple
    #: What its table row shows, in this order; see `perf.load.figures`.
    figures: tuple = ("cpu_us_per_delivered", "delivered_per_s")
    #: Connections it needs; QoS 0 may lose nothing here either, the windows see to that.
    connections: int = 2


def pairs(count, qos, window=None):
    window = ("--window", str(window)) if window else ()
    return ("pairs", "--pairs", str(count), "--qos", str(qos), *window)


CPU, RATE, P50, P99 = "cpu_us_per_delivered", "delivered_per_s", "p50_us", "p99_us"

ALL = {workload.name: workload for workload in (
    Workload("pipe", "1 → 1, QoS 0, saturated", pairs(1, 0)),
    Workload("pairs-qos0", "10 pairs, QoS 0, saturated", pairs(10, 0), connections=20),
    Workload("pairs-qos1", "50 pairs, QoS 1, window 16", pairs(50, 1, 16), (CPU, RATE, P99), 100),
    Workload("pairs-qos2", "50 pairs, QoS 2, window 16", pairs(50, 2, 16), (CPU, RATE, P99), 100),
    Workload("fan-out", "1 → 200, QoS 0, saturated", ("fan-out", "--subscribers", "200", "--qos", "0"),
             connections=201),
    Workload("fan-in", "100 → 1, QoS 1, window 16",
             ("fan-in", "--publishers", "100", "--qos", "1", "--window", "16"), connections=101),
    Workload("trickle", "1,000 clients, QoS 0, 2,000 messages/s in all",
             ("trickle", "--connections", "1000", "--rate", "2000", "--qos", "0"), (CPU, P50, P99), 1000),
    Workload("connect", "connect and disconnect", ("connect", "--count", "2000"), (CPU, RATE), 1),
    Workload("idle", "5,000 idle connections", ("idle", "--connections", "5000"), ("rss_bytes_per_connection",), 5000),
)}

TITLES = {
    "cpu_us_per_delivered": ("broker CPU per message", "µs", 1, 3),
    "delivered_per_s": ("delivered", "k/s", 1e-3, 1),
    "p50_us": ("latency p50", "µs", 1, 0),
    "p99_us": ("latency p99", "µs", 1, 0),
    "rss_bytes_per_connection": ("RSS per connection", "bytes", 1, 0),
}
