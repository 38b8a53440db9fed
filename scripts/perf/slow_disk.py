"""A limit on how fast this process and those it starts read from a disk: a control group of the system, which root may make."""

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class SlowDiskError(Exception):
    """The disk cannot be made slower here."""


def disk_of(folder):
    """major:minor of the whole disk below `folder`'s file system: a partition has no limit of its own."""
    device = os.stat(folder).st_dev
    entry = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    if not entry.exists():
        raise SlowDiskError(f"{folder} is on no disk")
    if (entry / "partition").exists():
        entry = entry.parent
    return (entry / "dev").read_text().strip()


@contextlib.contextmanager
def reads_at_most(megabytes_per_second, folder):
    """Inside, at most so many (10^6 bytes) a second are read from the disk of `folder`. With None, nothing is limited."""
    if megabytes_per_second is None:
        yield
        return
    limit = int(megabytes_per_second * 1e6)
    disk = disk_of(folder)
    if (ROOT / "blkio").is_dir():
        parent, file, line = ROOT / "blkio", "blkio.throttle.read_bps_device", f"{disk} {limit}"
    else:
        parent, file, line = ROOT, "io.max", f"{disk} rbps={limit}"
    group = parent / f"fastmq-slow-disk-{os.getpid()}"
    try:
        if file == "io.max":
            (parent / "cgroup.subtree_control").write_text("+io")
        group.mkdir()
        (group / file).write_text(line)
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        raise SlowDiskError(f"no control group with a limit for the disk {disk}: {error}") from error
    try:
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
