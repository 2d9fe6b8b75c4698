"""A new environment from a warm store, beside uv with a warm cache: the same wheels, alternating, in one run.

usage: .venv/bin/python benchmarks/linking.py [--runs N] [--json FILE] [REQUIREMENTS]     (or: make bench-linking)

Measured is what ``vrfstore link`` does once it knows the wheels and has read their plans: plan, apply, write the
record, publish. Medians are compared, never single times. Environments are only deleted at the end: after a large
delete, a file system may make new inodes many times slower for a while.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import vrfstore
from comparison.figures import described
from vrfstore import fs
from vrfstore.linker.link import link
from vrfstore.linker.plan import merge, plan_environment
from vrfstore.linker.realise import realise
from vrfstore.model import EnvironmentKey, LinkOptions
from vrfstore.store import interpreters, leases
from vrfstore.store.store import Store

DEFAULT = Path(__file__).parent / "document.vrf"
UV_MODES = ("hardlink", "symlink")
ISOLATED = LinkOptions(isolated=True)


class Ours:
    """Makes environments in process, and notes how long each part takes, in milliseconds."""

    def __init__(self, store: Store, linked: vrfstore.LinkResult) -> None:
        self.store = store
        record = store.record(Path(linked.environment).name)
        self.directories = [wheel.directory for wheel in record.wheels]
        self.lock = record.lock
        with store.session() as lease:
            self.interpreter = interpreters.known(store.layout, lease, record.executable)[0]
            self.ready = interpreters.ready_links_name(self.interpreter)
        self.plans = [store.plan(directory) for directory in self.directories]
        self.options = record.options
        self.merged = merge(self.plans, self.options)
        self.parts: dict[str, list[float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure one part."""
        began = time.perf_counter()
        yield
        self.parts.setdefault(name, []).append((time.perf_counter() - began) * 1000)

    def whole(self) -> str:
        """Make and publish one; returns its directory."""
        # Another key each time: that of these wheels is taken.
        key = EnvironmentKey(fs.unique_name() * 2)
        digests = [plan.reference.digest for plan in self.plans]
        with leases.take(self.store.layout, environment=key, digests=digests) as lease, self.part("whole"):
            link(self.store, lease, self.plans, self.interpreter, key=key, lock=self.lock, merged=self.merged)
        return self.store.layout.of("environments", key)

    def split(self) -> None:
        """Make one part by part."""
        with self.part("read plans"):
            plans = [self.store.plan(directory) for directory in self.directories]
        place = self.store.layout.of("environments", fs.unique_name() * 2)
        hashes = functools.cache(self.store.manifest_hashes)
        with self.part("plan"):
            plan = plan_environment(
                plans,
                self.interpreter,
                merge(plans, self.options),
                place=place,
                interpreter_links=self.ready,
                hashes_of=lambda entry: hashes(entry.reference.directory),
            )
        with self.part("apply"):
            realise(plan, self.store.root, place)
        with self.part("floor"):
            floor(plan.directories, plan.links, plan.files, self.store.root, f"{place}.floor")


def floor(
    directories: Sequence[str],
    links: Sequence[tuple[str, str]],
    files: Sequence[tuple[str, bytes]],
    root: str,
    place: str,
) -> None:
    """Make the same system calls with nothing around them: what no program can do without."""
    os.mkdir(place)
    for path in directories:
        os.mkdir(f"{place}/{path}")
    for source, path in links:
        os.link(f"{root}/{source}", f"{place}/{path}", follow_symlinks=False)
    for path, content in files:
        descriptor = os.open(f"{place}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(descriptor, content)
        os.close(descriptor)


def uv_peers(scratch: Path, linked: vrfstore.LinkResult, python: str) -> dict[str, Callable[[], float]]:
    """Return calls that make a venv with uv from a warm cache of the same wheels, by link mode; none without uv."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        return {}
    print(subprocess.run([uv, "--version"], capture_output=True, text=True, check=True).stdout.strip())
    lock = tomllib.loads(Path(linked.lock).read_text())
    pins = scratch / "pins.txt"
    pins.write_text("".join(f"{package['name']}=={package['version']}\n" for package in lock["packages"]))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    variables = kept | {"UV_CACHE_DIR": str(scratch / "uv-cache"), "UV_NO_CONFIG": "1"}

    def make(mode: str, *offline: str) -> float:
        directory = str(scratch / f"uv-{fs.unique_name()}")
        began = time.perf_counter()
        for words in (
            ("venv", "--quiet", "--python", python, directory),
            ("pip", "sync", "--quiet", *offline, "--link-mode", mode, "--python", directory, str(pins)),
        ):
            subprocess.run([uv, *words], check=True, env=variables)
        return (time.perf_counter() - began) * 1000

    make("hardlink")  # fills the cache
    return {mode: functools.partial(make, mode, "--offline") for mode in UV_MODES}


def new_inodes(directory: str) -> int:
    """Return how many inodes an environment has that nothing else has."""
    paths = (
        os.path.join(top, name) for top, folders, files in os.walk(directory) for name in folders + files
    )
    found = (os.lstat(path) for path in paths)
    return 1 + sum(1 for seen in found if seen.st_nlink == 1 or stat.S_ISDIR(seen.st_mode))


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("requirements", nargs="?", default=str(DEFAULT))
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(
        dir=Path.cwd(), prefix=".bench-", ignore_cleanup_errors=True
    ) as directory:
        scratch = Path(directory)
        store = Store.open(scratch / "store")
        linked = vrfstore.link(asked.requirements, store=store, options=ISOLATED, compile_mode="off")
        ours = Ours(store, linked)
        peers = uv_peers(scratch, linked, ours.interpreter.executable)
        theirs: dict[str, list[float]] = {mode: [] for mode in peers}
        place = ours.whole()
        for _ in range(asked.runs):
            ours.split()
            ours.whole()
            for mode, make in peers.items():
                # Symlinks, one for each file, take uv many times longer: few of them are enough.
                if mode == UV_MODES[0] or len(theirs[mode]) < 3:  # noqa: PLR2004
                    theirs[mode].append(make())
        inodes = new_inodes(place)
        result = {
            "wheels": len(ours.plans),
            "python": ours.interpreter.version,
            "machine": {"kernel": platform.release(), "processors": len(os.sched_getaffinity(0))},
            "ours_ms": {name: described(times, 2) for name, times in ours.parts.items()},
            "uv_ms": {mode: described(times, 2) for mode, times in theirs.items()},
            "new_inodes": inodes,
        }
        show(result)
        if asked.json:
            asked.json.write_text(json.dumps(result, indent=2) + "\n")
        for path in Path(store.root, "entries").iterdir():
            fs.remove_tree(str(path))


def show(result: dict[str, Any]) -> None:
    """Print a table."""
    ours, theirs = result["ours_ms"], result["uv_ms"]
    print(f"{result['wheels']} wheels, Python {result['python']}, {result['machine']}")
    whole = ours["whole"]["median"]
    for name, times in ours.items():
        print(f"vrfstore, {name:<22} {times['median']:9.2f} ms   ({times['low']:.2f} to {times['high']:.2f})")
    for mode, times in theirs.items():
        print(
            f"uv venv + sync, {mode:<16} {times['median']:9.1f} ms   ({times['low']:.1f} to {times['high']:.1f})"
            f"   {times['median'] / whole:.1f} times ours"
        )
    print(f"new inodes {result['new_inodes']}, {result['new_inodes'] / result['wheels']:.2f} for each wheel")


if __name__ == "__main__":
    main()
