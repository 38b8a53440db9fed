"""Benches of the project, as programs."""

import json
import subprocess
import sys

from perf.results import ROOT


def executable(name):
    """The path of a bench, built."""
    command = ["cargo", "bench", "--bench", name, "--no-run", "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == name:
            return message["executable"]
    sys.exit("cargo named no executable of the bench")
