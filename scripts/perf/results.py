"""What the scripts that measure have in common: options, figures of several rounds, the result's folder."""

import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

from perf import machine, program

ROOT = Path(__file__).resolve().parent.parent.parent
#: Brokers that insist on files keep them here, so that no disk is measured.
IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


def spread(values):
    """Median, least and most."""
    return statistics.median(values), min(values), max(values)


def shown(values, digits=3, scale=1):
    """Median and range as text; a dash for nothing."""
    if not values:
        return "–"
    middle, low, high = (f"{value * scale:,.{digits}f}" for value in spread(values))
    return f"{middle} ({low}–{high})" if len(values) > 1 else middle


def add_options(parser, minutes, runs, duration):
    """Those that every script has, with these for a full run."""
    parser.add_argument("--name", type=program.folder_part, help="last part of the result's folder; without it nothing is written")
    parser.add_argument("--quick", action="store_true", help="one short round of a few points, written only with --name")
    parser.add_argument("--machine", type=program.folder_part, help="middle part of the folder (default: from the CPU's name)")
    parser.add_argument("--runs", type=program.count, default=runs, help=f"rounds (default {runs})")
    parser.add_argument("--minutes", type=program.seconds_or_none, default=minutes, help=f"no run is begun after so many (default {minutes})")
    parser.add_argument("--duration", type=program.seconds, default=duration, help=f"seconds measured in each run (default {duration:g})")
    parser.add_argument("--warmup", type=program.seconds_or_none, default=0.3, help="seconds before them (default 0.3)")
    parser.add_argument("--seed", type=int, default=1, help="of the order within a round")
    parser.add_argument("--fastmq", type=Path, help="default: target/release/fastmq, built")
    parser.add_argument("--loadgen", type=Path, help="default: target/release/loadgen, built")
    parser.add_argument("--broker-cpu", default="0")
    parser.add_argument("--load-cpu", default="1")
    parser.add_argument("--results", type=Path, default=ROOT / "results")


def file_system(place):
    return machine.first_line(["stat", "-f", "-c", "%T", str(place)]) or "unknown"


def raise_open_files():
    """As far as it may be: brokers and generator inherit it."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def prepare(options):
    """Limits raised, programs built, and the folder to be written, which must not be there; None without a name."""
    program.check_cpu_lists(options.broker_cpu, options.load_cpu)
    raise_open_files()
    if options.fastmq is None or options.loadgen is None:
        subprocess.run(["cargo", "build", "--release", "--workspace", "--bins"], cwd=ROOT, check=True)
    options.fastmq = (options.fastmq or ROOT / "target/release/fastmq").resolve()
    options.loadgen = (options.loadgen or ROOT / "target/release/loadgen").resolve()
    program.check_programs(options.fastmq, options.loadgen)
    return folder(options.name, options.machine, options.results)


def folder(name, place=None, results=ROOT / "results"):
    """The folder to be written, which must not be there; None without a name."""
    if not name:
        return None
    date = time.strftime("%Y-%m-%d", time.gmtime())
    found = results.resolve() / f"{date}-{place or machine.slug(machine.describe()['cpu'])}-{name}"
    if found.exists():
        sys.exit(f"{found} is there already: another --name?")
    return found


def described(kind):
    """What every result says of itself."""
    return {"schema": 1, "kind": kind, "started_at_unix_s": int(time.time()), "machine": machine.describe(),
            "revision": machine.first_line(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"])}


def begun(kind, options):
    """The same, and how it was measured."""
    return described(kind) | {
        "runs": options.runs, "duration_s": options.duration, "warmup_s": options.warmup, "seed": options.seed,
        "broker_cpu": options.broker_cpu, "load_cpu": options.load_cpu}


def placeless(words):
    """The words of a command; of what lies somewhere on this machine only the names, since a result is read elsewhere."""
    def name(word):
        option, separator, place = word.rpartition("=")
        return f"{option}{separator}{Path(place).name}" if Path(place).is_absolute() else word
    return [name(word) for word in words]


def command():
    """As it was called."""
    return shlex.join([f"scripts/{Path(sys.argv[0]).name}", *placeless(sys.argv[1:])])


def write(folder, contents):
    """Files of the result's folder, name to text or to what becomes JSON; a reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if not isinstance(content, str):
            content = json.dumps(content, ensure_ascii=False) + "\n"
        # Where this checkout is says nothing to anybody else.
        content = content.replace(f"{ROOT}/", "")
        part = folder / f".{name}.part"
        part.write_text(content)
        part.replace(folder / name)
