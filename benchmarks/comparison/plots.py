"""Draw a run: one SVG for each of the scenarios that are about speed. Prints the names of the files.

usage: TOOLS/bin/python plots.py RESULTS.json

It is run by the interpreter of the tools, because nobody else has matplotlib.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
# Not the directory of this file, in which a module called "statistics" or "figures" would come before others.
sys.path.remove(str(Path(__file__).parent))

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from comparison.figures import spread
from comparison.model import Run, Series

DRAWN = ("install-warm", "install-cold", "install-noop", "first-import-warm", "first-import-cold", "hit")
OURS, THEIRS = "#b5462f", "#8796a5"


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
        bars(panel, workload, group)
    figure.suptitle(scenario)
    figure.tight_layout()
    name = f"{run.name}-{scenario}.svg"
    # Without a date, and with names that are always the same: equal results give equal bytes.
    figure.savefig(directory / name, metadata={"Date": None})
    plt.close(figure)
    return name


def bars(panel: plt.Axes, workload: str, group: Sequence[Series]) -> None:
    """Draw medians as bars, with lines from quartile to quartile. Times are on a logarithmic scale."""
    found = [(series.key.tool, spread(series.values("wall"))) for series in reversed(group)]
    tools = [tool for tool, times in found if times]
    times = [times for _, times in found if times]
    medians = [each.median for each in times]
    ranges = [[each.median - each.low for each in times], [each.high - each.median for each in times]]
    colours = [OURS if tool.startswith("vrfstore") else THEIRS for tool in tools]
    panel.barh(tools, medians, xerr=ranges, color=colours, ecolor="#333333", capsize=2)
    panel.set_xscale("log")
    panel.set_xlabel("seconds")
    panel.set_title(workload, loc="left", fontsize="medium")
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)


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
