"""Runs loadgen against a broker and reads its report, of whichever shape."""

import json
import shlex
import subprocess
from functools import cache

BROKE_A_PROMISE = 1


class LoadError(Exception):
    """The run could not be made, or what came of it is no result."""


@cache
def json_arguments(loadgen):
    """Older ones have a flag `--json`, newer ones want a file, `-` for standard output."""
    done = subprocess.run([str(loadgen), "--help"], capture_output=True, text=True)
    return ["--json"] if "--json-file" in done.stdout else ["--json", "-"]


def run(loadgen, arguments, broker, cpu, duration, warmup, extra=()):
    """One run on `cpu` against a started broker: the raw report. Loss is the caller's to judge."""
    command = ["taskset", "-c", str(cpu), str(loadgen), *arguments, "--port", str(broker.port),
               "--broker-pid", str(broker.pid), "--duration", str(duration), "--warmup", str(warmup),
               *extra, *json_arguments(loadgen)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration + warmup + 120)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"no end after {error.timeout:g} s: {shlex.join(command)}") from error
    try:
        report = json.loads(done.stdout)
    except ValueError as error:
        raise LoadError(f"{done.stderr.strip() or done.stdout.strip() or f'status {done.returncode}'}\n"
                        f"  {shlex.join(command)}") from error
    if report.get("error"):
        raise LoadError(f"{report['error']}\n  {shlex.join(command)}")
    return report


def figures(report):
    """The same few names for both shapes; `None` for what a workload does not have."""
    cost, truth = report.get("broker_cost") or {}, report.get("truth") or {}
    latency = report.get("latency_us") or {}
    latency = latency.get("intended") or latency if "intended" in latency else latency
    memory = report.get("broker_memory") or {}
    generator = report.get("generator") or {}

    def either(*values):
        return next((value for value in values if value is not None), None)

    return {
        "cpu_us_per_delivered": either(cost.get("cpu_us_per_delivered"), report.get("broker_cpu_us_per_message"),
                                       report.get("broker_cpu_us_per_connection")),
        "delivered_per_s": either(report.get("delivered_per_s"), report.get("delivered_per_second"),
                                  report.get("connections_per_s"), report.get("connections_per_second")),
        "delivered": either(report.get("delivered"), truth.get("delivered")),
        "p50_us": latency.get("p50"),
        "p99_us": latency.get("p99"),
        "p999_us": latency.get("p999"),
        "rss_peak_kib": either(cost.get("rss_peak_kib"), report.get("broker_rss_peak_kib")),
        "rss_bytes_per_connection": either(cost.get("rss_bytes_per_connection"), memory.get("bytes_per_connection")),
        "lost": truth.get("lost"),
        "duplicated": truth.get("duplicated"),
        "reordered": truth.get("reordered"),
        "corrupt": truth.get("corrupt"),
        "passed": either(truth.get("passed"), not report.get("broken_promises")),
        "generator_was_limit": either(generator.get("was_limit"), report.get("generator_saturated"), False),
    }
