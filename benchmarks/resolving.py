"""Resolving the document stack by vrfstore, beside pip and uv themselves, and linking a file with one package added.

usage: .venv/bin/python benchmarks/resolving.py [--runs N] [--json FILE] [--only SCENARIO]...
       (or: make bench-resolving)

An index on loopback serves the real wheels and their metadata (PEP 658), so that no network is measured; it has one
version of each project. Each wheel is fetched once, into ``.bench-wheels``. All are whole processes, which alternate;
medians are compared, and each run of ours is divided by the run of its peer beside it. Beside the time that passes
stands the processor time of the process and all that it starts, which depends less on what else the machine does.

============  ======================================  ====================================================
scenario      vrfstore                                pip, uv
============  ======================================  ====================================================
cold          ``lock``, new store, empty caches       a dry run, a compilation, with empty caches
warm          ``lock``, resolved by nobody yet        the same, with the caches full
added         ``lock`` to an output that is there,    the same; uv too has an output with the versions
              one package more
nothing       ``lock`` of what is known               pip where all is installed, uv with its output
============  ======================================  ====================================================

At last, ``vrfstore link`` of a file with one package added, by uv, beside what it consists of: uv, and our link. That
is read in two ways, and both are printed: the whole command with the lock, or linking alone. The wheels are in the
store, the environment is not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vrfstore
from comparison.figures import described
from linking import Ours
from vrfstore import fs
from vrfstore.model import LinkOptions
from vrfstore.requirements.policy import Policy
from vrfstore.store.store import Store

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

from support.index import Index  # noqa: E402 - tests are no package that is installed

DEFAULT = Path(__file__).parent / "document.vrf"
ADDED = "xarray"
CACHE = ROOT / ".bench-wheels"
RESOLVERS = ("pip", "uv")
SCENARIOS = ("cold", "warm", "added", "nothing", "link")

Action = Callable[[], object]


def fetch_wheels(requirements: Sequence[str]) -> Path:
    """Return a directory with the wheels that some requirements come to, fetched by pip where it is not there yet."""
    cache, wanted = CACHE, CACHE / "requirements.txt"
    text = "".join(f"{line}\n" for line in requirements)
    if not wanted.exists() or wanted.read_text() != text:
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
        options = ["--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(cache)]
        command = [sys.executable, "-m", "pip", "download", *options, *requirements]
        subprocess.run(command, check=True)
        wanted.write_text(text)
    return cache


def read_requirements(path: Path) -> list[str]:
    """Return the lines of a file of requirements, without comments."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


@contextmanager
def variables(index: Index) -> Iterator[None]:
    """Let everything that is started ask one index, whatever the user has configured."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "VRFSTORE_"))]:
        del os.environ[name]
    os.environ |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_INDEX_URL": index.url,
        "UV_NO_CONFIG": "1",
        "UV_DEFAULT_INDEX": index.url,
        "VRFSTORE_COMPILE": "off",
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run(*words: str | Path) -> None:
    """Run a command that says nothing unless it fails."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@dataclass(frozen=True, slots=True)
class Taken:
    """How long something took, in milliseconds: the time that passed, and that of processors in other processes."""

    wall: float
    processor: float


def milliseconds(action: Action) -> Taken:
    """Return how long one call takes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    action()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(wall * 1000, processor * 1000)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What is measured: what is made ready before each run, and the run."""

    name: str
    prepare: Action
    action: Action


