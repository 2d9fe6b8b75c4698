"""A gc of large stores: what looking, deciding, renaming and deleting cost, and what users notice of it.

usage: .venv/bin/python benchmarks/collecting.py [--sizes N,…] [--full] [--json FILE]     (or: make bench-collecting)

Stores have so many entries, and a tenth as many environments of ten entries each, nine tenths of which have not been
used for a long time. Entries are of the real format: ten wheels are unpacked, and all the others are copies with
digests, plans and manifests of their own, whose other files are hard links. Environments are linked by ``link`` itself.

While a gc is at work in a process of its own, hits and links of new environments are measured, and before and after it
as well. Between a large delete and what is measured next there is a pause: a file system may make new inodes many
times slower for a while. ``--full`` adds 100,000 entries: in memory that took 55 s to make and 32 s to collect; on a
disk it takes about 2 million inodes and 6 GB.

Where there is a ``nix-store``, its gc is measured on as many paths with the files of such an entry. Everything
is made below the current directory: run it on a disk that nobody else uses, or from ``/dev/shm``. Where others wrote,
deleting took ten to a hundred times as long.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import vrfstore
from vrfstore import codec, fs, interpreter
from vrfstore.gc import scan, sweep
from vrfstore.gc.policy import Policy
from vrfstore.linker.link import environment_key, link
from vrfstore.model import Digest, EntryPlan, Interpreter
from vrfstore.runner import hit
from vrfstore.store import leases
from vrfstore.store.layout import entry_directory
from vrfstore.store.store import Store

SIZES = (1_000, 10_000)
FULL = 100_000

WHEELS = 10
"""How many different wheels there are; an environment has one entry of each."""

COPIES = 2_000
"""How many entries share the inodes of one: a file may have 65,000 links on ext4, and environments take some."""

DEAD = 0.9
LONG_AGO = 90 * 86400.0
MAX_AGE = 86400.0
PAUSE = 5.0
SAMPLES = 25
"""Hits that are measured while nothing else is going on, before and after."""

LONGEST = 0.020
"""Seconds that a list may be up at most, in 99 of 100 batches."""


def fail(message: str) -> NoReturn:
    """End with an error."""
    sys.exit(f"collecting: {message}")


def wheel(name: str, directory: Path) -> Path:
    """Write a wheel with one module."""
    files = {
        f"{name}/__init__.py": f"NAME = {name!r}\n",
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{name}-1.0.dist-info/RECORD"
    rows = [f"{path},sha256={_row_digest(text.encode())},{len(text)}" for path, text in files.items()]
    files[record] = "\n".join([*rows, f"{record},,", ""])
    path = directory / f"{name}-1.0-py3-none-any.whl"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for place, text in files.items():
            archive.writestr(zipfile.ZipInfo(place), text)
    path.write_bytes(buffer.getvalue())
    return path


def _row_digest(data: bytes) -> str:
    import base64  # noqa: PLC0415

    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


class Maker:
    """Fills a store."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.base: Interpreter = interpreter.probe(interpreter.default_executable())
        self.originals = [store.add(wheel(f"wheel{number}", directory)).plan for number in range(WHEELS)]
        self._sources = {plan.reference.name: "" for plan in self.originals}
        self._copied = 0

    def fill(self, entries: int) -> list[str]:
        """Make so many entries in all, and a tenth as many environments; return the names of those to keep."""
        kept = []
        environments = entries // WHEELS
        for number in range(environments):
            # The first environment has the originals, the others have copies.
            plans = [self._copy(plan, number) for plan in self.originals] if number else self.originals
            name = self.environment(plans, str(number))
            if number < environments * (1 - DEAD):
                kept.append(name)
            else:
                past = time.time_ns() - int(LONG_AGO * 1e9)
                fs.set_times(self.store.layout.record(name), past, past)
        return kept

    def environment(self, plans: list[EntryPlan], lock: str) -> str:
        """Link an environment; return its directory name."""
        lock = hashlib.sha256(lock.encode()).hexdigest()
        # Not what it would be called, so that equal sets do not share one.
        key = environment_key([Digest(lock)], self.base)
        digests = [plan.reference.digest for plan in plans]
        with leases.take(self.store.layout, environment=key, digests=digests, lock=lock) as lease:
            record, _ = link(self.store, lease, plans, self.base, key=key, lock=lock)
        return record.directory

    def _copy(self, plan: EntryPlan, number: int) -> EntryPlan:
        """Publish a copy of an entry under a digest of its own."""
        layout = self.store.layout
        reference = plan.reference
        digest = Digest(hashlib.sha256(f"{reference.name}-{number}".encode()).hexdigest())
        directory = entry_directory(digest, reference.name, reference.version)
        target = layout.of("entries", directory)
        source = self._sources[reference.name]
        share = bool(source) and number % COPIES != 0
        if not share:
            source = layout.of("entries", reference.directory)
            self._sources[reference.name] = target
        self._copy_tree(source, target, layout.of("entries", reference.directory), share=share)
        value = codec.loads(fs.read_file(f"{layout.of('entries', reference.directory)}/plan.json"))
        data = codec.dumps({**value, "digest": digest, "directory": directory})
        fs.write_file(f"{target}/plan.json", data, mode=0o444)
        manifest = self.store.manifest(reference.directory)
        files = [
            dataclasses.replace(file, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            if file.path == "plan.json"
            else file
            for file in manifest.files
        ]
        mine = dataclasses.replace(reference, digest=digest, directory=directory)
        links = {
            path: leads.replace(reference.directory, directory) for path, leads in manifest.links.items()
        }
        written = dataclasses.replace(manifest, reference=mine, files=tuple(files), links=links)
        fs.write_file(f"{target}/manifest.json", codec.dumps(written.to_json()), mode=0o444)
        for path, leads in links.items():
            fs.symlink(leads, f"{target}/{path}")
        for parent, _, _ in os.walk(target, topdown=False):
            fs.seal_directory(parent)
        return dataclasses.replace(plan, reference=mine)

    def _copy_tree(self, source: str, target: str, original: str, *, share: bool) -> None:
        fs.make_directory(target)
        with os.scandir(source) as children:
            for child in children:
                place = f"{target}/{child.name}"
                if child.is_dir(follow_symlinks=False):
                    self._copy_tree(child.path, place, original, share=share)
                elif child.is_symlink() or child.name in {"plan.json", "manifest.json"}:
                    continue
                elif share:
                    fs.hard_link(child.path, place)
                else:
                    fs.copy_file(child.path, place, mode=0o444)


class Clock:
    """Seconds that were spent in each of several functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Count what a function takes, and what it calls."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - began

        setattr(owner, name, timed)


def collect(root: str) -> None:
    """Collect, and print what that took; in a process of its own, for the sake of its peak memory."""
    clock = Clock()
    clock.watch(scan.View, "__init__", "scan")
    clock.watch(sweep, "decide", "mark")
    clock.watch(fs, "remove_tree", "delete")
    store = Store.open(root)
    before = _memory()
    report = sweep.collect(store, Policy(max_age=MAX_AGE, grace=0))
    print(
        json.dumps(
            {
                "seconds": clock.seconds,
                "total": report.seconds,
                "pauses": report.pauses,
                "environments": len(report.environments),
                "entries_removed": len(report.entries),
                "kept": len(report.kept),
                "entries_kept": report.entries_kept,
                "freed": report.freed,
                "problems": report.problems[:3],
                "memory": _memory(),
                "memory_before": before,
            }
        )
    )


def _memory() -> int:
    """Return the most bytes that this process has had in memory since it began (proc(5)).

    What getrusage(2) says of a process includes that from which it was forked.
    """
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


class User:
    """Somebody who has an environment, and links others."""

    def __init__(self, store: Store, maker: Maker, scratch: Path) -> None:
        self._store = store
        self._maker = maker
        self._number = 0
        requirements = scratch / "requirements.vrf"
        requirements.write_text("".join(f"{plan.reference.name}\n" for plan in maker.originals))
        # Where a hit meets a list it goes the whole way, which has to find what it needs.
        os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(scratch)}
        vrfstore.link(requirements, store=store)
        (memo,) = os.listdir(store.layout.of("inputs"))
        self._digest = memo.removesuffix(".json")
        program = str(Path(sys.executable).with_name("vrfstore"))
        self._command = [program, "--store", store.root, "link", str(requirements)]
        self.times: dict[str, list[float]] = {}
        self.left = 0
        """How many hits in this process met a list, and were left to the whole way."""

    def hit_process(self) -> None:
        """A hit by the command."""
        subprocess.run(self._command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def hit(self) -> None:
        """A hit in this process. While a list is up, it is left to the whole way, which looks at the list."""
        self.left += hit.look_up(self._store.layout, self._digest) is None

    def link(self) -> None:
        """Make a new environment of entries that are there."""
        self._number += 1
        self._maker.environment(self._maker.originals, f"new {self._number}")

    def go_on(self, label: str, enough: Callable[[int], bool]) -> None:
        """Take turns until it is enough."""
        done = 0
        while not enough(done):
            for action in (self.hit_process, self.hit, self.link):
                began = time.perf_counter()
                action()
                name = f"{action.__name__}, {label}"
                self.times.setdefault(name, []).append(time.perf_counter() - began)
            done += 1


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Give a directory on the disk of this one, and remove it, sealed or not."""
    path = tempfile.mkdtemp(dir=Path.cwd(), prefix=".bench-")
    try:
        yield Path(path)
    finally:
        fs.remove_tree(path)


def measure(entries: int) -> dict[str, Any]:
    """Fill a store, use it, collect beside that, and use it again; return all figures."""
    with scratch_directory() as scratch:
        store = Store.open(scratch / "store", durable=False)
        began = time.perf_counter()
        maker = Maker(store, scratch)
        user = User(store, maker, scratch)
        maker.fill(entries)
        made = time.perf_counter() - began
        os.sync()
        time.sleep(PAUSE)
        user.go_on("alone", lambda done: done >= SAMPLES)
        command = [sys.executable, __file__, "--collect", store.root]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            user.go_on("beside gc", lambda _: process.poll() is not None)
            output = process.stdout.read() if process.stdout else ""
        if process.returncode:
            fail("the gc failed")
        found: dict[str, Any] = json.loads(output)
        time.sleep(PAUSE)
        user.go_on("alone", lambda done: done >= SAMPLES)
        return {
            "entries": entries,
            "made_in": made,
            "times": user.times,
            "hits_left": user.left,
            **found,
            "nix": nix(scratch, entries),
        }


def nix(scratch: Path, paths: int) -> float | str:
    """Return the seconds that ``nix-store --gc`` takes for so many paths, or why that is not known."""
    program = shutil.which("nix-store")
    if program is None:
        return "there is no nix-store"
    place = scratch / "nix"
    variables = {
        **os.environ,
        "NIX_STORE_DIR": str(place / "store"),
        "NIX_STATE_DIR": str(place / "state"),
        "NIX_LOG_DIR": str(place / "log"),
        "NIX_CONF_DIR": str(place / "configuration"),
        "NIX_REMOTE": "",
    }
    sources = place / "sources"
    for number in range(paths):
        package = sources / f"wheel-{number}" / "package"
        package.mkdir(parents=True)
        for name in ("__init__.py", "METADATA", "WHEEL", "RECORD", "plan.json", "manifest.json", "INSTALLER"):
            (package / name).write_text(f"{number}\n")
    names = sorted(map(str, sources.iterdir()))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *words], env=variables, capture_output=True, text=True, check=False)

    for start in range(0, paths, 500):
        added = run("--add", *names[start : start + 500])
        if added.returncode:
            return f"nix-store does not work here: {added.stderr.strip()[-200:]}"
    time.sleep(PAUSE)
    began = time.perf_counter()
    collected = run("--gc")
    took = time.perf_counter() - began
    for parent, _, _ in os.walk(place):
        Path(parent).chmod(0o755)
    return took if collected.returncode == 0 else f"nix-store --gc failed: {collected.stderr.strip()[-200:]}"


