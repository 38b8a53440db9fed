"""Runs loadgen against a broker and reads its report."""

import json
import shlex
import subprocess

from perf.results import placeless

#: Seconds that setting up and draining may take besides what is measured, and without any progress.
LIMIT_S = 60
PATIENCE_S = 20

#: What became of messages, and of packets, that a reader must not miss.
TRUTH = ("lost", "duplicated", "reordered", "corrupt", "unsent", "unacknowledged", "wrong_packets")


class LoadError(Exception):
    """The run could not be made, or what came of it is no result."""


class NoEnd(LoadError):
    """It took far longer than it should: asking again would cost as much."""


def run(loadgen, arguments, broker, cpu, duration, warmup, extra=(), ceiling=False):
    """One run on `cpu` against a started broker: the raw report. Loss is the caller's to judge.

    With `ceiling` the generator measures itself first, on the broker's CPU and its own.
    """
    command = ["taskset", "-c", str(cpu), str(loadgen), *arguments, "--cpus", str(cpu), "--port", str(broker.port),
               "--broker-pid", str(broker.pid), "--duration", str(duration), "--warmup", str(warmup), "--patience", str(PATIENCE_S), *extra,
               *(() if ceiling else ("--no-ceiling",)), "--json", "-"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration + warmup + LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise NoEnd(f"no end after {error.timeout:g} s: {shlex.join(command)}") from error
    try:
        report = json.loads(done.stdout)
    except ValueError as error:
        raise LoadError(f"{done.stderr.strip() or done.stdout.strip() or f'status {done.returncode}'}\n"
                        f"  {shlex.join(command)}") from error
    if report.get("error"):
        raise LoadError(f"{report['error']}\n  {shlex.join(command)}")
    if broker_command := (report.get("broker") or {}).get("command"):
        report["broker"]["command"] = placeless(broker_command)
    return report


def figures(report):
    """What tables show; `None` for what a workload does not have."""
    cost, truth = report.get("broker_cost") or {}, report.get("truth") or {}
    latency = (report.get("latency_us") or {}).get("intended") or {}
    stored, generator = report.get("stored") or {}, report.get("generator") or {}
    return {
        "cpu_us_per_delivered": cost.get("cpu_us_per_delivered"),
        "delivered_per_s": report.get("delivered_per_s"),
        "delivered": report.get("delivered"),
        "p50_us": latency.get("p50"),
        "p99_us": latency.get("p99"),
        "p999_us": latency.get("p999"),
        "stored_per_s": stored.get("per_s"),
        "cpu_us_per_stored": stored.get("cpu_us_per_stored"),
        "rss_peak_kib": cost.get("rss_peak_kib"),
        "rss_bytes_per_connection": (report.get("connections") or {}).get("bytes_per_connection"),
        **{name: truth.get(name) for name in TRUTH},
        # Acknowledgements that did not come are breaches as well.
        "wrong_packets": sum((truth.get("breaches") or {}).values()) - (truth.get("unacknowledged") or 0)
                         if "breaches" in truth else None,
        "passed": truth.get("passed"),
        "generator_was_limit": generator.get("was_limit", False),
    }