class Bench:
    """Files, caches and stores in a scratch directory, and the contenders of each scenario."""

    def __init__(self, scratch: Path, requirements: Sequence[str]) -> None:
        self.scratch = scratch
        self.file, self.added = scratch / "asked.txt", scratch / "added.txt"
        self.file.write_text("".join(f"{line}\n" for line in requirements))
        self.added.write_text("".join(f"{line}\n" for line in (*requirements, ADDED)))
        self.number = 0

    def fresh(self, name: str) -> Path:
        """Return a path where nothing is."""
        self.number += 1
        return self.scratch / f"{name}-{self.number}"

    def lock(self, resolver: str, file: Path, store: Path, *words: str | Path) -> None:
        """Have ours resolve a file."""
        options = ["--resolver", resolver, "--isolated", "--python", sys.executable, "--quiet"]
        run(sys.executable, "-m", "vrfstore", "--store", store, "lock", file, *options, *words)

    def peer(self, resolver: str, file: Path, output: Path) -> None:
        """Have the resolver itself do it, with what decides the same."""
        wheels = ["--quiet", "--only-binary", ":all:"]
        if resolver == "pip":
            options = ["--dry-run", "--ignore-installed", "--report", output, "--requirement", file]
            run(sys.executable, "-m", "pip", "install", *wheels, *options)
        else:
            options = ["--python", sys.executable, "--output-file", output, file]
            run(uv(), "pip", "compile", *wheels, *options)

    def use_caches(self, place: Path) -> None:
        """Let both resolvers keep what they fetch in a directory from now on."""
        os.environ |= {"PIP_CACHE_DIR": f"{place}/pip", "UV_CACHE_DIR": f"{place}/uv"}

    def contenders(self, scenario: str, resolver: str) -> tuple[Contender, Contender]:
        """Return ours and its peer."""
        ours, theirs = getattr(self, f"_{scenario}")(resolver)
        label = "pip install --dry-run" if resolver == "pip" else "uv pip compile"
        return (
            Contender(name=f"vrfstore lock, {resolver}", prepare=ours[0], action=ours[1]),
            Contender(name=label, prepare=theirs[0], action=theirs[1]),
        )

    def _cold(self, resolver: str) -> tuple[tuple[Action, Action], tuple[Action, Action]]:
        def prepare() -> None:
            self.use_caches(self.fresh("caches"))

        return (
            (prepare, lambda: self.lock(resolver, self.file, self.fresh("store"))),
            (prepare, lambda: self.peer(resolver, self.file, self.fresh("output"))),
        )

    def _warm(self, resolver: str) -> tuple[tuple[Action, Action], tuple[Action, Action]]:
        store = self._warmed(resolver)
        return (
            (lambda: forget(store), lambda: self.lock(resolver, self.file, store)),
            (lambda: None, lambda: self.peer(resolver, self.file, self.fresh("output"))),
        )

    def _added(self, resolver: str) -> tuple[tuple[Action, Action], tuple[Action, Action]]:
        store = self._warmed(resolver)
        lock, output = self.fresh("lock"), self.fresh("output")
        lock.mkdir()
        self.lock(resolver, self.file, store, "--output", lock / "known.toml")
        self.peer(resolver, self.file, output)

        def prepare() -> None:
            forget(store)
            shutil.copy(lock / "known.toml", lock / "pylock.toml")

        current = self.fresh("output")
        return (
            (prepare, lambda: self.lock(resolver, self.added, store, "--output", lock / "pylock.toml")),
            (
                lambda: shutil.copy(output, current),
                lambda: self.peer(resolver, self.added, current),
            ),
        )

    def _nothing(self, resolver: str) -> tuple[tuple[Action, Action], tuple[Action, Action]]:
        store, output = self._warmed(resolver), self.fresh("output")
        if resolver == "uv":
            self.peer(resolver, self.file, output)
            return (
                (lambda: None, lambda: self.lock(resolver, self.file, store)),
                (lambda: None, lambda: self.peer(resolver, self.file, output)),
            )
        environment = self.fresh("environment")
        run(uv(), "venv", "--quiet", "--python", sys.executable, environment)
        run(uv(), "pip", "install", "--quiet", "--python", environment, "--requirement", self.file)
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            environment / "bin/python",
            "install",
            "--dry-run",
        ]
        return (
            (lambda: None, lambda: self.lock(resolver, self.file, store)),
            (lambda: None, lambda: run(*command, "--quiet", "--requirement", self.file)),
        )

    def _warmed(self, resolver: str) -> Path:
        self.use_caches(self.scratch / "caches")
        store = self.scratch / f"store-{resolver}"
        forget(store)
        for file in (self.file, self.added):
            self.lock(resolver, file, store)
            self.peer(resolver, file, self.fresh("output"))
        return store


def uv() -> str:
    """Return the uv that is installed beside us."""
    return str(Path(sys.executable).with_name("uv"))


def forget(store: Path) -> None:
    """Remove what a store knows of requests and inputs, and nothing else."""
    for kind in ("requests", "inputs"):
        for path in store.glob(f"{kind}/*.json"):
            path.unlink()


def measure(contenders: Sequence[Contender], runs: int) -> dict[str, list[Taken]]:
    """Let contenders run in turns, once for warming up."""
    times: dict[str, list[Taken]] = {each.name: [] for each in contenders}
    for number in range(runs + 1):
        for each in contenders:
            each.prepare()
            taken = milliseconds(each.action)
            if number:
                times[each.name].append(taken)
    return times


