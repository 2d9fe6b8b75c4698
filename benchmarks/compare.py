"""vrfstore beside uv, pip, PDM and pex: the same wheels, one run, rounds that alternate.

usage: .venv/bin/python benchmarks/compare.py [--effort quick|usual|full] [--name NAME] [--only SCENARIO]...
       [--on WORKLOAD]... [--tool TOOL]... [--rounds N] [--scratch DIRECTORY]
       (or: make bench-quick, make bench, make bench-full)

Everything that it needs it makes or fetches itself, once, below ``.demo/bench``. Results go to ``benchmarks/results``:
NAME.json, NAME.md, and drawings. README.md beside this file says what is compared, and how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from comparison import serving, toolbox, workloads
from comparison.ground import Ground, remove, scratch_directory
from comparison.machine import commit, machine
from comparison.model import Run, Series
from comparison.model import Workload as Size
from comparison.planning import EFFORTS, Job, plan, seconds_for
from comparison.processes import spawner
from comparison.report import markdown
from comparison.rounds import take_turns
from comparison.scenarios import contenders
from comparison.toolbox import Toolbox
from comparison.workloads import ADDED, SETS, Wheels

ROOT = Path(__file__).parent.parent
KEPT = ROOT / ".demo/bench"
RESULTS = Path(__file__).parent / "results"
PLOTS = Path(__file__).parent / "comparison/plots.py"


def say(text: str) -> None:
    """Tell whoever waits what is going on."""
    print(f"[{datetime.now():%H:%M:%S}] {text}", file=sys.stderr, flush=True)  # noqa: DTZ005 - for people


def measure(
    jobs: Sequence[Job],
    wheels: dict[str, Wheels],
    box: Toolbox,
    scratch: Path,
    *,
    seconds: float | None = None,
    say: Callable[[str], None] = say,
    calm: Callable[[], None] = os.sync,
) -> tuple[list[Series], list[str]]:
    """Run jobs, and return what they found and which there was no time for.

    Args:
        jobs: In the order in which they matter.
        wheels: By workload.
        box: The tools.
        scratch: An empty directory.
        seconds: After so many no further job is begun; None for no limit.
        say: Is told of each job.
        calm: Is called before each turn: nobody is to wait for what others have written.
    """
    end = float("inf") if seconds is None else time.monotonic() + seconds
    found: list[Series] = []
    left_out: list[str] = []
    with spawner() as spawning:
        for workload, group in groupby(jobs, key=lambda job: job.workload):
            directory = scratch / f"{workload}-{len(found)}"
            directory.mkdir()
            with serving.served([*wheels[workload].files, wheels[workload].added]) as index:
                ground = Ground(
                    spawner=spawning, box=box, scratch=directory, wheels=wheels[workload], index=index
                )
                for job in group:
                    began = time.monotonic()
                    if began >= end:
                        left_out.append(f"{job.scenario} on {job.workload}: the time was up")
                        continue
                    until = min(end, began + job.seconds)
                    found += take_turns(contenders(ground, job), job.rounds, until=until, calm=calm)
                    say(f"{job.workload}: {job.scenario} took {time.monotonic() - began:.0f} s")
            remove([directory])
    return found, left_out


def prepared(names: Iterable[str]) -> dict[str, Wheels]:
    """Return the wheels of workloads, fetched where they are not there yet."""
    cache = KEPT / "wheels"
    (added,) = workloads.fetch(ADDED, cache)
    return {name: Wheels(set=SETS[name], files=workloads.fetch(name, cache), added=added) for name in names}


def run(name: str, effort: str, jobs: Sequence[Job], parent: Path, seconds: float | None) -> Run:
    """Set up, measure in a new directory there, and return all that was found.

    Args:
        name: What the results are called.
        effort: Which plan it is of.
        jobs: What to measure.
        parent: Where to work.
        seconds: See ``measure``.
    """
    say("setting up")
    box = toolbox.set_up(KEPT, say)
    wheels = prepared(dict.fromkeys(job.workload for job in jobs))
    about: dict[str, Size] = {each: workloads.described(wheels[each].files) for each in wheels}
    with scratch_directory(parent) as scratch:
        stands_on = machine(scratch)
        began, clock = datetime.now(UTC), time.monotonic()
        found, left_out = measure(jobs, wheels, box, scratch, seconds=seconds)
    return Run(
        name=name,
        effort=effort,
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - clock,
        commit=commit(),
        machine=stands_on,
        tools=box.versions(),
        workloads=about,
        series=tuple(found),
        left_out=tuple(left_out),
    )


def write(found: Run, directory: Path, *, pictures: Path | None = KEPT / "tools/bin/python") -> None:
    """Write the results of a run, and draw them.

    Args:
        found: The run.
        directory: Where the files go.
        pictures: An interpreter that has matplotlib; None for no drawings.
    """
    directory.mkdir(exist_ok=True)
    place = directory / f"{found.name}.json"
    place.write_text(json.dumps(found.to_json(), indent=1) + "\n")
    drawings = _draw(place, pictures) if pictures else []
    place.with_suffix(".md").write_text(markdown(found, drawings=drawings))


def _draw(results: Path, python: Path) -> list[str]:
    """Draw results, and return the names of the files; none where that fails."""
    # Not with the directory of the program first, whose modules could be called as others that matplotlib wants.
    words = [str(python), "-P", str(PLOTS), str(results)]
    drawing = subprocess.run(words, capture_output=True, text=True, check=False)
    if drawing.returncode:
        say(f"no drawings: {drawing.stderr.strip().splitlines()[-1]}")
        return []
    return drawing.stdout.split()


def chosen(jobs: Iterable[Job], asked: argparse.Namespace) -> list[Job]:
    """Return the jobs that are asked for, all if nothing is said."""
    return [
        replace(job, rounds=asked.rounds or job.rounds, tools=tools)
        for job in jobs
        if (not asked.only or job.scenario in asked.only) and (not asked.on or job.workload in asked.on)
        if (tools := [tool for tool in job.tools if not asked.tool or tool in asked.tool])
    ]


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--effort", choices=EFFORTS, default="usual")
    parser.add_argument(
        "--name", help="what the files of the results are called; that of the effort otherwise"
    )
    parser.add_argument("--only", action="append", metavar="SCENARIO", help="this scenario; may be repeated")
    parser.add_argument("--on", action="append", metavar="WORKLOAD", help="this workload; may be repeated")
    parser.add_argument("--tool", action="append", help="this tool; may be repeated")
    parser.add_argument(
        "--scratch", type=Path, default=ROOT, metavar="DIRECTORY", help="work there, on its file system"
    )
    parser.add_argument("--rounds", type=int, help="so many rounds, whatever is planned")
    parser.add_argument("--minutes", type=float, help="begin no further scenario after so long")
    asked = parser.parse_args()
    # Ended in good order: a scratch directory may have gigabytes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    jobs = chosen(plan(asked.effort), asked)
    seconds = seconds_for(asked.effort) if asked.minutes is None else asked.minutes * 60
    found = run(asked.name or asked.effort, asked.effort, jobs, asked.scratch, seconds)
    write(found, RESULTS)
    print((RESULTS / f"{found.name}.md").read_text())


if __name__ == "__main__":
    main()
