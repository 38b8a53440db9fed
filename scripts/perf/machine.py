"""What a figure was measured on."""

import os
import platform
import re
import subprocess


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
