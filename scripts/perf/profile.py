"""Samples and counts of a running broker, by `perf`, cut to the time that loadgen measured."""

import collections
import functools
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from perf import places

#: Of CPU time, not of cycles: virtual machines seldom have counters. A prime, so that nothing keeps step with it.
SAMPLES_PER_S = 4999
#: Bytes of stack kept with each sample: enough for who called `memcpy`.
STACK = 256
INTERVAL_MS = 50

#: What is counted in the context of the broker, and what it is called in the table.
COUNTED = {
    "raw_syscalls:sys_enter": "system calls",
    "io_uring:io_uring_submit_req": "submissions",
    "io_uring:io_uring_complete": "completions",
    "net:net_dev_queue": "TCP segments sent",
    "sched:sched_waking": "wakes of others",
    "sched:sched_switch": "context switches",
    "page-faults": "page faults",
}


class ProfileError(Exception):
    """`perf` cannot do here what is asked of it."""


def unavailable():
    """Why nothing can be profiled here; None if it can."""
    if not shutil.which("perf"):
        return "perf is not installed"
    if not (shutil.which("llvm-addr2line") or shutil.which("addr2line")):
        return "neither llvm-addr2line nor addr2line is installed"
    done = subprocess.run(["perf", "stat", "-x,", "-e", ",".join(COUNTED), "true"], capture_output=True, text=True)
    if done.returncode or "<not supported>" in done.stderr:
        return f"perf does not count here, which may need to be root: {done.stderr.strip()[-300:]}"
    return None


