"""Show what linking costs: cold, from the store, and when the environment is there already.

usage: .venv/bin/python examples/report/demo.py     (or: make demo)

Runs the vrfstore of the interpreter that runs this script, with a store of its own in .demo/.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
HERE = Path("examples/report")  # commands run in ROOT, so that those shown can be repeated there
DEMO = Path(".demo")
REPEATS = 15  # of what takes milliseconds
LEFT_OUT = "seaborn"  # no other package requires it: without it, the rest is still complete

VRFSTORE = [str(Path(sys.executable).with_name("vrfstore")), "--store", str(DEMO / "store")]


def fail(message: str) -> NoReturn:
    sys.exit(f"demo: {message}")


def run(command: list[str]) -> tuple[str, float]:
    """Run a command; return its output and the seconds it took, its start included."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        fail(f"exit status {done.returncode} from: {' '.join(command)}\n{done.stderr.rstrip()}")
    return done.stdout, seconds


def link(requirements: Path) -> tuple[dict[str, Any], float]:
    """Link an environment; return what vrfstore says about it and the seconds it took."""
    output, seconds = run([*VRFSTORE, "link", "--json", str(requirements)])
    try:
        return json.loads(output), seconds
    except json.JSONDecodeError:
        fail(f"not JSON, from vrfstore link --json {requirements}:\n{output}")


def reused(linked: dict[str, Any]) -> int:
    return sum(package["reused"] for package in linked["packages"])


def say(text: str) -> None:
    print(text, flush=True)


def clear() -> None:
    """Remove what an earlier run left."""
    demo = ROOT / DEMO
    for directory, _, _ in os.walk(demo):
        os.chmod(directory, 0o700)  # a store may protect its directories from writing
    if demo.exists():
        shutil.rmtree(demo)
    demo.mkdir()


def subset(linked: dict[str, Any]) -> Path:
    """Write requirements for the same versions of all packages but one."""
    pins = [f"{p['name']}=={p['version']}\n" for p in linked["packages"] if p["name"] != LEFT_OUT]
    path = DEMO / "subset.vrf"
    (ROOT / path).write_text("".join(pins), encoding="utf-8")
    return path


def hits(requirements: Path) -> tuple[float, float]:
    """Return the median seconds of a hit and of starting Python bare, measured in turns."""
    hit, bare = [], []
    for _ in range(REPEATS):
        hit.append(run([*VRFSTORE, "link", str(requirements)])[1])
        bare.append(run([sys.executable, "-c", "pass"])[1])
    return statistics.median(hit), statistics.median(bare)


def row(name: str, what: str, linked: dict[str, Any], seconds: float) -> tuple[str, ...]:
    old = reused(linked)
    steps = linked["timings_ms"]
    return (
        name,
        what,
        linked["status"],
        f"{old}",
        f"{len(linked['packages']) - old}",
        f"{linked['bytes']['downloaded'] / 1e6:.1f}",
        *(f"{steps[step] / 1000:.3f}" if step in steps else "" for step in ("resolve", "fetch", "link")),
        f"{seconds:.3f}",
    )


def table(rows: list[tuple[str, ...]], left: int) -> str:
    """Align rows: the first `left` columns to the left, the others, which are numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in rows
    )


def main() -> None:
    if not Path(VRFSTORE[0]).exists():
        fail(f"there is no vrfstore beside {sys.executable}; `make demo` installs it")
    clear()
    requirements, overlap = HERE / "requirements.vrf", HERE / "overlap.vrf"

    say(f"Linking {requirements} into an empty store; this downloads its wheels ...")
    cold, cold_time = link(requirements)
    say(f"  {len(cold['packages'])} packages in {cold_time:.1f} s: {cold['python']}")

    say(f"Linking {requirements} again ...")
    hit, _ = link(requirements)
    if hit["status"] != "hit" or hit["python"] != cold["python"]:
        fail(f"the environment was not found again: {hit['status']}, {hit['python']}")

    say("Running the report in it ...")
    script = ["python", str(HERE / "report.py"), str(DEMO / "report")]
    output, _ = run([*VRFSTORE, "run", str(requirements), "--", *script])
    say("".join(f"  {line}\n" for line in output.splitlines()).rstrip("\n"))

    say(f"Linking {overlap}, which shares most of its packages ...")
    other, other_time = link(overlap)
    new = [f"{p['name']} {p['version']}" for p in other["packages"] if not p["reused"]]
    say(f"  {reused(other)} packages reused, {len(new)} new: {', '.join(new)}")

    say(f"Linking the packages of {requirements} without {LEFT_OUT}, all of which the store has ...")
    warm, warm_time = link(subset(cold))
    if reused(warm) != len(warm["packages"]):
        fail("packages were unpacked that the store had already")

    say(f"Linking {requirements} {REPEATS} times more ...")
    hit_time, bare_time = hits(requirements)

    header = ("", "", "status", "reused", "new", "MB loaded", "resolve", "fetch", "link", "whole")
    rows = [
        header,
        row("cold", "empty store", cold, cold_time),
        row("overlap", "most packages in the store", other, other_time),
        row("warm", "all packages in the store", warm, warm_time),
        row("hit", f"environment exists (median of {REPEATS})", hit, hit_time),
        ("", "for comparison: python -c pass", *[""] * (len(header) - 3), f"{bare_time:.3f}"),
    ]
    say("\nSeconds by step, and of the whole command with the start of Python:\n")
    say(table(rows, left=3))
    say("\nThe store now:\n")
    say(run([*VRFSTORE, "list"])[0].rstrip("\n"))
    say(f"\nPlot: {DEMO / 'report' / 'report.png'}")


if __name__ == "__main__":
    main()