def linking(bench: Bench, runs: int) -> dict[str, list[Taken]]:
    """Measure linking a file with one package added, and what it consists of."""
    bench.use_caches(bench.scratch / "caches")
    store = Store.open(bench.scratch / "store")
    policy, options = Policy(resolver="uv"), LinkOptions(isolated=True)
    linked = vrfstore.link(
        bench.added, store=store, python=sys.executable, options=options, policy=policy, compile_mode="off"
    )
    lock = bench.fresh("lock") / "pylock.toml"
    lock.parent.mkdir()
    shutil.copy(linked.lock, lock)
    aside = bench.fresh("aside")
    aside.mkdir()
    in_process = Ours(store, linked)
    command = [sys.executable, "-m", "vrfstore", "--store", store.root, "link", "--isolated", "--quiet"]
    command += ["--python", sys.executable]

    def prepare() -> None:
        forget(Path(store.root))
        # Not deleted: after a large delete a file system may make new inodes many times slower for a while.
        for environment in Path(store.root, "environments").iterdir():
            environment.rename(aside / fs.unique_name())

    contenders = (
        Contender(
            name="vrfstore link, uv",
            prepare=prepare,
            action=lambda: run(*command, "--resolver", "uv", bench.added),
        ),
        Contender(
            name="uv pip compile",
            prepare=lambda: None,
            action=lambda: bench.peer("uv", bench.added, bench.fresh("output")),
        ),
        Contender(name="vrfstore link of the lock", prepare=prepare, action=lambda: run(*command, lock)),
        Contender(name="the link in it", prepare=lambda: None, action=in_process.whole),
    )
    return measure(contenders, runs)


def both(times: Sequence[Taken]) -> dict[str, dict[str, float]]:
    """Return median and quartiles of both times."""
    return {
        "wall_ms": described([each.wall for each in times], 3),
        "processor_ms": described([each.processor for each in times], 3),
    }


def ratios(ours: Sequence[Taken], *parts: Sequence[Taken]) -> list[float]:
    """Return how many times as long each run of ours took as its peers beside it together."""
    return [
        each.wall / sum(other.wall for other in others) for each, *others in zip(ours, *parts, strict=True)
    ]


def shown(ratio: Mapping[str, float]) -> str:
    """Return a ratio with its quartiles."""
    return f"{ratio['median']:.2f} times ({ratio['low']:.2f} to {ratio['high']:.2f})"


def row(scenario: str, name: str, times: Sequence[Taken]) -> str:
    """Return a line of the table."""
    found = both(times)
    wall, processor = found["wall_ms"], found["processor_ms"]["median"]
    measured = f"{processor:8.0f} ms" if processor else " " * 11
    return f"{scenario:<9}{name:<26}{wall['median']:8.0f} ms  {wall['low']:6.0f} to {wall['high']:6.0f}{measured}"


HEADING = (
    f"{'':<9}{'medians':<26}{'wall':>11}{'quartiles':>18}{'processor':>11}   ours as to theirs, pair by pair"
)


def compared(scenario: str, bench: Bench, runs: int) -> dict[str, Any]:
    """Measure one scenario, and print it."""
    found: dict[str, Any] = {}
    for resolver in RESOLVERS:
        ours, theirs = measure(bench.contenders(scenario, resolver), runs).items()
        ratio = described(ratios(ours[1], theirs[1]), 3)
        print(row(scenario, *theirs))
        print(f"{row(scenario, *ours)}   {shown(ratio)}", flush=True)
        found |= {ours[0]: both(ours[1]), theirs[0]: both(theirs[1]), f"ratio, {resolver}": ratio}
    return found


def compared_linking(bench: Bench, runs: int) -> dict[str, Any]:
    """Measure linking a file with one package added, and print it."""
    times = linking(bench, runs)
    for name, taken in times.items():
        print(row("link", name, taken))
    whole, resolved, linked, inner = times.values()
    ratio, strict = (described(ratios(whole, resolved, other), 3) for other in (linked, inner))
    print(
        "With the uv resolver, link of a file with one package added, as to uv's own resolve plus our link:"
    )
    print(f"  our link as a command, `vrfstore link pylock.toml`:       {shown(ratio)}")
    print(f"  our link as linking alone, within a process that runs:    {shown(strict)}")
    return {name: both(taken) for name, taken in times.items()} | {
        "ratio": ratio,
        "ratio, linking only": strict,
    }


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", action="append", choices=SCENARIOS)
    asked = parser.parse_args()
    requirements = read_requirements(DEFAULT)
    wheels = fetch_wheels([*requirements, ADDED])
    result: dict[str, Any] = {
        "wheels": len(list(wheels.glob("*.whl"))),
        "python": platform.python_version(),
        "machine": {"kernel": platform.release(), "processors": len(os.sched_getaffinity(0))},
    }
    print(f"{result['wheels']} wheels, Python {result['python']}, {result['machine']}")
    print(HEADING)
    with tempfile.TemporaryDirectory(
        dir=Path.cwd(), prefix=".bench-", ignore_cleanup_errors=True
    ) as directory:
        with Index(wheels) as index, variables(index):
            bench = Bench(Path(directory), requirements)
            for scenario in asked.only or SCENARIOS:
                measured = (
                    compared_linking(bench, asked.runs)
                    if scenario == "link"
                    else compared(scenario, bench, asked.runs)
                )
                result[scenario] = measured
        for path in Path(directory).glob("store*/entries/*"):
            fs.remove_tree(str(path))
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
