"""Fetching a hundred small wheels into an empty store, beside uv with an empty cache: one index on loopback.

usage: .venv/bin/python benchmarks/fetching.py [--runs N] [--wheels N] [--json FILE]     (or: make bench-fetching)

Runs alternate, because the machine's mood changes; medians are compared, never single times. The index is a process
of its own, and so is every run. Ours is what ``vrfstore link`` does once it has a lock: fetch, check, unpack, sync,
publish. uv has no such step by itself: ``uv pip sync`` reads the index page of every project too, and links what it
has unpacked into an environment, but does not sync. The pins have hashes, which are known to both beforehand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from comparison.figures import described
from comparison.ground import scratch_directory
from comparison.serving import served
from support.wheels import WheelSpec, build_wheel, wheel_bytes, wheel_filename
from vrfstore import fs
from vrfstore.model import LockedWheel, nobody, parse_digest
from vrfstore.requirements import fetch
from vrfstore.requirements.pip import PipSettings
from vrfstore.store.store import Store

OURS = "--fetch-into"


def specifications(count: int) -> list[WheelSpec]:
    """Return wheels of some ten modules each, as small pure ones are."""
    text = "".join(f"def function_{number}():\n    return {number}\n\n\n" for number in range(60))
    return [
        WheelSpec(name=f"seed{number}", files={f"seed{number}/part{part}.py": text for part in range(10)})
        for number in range(count)
    ]


def locked(url: str, spec: WheelSpec) -> LockedWheel:
    """Return the wheel as a lock has it."""
    filename, content = wheel_filename(spec), wheel_bytes(spec)
    return LockedWheel(
        name=spec.name,
        version=spec.version,
        filename=filename,
        digest=parse_digest(hashlib.sha256(content).hexdigest()),
        url=f"{url.removesuffix('simple/')}files/{filename}",
        size=len(content),
    )


def fetch_into(directory: str, url: str, count: int) -> None:
    """Fetch all of them into a new store, and print the milliseconds that took, imports of urllib3 included."""
    wheels = [locked(url, spec) for spec in specifications(count)]
    store = Store.open(directory)
    with store.session() as lease:
        began = time.perf_counter()
        fetch.fetch(store, lease, wheels, PipSettings(), nobody)
        print((time.perf_counter() - began) * 1000)


def ours(scratch: Path, url: str, count: int) -> float:
    """Return the milliseconds of one run in a process of its own."""
    store = str(scratch / fs.unique_name())
    command = [sys.executable, __file__, OURS, store, url, str(count)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def uv_peers(scratch: Path, url: str, count: int) -> dict[str, Callable[[], float]]:
    """Return calls that let uv fetch the same into an empty cache; none without uv."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        return {}
    print(subprocess.run([uv, "--version"], capture_output=True, text=True, check=True).stdout.strip())
    pins = scratch / "pins.txt"
    wheels = [locked(url, spec) for spec in specifications(count)]
    pins.write_text("".join(f"{wheel.name}==1.0 --hash=sha256:{wheel.digest}\n" for wheel in wheels))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}

    def run(*words: str) -> float:
        place, cache = (str(scratch / fs.unique_name()) for _ in range(2))
        variables = kept | {"UV_CACHE_DIR": cache, "UV_NO_CONFIG": "1", "UV_DEFAULT_INDEX": url}
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, place], check=True, env=variables)
        began = time.perf_counter()
        subprocess.run([uv, "pip", *words, "--quiet", "--python", place], check=True, env=variables)
        return (time.perf_counter() - began) * 1000

    return {
        "uv pip sync": lambda: run("sync", str(pins)),
        "uv pip install --no-deps": lambda: run("install", "--no-deps", "--requirements", str(pins)),
    }


def _written(scratch: Path, count: int) -> list[Path]:
    """Return files of all wheels, made now."""
    directory = scratch / "wheels"
    directory.mkdir()
    return [build_wheel(spec, directory) for spec in specifications(count)]


def measure(runs: int, count: int) -> dict[str, Any]:
    """Return the times of everybody, in milliseconds."""
    with scratch_directory(Path.cwd()) as scratch, served(_written(scratch, count)) as url:
        calls = {"vrfstore": lambda: ours(scratch, url, count), **uv_peers(scratch, url, count)}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(runs):
            for name, call in calls.items():
                times[name].append(call())
    return {
        "wheels": count,
        "machine": {"kernel": platform.release(), "processors": len(os.sched_getaffinity(0))},
        "ms": {name: described(taken, 1) for name, taken in times.items()},
    }


def main() -> None:
    """Measure, print, and write what was measured."""
    if sys.argv[1:2] == [OURS]:
        fetch_into(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--wheels", type=int, default=100)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    result = measure(asked.runs, asked.wheels)
    print(f"{result['wheels']} wheels, {result['machine']}")
    for name, times in result["ms"].items():
        print(f"{name:<26} {times['median']:8.0f} ms   ({times['low']:.0f} to {times['high']:.0f})")
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
