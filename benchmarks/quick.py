"""A hit and a warm link, side by side with a bare Python and with uv, in one run on the same wheels.

usage: .venv/bin/python benchmarks/quick.py [REQUIREMENTS]     (or: make bench-quick)

Runs alternate, because the machine's mood changes; medians are compared, never single times. Environments are
only deleted at the end: after a large delete, a file system may make new inodes many times slower for a while.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from linking import Ours, uv_peers

import vrfstore
from vrfstore import fs
from vrfstore.store.store import Store

RUNS = 15
DEFAULT = Path(__file__).parent.parent / "examples/report/requirements.vrf"


def milliseconds(action: Callable[[], object]) -> float:
    """Return how long one call takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def command(*words: str) -> Callable[[], object]:
    """Return a call that runs a command and fails if that does."""
    return lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    """Measure and print."""
    requirements = sys.argv[1] if len(sys.argv) > 1 else str(DEFAULT)
    with tempfile.TemporaryDirectory(
        dir=Path.cwd(), prefix=".bench-", ignore_cleanup_errors=True
    ) as directory:
        scratch = Path(directory)
        store = Store.open(scratch / "store")
        linked = vrfstore.link(requirements, store=store)
        program = str(Path(sys.executable).with_name("vrfstore"))
        hit = command(program, "--store", store.root, "link", requirements)
        bare = command(sys.executable, "-c", "pass")
        hits = [(milliseconds(bare), milliseconds(hit)) for _ in range(RUNS * 3)]
        bare_median, hit_median = (statistics.median(column) for column in zip(*hits, strict=True))
        print(f"{len(linked.packages)} wheels")
        print(f"bare python -c pass           {bare_median:8.1f} ms")
        print(
            f"hit, whole process            {hit_median:8.1f} ms   {hit_median / bare_median:.2f} times bare"
        )
        ours = Ours(store, linked)
        theirs = uv_peers(scratch, linked, ours.interpreter.executable).get("hardlink")
        their_times = []
        for _ in range(RUNS):
            ours.split()
            ours.whole()
            their_times.append(theirs() if theirs else 0.0)
        for part, times in ours.parts.items():
            print(f"new environment, {part:<12} {statistics.median(times):8.1f} ms")
        if theirs:
            their_median = statistics.median(their_times)
            ratio = their_median / statistics.median(ours.parts["whole"])
            print(f"uv venv + uv pip sync, warm   {their_median:8.1f} ms   {ratio:.1f} times ours")
        for path in Path(store.root, "entries").iterdir():
            fs.remove_tree(str(path))


if __name__ == "__main__":
    main()
