"""A script as a program: what ends it, what its exit status says, what its options take."""

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import traceback

#: As a shell says it of what SIGINT ended.
INTERRUPTED = 130


def interrupted(*_):
    # Once is enough: what ends what was started is not to be interrupted itself.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(main, failed=1):
    """Runs `main` so that SIGINT, SIGTERM and SIGHUP end all that it started: a broker that is left behind takes a CPU
    from whatever is measured next.

    `failed` is the status where nothing came of it; a script whose verdict is 1 says another one.
    """
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What `nohup` or a shell's `&` has it ignore stays ignored.
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, interrupted)
    try:
        status = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        print(end.code, file=sys.stderr)
        sys.exit(failed)
    except subprocess.CalledProcessError as error:
        print(error, file=sys.stderr)
        sys.exit(failed)
    except Exception:
        traceback.print_exc()
        sys.exit(failed)
    sys.exit(status)


def number(kind, least, says):
    """What an option takes: a finite number of at least `least`, or above it where that is None."""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text}: {says} is wanted") from None
        if not math.isfinite(value) or (value <= 0 if least is None else value < least):
            raise argparse.ArgumentTypeError(f"{text}: {says} is wanted")
        return value
    return parse


count = number(int, 1, "a number from 1 on")
cpu = number(int, 0, "the number of a CPU")
seconds = number(float, None, "a number of seconds above 0")
seconds_or_none = number(float, 0, "a number of seconds from 0 on")
positive = number(float, None, "a number above 0")


def names(known, what):
    """What an option takes: a comma-separated list of `known` ones, each once."""
    def parse(text):
        wanted = text.split(",")
        if unknown := [repr(name) for name in wanted if name not in known]:
            raise argparse.ArgumentTypeError(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}")
        if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
            raise argparse.ArgumentTypeError(f"{', '.join(twice)} is there twice")
        return wanted
    return parse


def folder_part(text):
    """What an option takes that names a part of a folder's name."""
    if not re.fullmatch(r"[\w.-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: letters, digits, '_', '.' and '-' make the name of a folder")
    return text


def check_cpus(parser, broker_cpu, load_cpu):
    """One for the broker, another one for the load, both of them ours."""
    ours = os.sched_getaffinity(0)
    if len(ours) < 2:
        sys.exit("this needs two CPUs: one for the broker, one for the load")
    for option, cpu in (("--broker-cpu", broker_cpu), ("--load-cpu", load_cpu)):
        if cpu not in ours:
            parser.error(f"{option} {cpu}: there are {', '.join(map(str, sorted(ours)))}")
    if broker_cpu == load_cpu:
        parser.error(f"--broker-cpu and --load-cpu are both {load_cpu}: the load would take the broker's time")


def check_cpu_lists(*lists):
    """CPUs as `taskset` takes them: it leaves out what is not there, without a word."""
    ours = os.sched_getaffinity(0)
    if len(ours) < 2:
        sys.exit("this needs two CPUs: one for the broker, one for the load")
    for text in lists:
        if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
            sys.exit(f"{text!r}: numbers of CPUs are wanted, as in 0,2-3")
        for part in text.split(","):
            first, _, last = part.partition("-")
            if missing := [cpu for cpu in range(int(first), int(last or first) + 1) if cpu not in ours]:
                sys.exit(f"CPU {missing[0]} is not there; there are {', '.join(map(str, sorted(ours)))}")


def check_programs(*paths):
    for path in paths:
        if not path.is_file() or not os.access(path, os.X_OK):
            sys.exit(f"{path} cannot be run")


def read_json(path):
    """What a file of a script's own holds: an object. A file that does not is named."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")
    if not isinstance(value, dict):
        sys.exit(f"{path}: no JSON object is in it")
    return value


def check_outputs(parser, *paths):
    """Files that are to be written at the end can be, as far as can be known before."""
    for path in paths:
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"{path}: {error}")
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            parser.error(f"{path} cannot be written")