class Recording:
    """Samples of one process while the `with` lasts."""

    def __init__(self, pid, cpu):
        self.command = ["taskset", "-c", str(cpu), "perf", "record", "--quiet", "--clockid", "CLOCK_MONOTONIC", "--event",
                        "cpu-clock", "--freq", str(SAMPLES_PER_S), "--call-graph", f"dwarf,{STACK}", "--mmap-pages", "8M",
                        "--pid", str(pid)]

    def __enter__(self):
        self.file = tempfile.NamedTemporaryFile(prefix="perf-profile-")
        self.process = subprocess.Popen(self.command + ["--output", self.file.name], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        # It has begun once it has written its header.
        deadline = time.monotonic() + 10
        while Path(self.file.name).stat().st_size == 0 and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.said = self.process.communicate(timeout=60)[0]

    def samples(self, from_s, to_s):
        done = subprocess.run(["perf", "script", "--input", self.file.name, "--no-inline", "--fields", "comm,tid,time,ip,sym,symoff,dso"],
                              capture_output=True, text=True, errors="replace")
        self.file.close()
        found = [sample for sample in parse(done.stdout) if from_s <= sample.at_s <= to_s]
        if not found:
            raise ProfileError(f"no samples between {from_s} and {to_s}: {self.said or done.stderr[-500:]}")
        return found


@dataclass
class Frame:
    address: int
    symbol: str
    dso: str


@dataclass
class Sample:
    at_s: float
    frames: list = field(default_factory=list)


HEADER = re.compile(r"\S.*\s(\d+\.\d+):\s*$")
FRAME = re.compile(r"\s+([0-9a-f]+) (.*) \((.*)\)$")


def parse(text):
    """Samples of what `perf script` says, frames from the sampled one to the outermost."""
    sample = None
    for line in text.splitlines():
        if found := HEADER.match(line):
            sample = Sample(float(found[1]))
        elif not line.strip():
            if sample and sample.frames:
                yield sample
            sample = None
        elif sample and (found := FRAME.match(line)):
            symbol = re.sub(r"\+0x[0-9a-f]+$", "", found[2])
            sample.frames.append(Frame(int(found[1], 16), symbol, found[3]))
    if sample and sample.frames:
        yield sample


def is_kernel(frame):
    return frame.dso.startswith("[kernel") or frame.dso.endswith(".ko")


class Lines:
    """Source lines of one program's code, with what was inlined where."""

    def __init__(self, program):
        self.program = str(program)
        self.tool = shutil.which("llvm-addr2line") or shutil.which("addr2line")
        self.known = {}

    @functools.cached_property
    def shift(self):
        """From an offset in the file, which is what perf names, to the address the file names."""
        done = subprocess.run(["readelf", "-lW", self.program], capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            words = line.split()
            if words[:1] == ["LOAD"] and "E" in words[6:-1]:
                return int(words[2], 16) - int(words[1], 16)
        return 0

    def learn(self, offsets):
        new = sorted(set(offsets) - self.known.keys())
        if not new:
            return
        asked = "\n".join(hex(offset + self.shift) for offset in new) + "\n"
        done = subprocess.run([self.tool, "-e", self.program, "-f", "-C", "-i", "-a"], input=asked, capture_output=True, text=True)
        self.known.update(zip(new, parse_lines(done.stdout)))

    def at(self, offset):
        return self.known.get(offset, [])


def parse_lines(text):
    """For each address, [(function, path)] with the innermost first."""
    found, lines = [], iter(text.splitlines())
    for line in lines:
        if line.startswith("0x"):
            found.append([])
        elif found:
            path = next(lines, "??:0").rsplit(":", 1)[0]
            found[-1].append((line, None if path == "??" else path))
    return found


def symbol_of_ours(function):
    """Without the path and the hash that a compiler adds."""
    function = re.sub(r"::h[0-9a-f]{16}$", "", function)
    return function.removeprefix("fastmq::")


def sum_up(samples, lines):
    """Samples by place, and by (place, function) for the hottest."""
    program = lines.program
    wanted = [frame.address - (number > 0) for sample in samples if not is_kernel(sample.frames[0])
              for number, frame in enumerate(sample.frames[:6]) if frame.dso == program]
    lines.learn(wanted)
    by_place, by_function = collections.Counter(), collections.Counter()
    for sample in samples:
        if is_kernel(sample.frames[0]):
            functions = [frame.symbol for frame in sample.frames if is_kernel(frame)]
            place, name = places.kernel_place(functions), functions[0]
        else:
            frames = [(frame.symbol, lines.at(frame.address - (number > 0)) if frame.dso == program else [])
                      for number, frame in enumerate(sample.frames[:6])]
            place, name = places.user_place(frames), user_name(frames)
        by_place[place] += 1
        by_function[place, name] += 1
    return by_place, by_function


def user_name(frames):
    """The innermost function of ours, behind what was called from it."""
    called = None
    for number, (symbol, lines) in enumerate(frames):
        for function, path in lines:
            name = places.our_file(path)
            if name and name not in places.PLUMBING:
                short = f"{name}: {symbol_of_ours(function).split('<')[0].rsplit('::', 1)[-1] or symbol_of_ours(function)}"
                return f"{called} from {short}" if called else short
        if number == 0 and (not lines or places.MEMORY.fullmatch(symbol) or places.ALLOCATOR.fullmatch(symbol)):
            called = symbol_of_ours(symbol)
    return called or frames[0][0]


class Counting:
    """What happens in the context of one process while the `with` lasts, in short intervals."""

    def __init__(self, pid, cpu):
        self.command = ["taskset", "-c", str(cpu), "perf", "stat", "-x,", "-I", str(INTERVAL_MS), "-e", ",".join(COUNTED), "-p", str(pid)]
        self.arrived = []

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()
        deadline = time.monotonic() + 10
        while not self.arrived and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return self

    def listen(self):
        for line in self.process.stderr:
            self.arrived.append((time.monotonic(), line))

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(10)
        self.thread.join(10)

    def per_second(self, from_s, to_s):
        return rates(self.arrived, from_s, to_s)


def rates(arrived, from_s, to_s):
    """Events a second by name, of the intervals that lie between both; `arrived` has lines and when they came."""
    ends, counts = [], collections.defaultdict(collections.Counter)
    for at_s, line in arrived:
        words = line.strip().split(",")
        if len(words) < 4 or words[3] not in COUNTED:
            continue
        try:
            end_s, count = float(words[0]), float(words[1])
        except ValueError:
            continue
        counts[end_s][words[3]] += count
        ends.append((at_s, end_s))
    if not ends:
        raise ProfileError("perf stat counted nothing")
    # perf's clock begins when it does; no line can come before its time.
    began_s = min(at_s - end_s for at_s, end_s in ends)
    total, seconds, previous = collections.Counter(), 0.0, 0.0
    for end_s, found in sorted(counts.items()):
        if from_s <= began_s + previous and began_s + end_s <= to_s:
            total += found
            seconds += end_s - previous
        previous = end_s
    if not seconds:
        raise ProfileError("no interval of perf stat lies in what was measured")
    return {name: total[name] / seconds for name in COUNTED}