def percentile(values: list[float], part: float) -> float:
    """Return the value that such a part of all does not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def rows(found: dict[str, Any]) -> dict[str, str]:
    """Return what is shown of one size."""
    looked_at = found["entries"] + found["entries"] // WHEELS
    removed = found["environments"] + found["entries_removed"]
    seconds, pauses, times = found["seconds"], found["pauses"], found["times"]
    shown = {
        "scan, names a second": f"{looked_at / seconds['scan']:,.0f}",
        "mark, names a second": f"{looked_at / seconds['mark']:,.0f}",
        "unpublish, names a second": f"{removed / sum(pauses):,.0f}",
        "delete, trees a second": f"{removed / seconds['delete']:,.0f}",
        "list up, p50": f"{statistics.median(pauses) * 1000:.1f} ms",
        "list up, p99": f"{percentile(pauses, 0.99) * 1000:.1f} ms",
        "list up, longest": f"{max(pauses) * 1000:.1f} ms",
        "batches": f"{len(pauses):,}",
        "whole gc": f"{found['total']:.1f} s",
        "whole gc, for each name": f"{found['total'] / looked_at * 1e6:.0f} µs",
        "freed": f"{found['freed'] / 1e6:.0f} MB",
        "peak memory": f"{found['memory'] / 1e6:.0f} MB ({found['memory_before'] / 1e6:.0f} MB before)",
    }
    for name, values in times.items():
        shown[name] = f"{statistics.median(values) * 1000:.2f} ms (p99 {percentile(values, 0.99) * 1000:.1f})"
    shown["hits that met a list"] = f"{found['hits_left']:,}"
    nix_took = found["nix"]
    shown["nix-store --gc"] = nix_took if isinstance(nix_took, str) else f"{nix_took:.1f} s"
    return shown


def table(results: list[dict[str, Any]]) -> str:
    """Return a Markdown table, one column a size."""
    columns = [rows(found) for found in results]
    head = ["", *(f"{found['entries']:,} entries" for found in results)]
    lines = [head, ["---"] * len(head)]
    lines += [[name, *(column[name] for column in columns)] for name in columns[0]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure gc on large stores.")
    parser.add_argument("--sizes", help="numbers of entries, with commas between them", default="")
    parser.add_argument("--full", action="store_true", help=f"{FULL:,} entries too")
    parser.add_argument("--json", help="write all figures to this file")
    parser.add_argument("--collect", metavar="STORE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.collect:
        collect(arguments.collect)
        return
    chosen = [int(size) for size in arguments.sizes.split(",")] if arguments.sizes else list(SIZES)
    results = []
    for size in [*chosen, *([FULL] if arguments.full else [])]:
        found = measure(size)
        results.append(found)
        print(
            f"{size:,} entries: made in {found['made_in']:.0f} s, collected in {found['total']:.1f} s",
            flush=True,
        )
    print(table(results))
    late = [found["entries"] for found in results if percentile(found["pauses"], 0.99) > LONGEST]
    if late:
        print(f"\nthe list was up for longer than {LONGEST * 1000:.0f} ms (p99) with: {late}")
    if arguments.json:
        about = {
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "kernel": platform.release(),
        }
        Path(arguments.json).write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
