"""A hit and a warm link, side by side with a bare Python and with uv, in one run on the same wheels.

usage: .venv/bin/python benchmarks/quick.py [REQUIREMENTS]     (or: make bench-quick)

Runs alternate, because the machine's mood changes; medians are compared, never single times. Environments are
only deleted at the end: after a large delete, a file system may make new inodes many times slower for a while.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import vrfstore
from vrfstore import fs
from vrfstore.linker.plan import plan_environment
from vrfstore.linker.realise import realise
from vrfstore.store import interpreters
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


class WarmLink:
    """A new environment from a warm store, in process, by its three parts; each call makes another one."""

    def __init__(self, store: Store, linked: vrfstore.LinkResult) -> None:
        self._store = store
        record = store.record(Path(linked.environment).name)
        self._directories = [wheel.directory for wheel in record.wheels]
        with store.session() as lease:
            self._interpreter = interpreters.known(store.layout, lease, record.executable)[0]
            self._ready = interpreters.ready_links(store.layout, lease, self._interpreter)
        self.parts: dict[str, list[float]] = {"read plans": [], "plan": [], "apply": []}

    def __call__(self) -> None:
        """Make one."""
        began = time.perf_counter()
        plans = [self._store.plan(directory) for directory in self._directories]
        read = time.perf_counter()
        plan = plan_environment(
            plans,
            self._interpreter,
            interpreter_links=os.path.relpath(self._ready, self._store.root),
            hashes_of=lambda entry: self._store.manifest_hashes(entry.reference.directory),
        )
        planned = time.perf_counter()
        realise(plan, self._store.root, self._store.layout.of("environments", fs.unique_name() * 2))
        applied = time.perf_counter()
        for part, seconds in zip(self.parts, (read - began, planned - read, applied - planned), strict=True):
            self.parts[part].append(seconds * 1000)


def uv_peer(scratch: Path, linked: vrfstore.LinkResult, python: str) -> Callable[[], object] | None:
    """Return a call that makes a venv with uv from a warm cache of the same wheels; None without uv."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        return None
    lock = tomllib.loads(Path(linked.lock).read_text())
    pins = scratch / "pins.txt"
    pins.write_text("".join(f"{package['name']}=={package['version']}\n" for package in lock["packages"]))
    variables = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    variables |= {"UV_CACHE_DIR": str(scratch / "uv-cache"), "UV_NO_CONFIG": "1"}
    numbers = iter(range(10**6))

    def make() -> None:
        directory = str(scratch / f"uv{next(numbers)}")
        for words in (
            ("venv", "--quiet", "--python", python, directory),
            ("pip", "sync", "--quiet", "--python", directory, str(pins)),
        ):
            subprocess.run([uv, *words], check=True, env=variables)

    make()  # fills the cache
    return make


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
        ours = WarmLink(store, linked)
        theirs = uv_peer(scratch, linked, store.record(Path(linked.environment).name).executable)
        pairs = [(milliseconds(ours), milliseconds(theirs) if theirs else 0.0) for _ in range(RUNS)]
        our_median, their_median = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"new environment, in process   {our_median:8.1f} ms")
        for part, times in ours.parts.items():
            print(f"  {part:<27} {statistics.median(times):8.1f} ms")
        if theirs:
            ratio = their_median / our_median
            print(f"uv venv + uv pip sync, warm   {their_median:8.1f} ms   {ratio:.1f} times ours")
        for path in Path(store.root, "entries").iterdir():
            fs.remove_tree(str(path))


if __name__ == "__main__":
    main()
