"""What a figure was measured on."""

import os
import platform
import re
import subprocess


# While this is open and says 0, no CPU halts: waking one that the host has put to sleep takes as long as
# the host likes, and the broker is charged for a part of it.
WAKE_LATENCY = "/dev/cpu_dma_latency"
# What the kernel shares a CPU out to is a session first, where it groups them (`sched_autogroup_enabled`).
AUTOGROUP_FIRST = "-20"


def keep_awake():
    """No CPU halts as long as what this returns is open. For root."""
    file = open(WAKE_LATENCY, "wb", buffering=0)
    file.write((0).to_bytes(4, "little"))
    return file


def put_first(pid):
    """The session of `pid` goes before others on its CPU. For root."""
    with open(f"/proc/{pid}/autogroup", "w") as group:
        group.write(AUTOGROUP_FIRST)


def first_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        return (done.stdout + done.stderr).strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return None


def describe():
    cpu, governor = platform.machine(), None
    with open("/proc/cpuinfo") as lines:
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    try:
        with open("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") as text:
            governor = text.read().strip()
    except OSError:
        pass
    return {"cpu": cpu, "cpus": os.cpu_count(), "kernel": platform.release(), "governor": governor}


def slug(text):
    """What a folder of results is named after."""
    text = re.sub(r"\(r\)|\(tm\)|processor|cpu|@.*", "", text.lower())
    return "-".join(re.findall(r"[a-z0-9.]+", text))[:40]


def sentence(machine):
    governor = f", governor {machine['governor']}" if machine.get("governor") else ""
    return f"{machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}{governor}"
