"""Builds of revisions, each in a worktree and a target folder of its own under `target/perf`."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILDS = ROOT / "target" / "perf"


def git(*arguments, cwd=ROOT):
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def resolve(revision):
    return git("rev-parse", "--verify", f"{revision}^{{commit}}")


def build(revision):
    """The folder with `fastmq` and `loadgen` of `revision`; built before is built."""
    commit = resolve(revision)
    folder = BUILDS / commit[:12]
    binaries = folder / "target" / "release"
    if not all((binaries / name).exists() for name in ("fastmq", "loadgen")):
        tree = folder / "tree"
        if not tree.exists():
            git("worktree", "prune")
            git("worktree", "add", "--detach", str(tree), commit)
        subprocess.run(["cargo", "build", "--release", "--locked", "--workspace", "--bins",
                        "--target-dir", str(folder / "target")], cwd=tree, check=True)
        git("worktree", "remove", "--force", str(tree))
    return binaries
