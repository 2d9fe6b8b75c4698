"""Draw a run: one SVG for each of the scenarios that are about speed. Prints the names of the files.

usage: TOOLS/bin/python -P plots.py RESULTS.json

It is run by the interpreter of the tools, because nobody else has matplotlib.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from comparison.figures import spread
from comparison.model import Run, Series
from comparison.report import seconds

DRAWN = ("install-warm", "install-cold", "install-noop", "first-import-warm", "first-import-cold", "hit")
OURS, THEIRS = "#b5462f", "#5d6f80"


def draw(run: Run, scenario: str, directory: Path) -> str | None:
    """Draw one scenario, a panel for each workload; returns the file name, or None where there is nothing to draw."""
    workloads: dict[str, list[Series]] = {}
    for series in run.series:
        if series.key.scenario == scenario and series.values("wall"):
            workloads.setdefault(series.key.workload, []).append(series)
    if not workloads:
        return None
    heights = [len(group) + 1 for group in workloads.values()]
    figure, panels = plt.subplots(
        len(workloads), 1, figsize=(8, 0.32 * sum(heights) + 0.8), height_ratios=heights, squeeze=False
    )
    for panel, (workload, group) in zip(panels[:, 0], workloads.items(), strict=True):
        dots(panel, workload, group)
    figure.suptitle(scenario)
    figure.tight_layout()
    name = f"{run.name}-{scenario}.svg"
    # Without a date, and with names that are always the same: equal results give equal bytes.
    figure.savefig(directory / name, metadata={"Date": None})
    plt.close(figure)
    return name


def dots(panel: plt.Axes, workload: str, group: Sequence[Series]) -> None:
    """Draw medians as dots, with lines from quartile to quartile.

    Times are on a logarithmic scale, from one power of ten to another, on which the length of a bar would say nothing.
    """
    for row, series in enumerate(reversed(group)):
        found = spread(series.values("wall"))
        if found is None:
            continue
        colour = OURS if series.key.tool.startswith("vrfstore") else THEIRS
        panel.plot([found.low, found.high], [row, row], color=colour, linewidth=2)
        panel.plot(found.median, row, "o", color=colour)
        panel.annotate(
            seconds(found.median), (found.median, row), (0, 6), textcoords="offset points", fontsize=7
        )
    panel.set_yticks(range(len(group)), [series.key.tool for series in reversed(group)])
    panel.set_ylim(-0.6, len(group) - 0.2)
    panel.set_xscale("log")
    medians = [value for series in group for value in series.values("wall")]
    panel.set_xlim(10 ** math.floor(math.log10(min(medians))), 10 ** math.ceil(math.log10(max(medians))))
    panel.xaxis.set_major_formatter(lambda value, _: seconds(value))
    panel.xaxis.set_minor_formatter("")
    panel.set_title(workload, loc="left", fontsize="medium")
    panel.grid(axis="x", alpha=0.3)


def main() -> None:
    """Draw, and print."""
    place = Path(sys.argv[1])
    run = Run.from_json(json.loads(place.read_text()))
    mpl.rcParams["svg.hashsalt"] = run.name
    for scenario in DRAWN:
        name = draw(run, scenario, place.parent)
        if name:
            print(name)


if __name__ == "__main__":
    main()
