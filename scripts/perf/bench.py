"""Benches of the project, as programs."""

import json
import subprocess
import sys

from perf.results import ROOT


def executable(name):
    """The path of a bench, built."""
    return built(["bench", "--bench", name, "--no-run"], name)


def program(name):
    """The path of a program of any package, built as all of them together are."""
    return built(["build", "--release", "--workspace", "--bin", name], name)


def built(build, name):
    command = ["cargo", *build, "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == name:
            return message["executable"]
    sys.exit(f"cargo named no executable {name}")
