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
    #: What a broker must be able to do for it: "qos1", "qos2", "shared", "retained-wildcard", "v5".
    needs: frozenset = frozenset()
    #: The rest of its MQTT; `--payload` of a script applies where the workload does not say its own.
    payload: int = 64
    version: str = "3.1.1"
    #: The listener it goes to: "tcp", "tls", "websocket", or "v5" where a broker has one of its own for that.
    listener: str = "tcp"

    def has_rate(self):
        """An open loop, which leaves the broker time; others saturate it."""
        return "--rate" in self.arguments


CPU, RATE, P50, P99, P999 = "cpu_us_per_delivered", "delivered_per_s", "p50_us", "p99_us", "p999_us"
STORED, STORED_CPU = "stored_per_s", "cpu_us_per_stored"
QOS1, QOS2 = frozenset({"qos1"}), frozenset({"qos1", "qos2"})


def pairs(count, qos=0, window=None, *more):
    window = ("--window", str(window)) if window else ()
    return ("pairs", "--pairs", str(count), "--qos", str(qos), *window, *more)


def trickle(connections, rate):
    return ("trickle", "--connections", str(connections), "--rate", str(rate), "--qos", "0")


ALL = {workload.name: workload for workload in (
    # One publisher, one subscriber.
    Workload("pipe", "1 → 1, QoS 0, saturated", pairs(1)),
    Workload("pipe-qos1", "1 → 1, QoS 1, window 100", pairs(1, 1, 100), needs=QOS1),
    Workload("pipe-qos2", "1 → 1, QoS 2, window 100", pairs(1, 2, 100), needs=QOS2),
    # Fifty of them.
    Workload("pairs-qos0", "50 pairs, QoS 0, saturated", pairs(50), connections=100),
    Workload("pairs-qos1", "50 pairs, QoS 1, window 16", pairs(50, 1, 16), (CPU, RATE, P99), 100, QOS1),
    Workload("pairs-qos2", "50 pairs, QoS 2, window 16", pairs(50, 2, 16), (CPU, RATE, P99), 100, QOS2),
    Workload("pairs-v5", "50 pairs, MQTT 5.0, QoS 1, window 16", pairs(50, 1, 16, "--version", "5"), (CPU, RATE, P99), 100,
             QOS1 | {"v5"}, version="5.0", listener="v5"),
    # Many to one, one to many.
    Workload("fan-in", "100 → 1, QoS 0, saturated", ("fan-in", "--publishers", "100", "--qos", "0"), connections=101),
    Workload("fan-in-qos1", "100 → 1, QoS 1, window 10", ("fan-in", "--publishers", "100", "--qos", "1", "--window", "10"),
             connections=101, needs=QOS1),
    Workload("fan-out", "1 → 200, QoS 0, saturated", ("fan-out", "--subscribers", "200", "--qos", "0"), connections=201),
    Workload("fan-out-2000", "1 → 2,000, QoS 0, saturated",
             ("fan-out", "--subscribers", "2000", "--qos", "0", "--window", "10"), connections=2001),
    Workload("shared", "10 → 10 by one shared subscription, QoS 1",
             ("shared", "--publishers", "10", "--subscribers", "10", "--qos", "1", "--window", "16", "--version", "5"),
             connections=20, needs=QOS1 | {"shared", "v5"}, version="5.0", listener="v5"),
    # Ten publishers and ten subscribers of 1,000 filters each, of which one matches.
    Workload("wildcard", "10 → 10 among 10,000 wildcard filters, QoS 0",
             ("wildcard", "--publishers", "10", "--subscribers", "10", "--filters", "1000", "--qos", "0"), connections=20),
    # Payloads. A megabyte under way in all: with ten, TCP's own zero windows would be measured.
    Workload("payload-1k", "10 pairs, 1 KiB, QoS 0, window 100", pairs(10, 0, 100, "--payload", "1024"), connections=20,
             payload=1024),
    Workload("payload-64k", "10 pairs, 64 KiB, QoS 0, window 10", pairs(10, 0, 10, "--payload", "65536"), connections=20,
             payload=65536),
    # Other transports.
    Workload("tls-qos0", "10 pairs by TLS, 1 KiB, QoS 0, window 100",
             pairs(10, 0, 100, "--payload", "1024", "--tls", "--insecure"), connections=20, payload=1024, listener="tls"),
    Workload("tls-qos1", "50 pairs by TLS, QoS 1, window 16", pairs(50, 1, 16, "--tls", "--insecure"), (CPU, RATE, P99), 100,
             QOS1, listener="tls"),
    Workload("websocket-qos1", "50 pairs by WebSocket, QoS 1, window 16", pairs(50, 1, 16, "--ws"), (CPU, RATE, P99), 100,
             QOS1, listener="websocket"),
    # Many connections.
    Workload("crowd", "5,000 connections, QoS 0, saturated, window 1", pairs(2500, 0, 1), (CPU, RATE, P99), 5000),
    Workload("trickle", "1,000 clients, QoS 0, 2,000 messages/s in all", trickle(1000, 2000), (CPU, P50, P99, P999), 1000),
    Workload("trickle-5000", "5,000 clients, QoS 0, 10,000 messages/s in all", trickle(5000, 10_000), (CPU, P50, P99, P999),
             5000),
    Workload("connect", "connect and disconnect", ("connect", "--count", "10000", "--concurrency", "64"), (CPU, RATE), 64),
    Workload("idle", "9,900 idle connections", ("idle", "--connections", "9900"), ("rss_bytes_per_connection",), 9900),
    # What is kept.
    Workload("retained", "100,000 retained messages stored, then read by one wildcard",
             ("retained", "--messages", "100000", "--subscribers", "1", "--qos", "1", "--subscribe-qos", "0",
              "--window", "100"), (STORED, STORED_CPU, RATE, CPU), 2, QOS1 | {"retained-wildcard"}),
    Workload("reconnect", "100 sessions come back to 500 queued messages each, QoS 1",
             ("reconnect", "--subscribers", "100", "--messages", "500", "--qos", "1"), connections=200, needs=QOS1),
)}

TITLES = {
    "cpu_us_per_delivered": ("broker CPU per message", "µs", 1, 3),
    "delivered_per_s": ("delivered", "k/s", 1e-3, 1),
    "p50_us": ("latency p50", "µs", 1, 0),
    "p99_us": ("latency p99", "µs", 1, 0),
    "p999_us": ("latency p99.9", "µs", 1, 0),
    "rss_bytes_per_connection": ("RSS per connection", "bytes", 1, 0),
    "stored_per_s": ("stored", "k/s", 1e-3, 1),
    "cpu_us_per_stored": ("broker CPU per stored", "µs", 1, 3),
}
