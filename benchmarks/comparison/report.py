"""Markdown of a run: what was measured on what, the floors, and a table for each scenario and workload. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from comparison.figures import ratio, spread
from comparison.floors import FLOORS, Floor, Judged, judge
from comparison.model import Run, Series

__all__ = ["markdown", "seconds", "size", "table"]

TITLES = {
    "install-cold": "install-cold: a new environment, empty caches",
    "install-warm": "install-warm: a new environment, caches full, venv making included",
    "install-noop": "install-noop: nothing to do",
    "install-incremental": "install-incremental: one package more",
    "first-import-cold": "first-import-cold: from nothing to the end of the first import",
    "first-import-warm": "first-import-warm: from full caches to the end of the first import",
    "hit": "hit: the environment stands, and somebody asks for it",
    "disk": "disk: environments that share most packages",
    "delete": "delete: one environment",
    "gc": "gc: everything goes",
    "store-size": "store-size: by how much else there is in the store",
}
EAGER = "vrfstore --compile eager"
COMPILING = ("uv --compile-bytecode", "venv + pip", "virtualenv + pip")
"""Tools that leave bytecode behind, as ours does with ``--compile eager``."""
WITHOUT_RATIOS = ("store-size",)
"""Scenarios whose rows are different things that vrfstore does."""
LEADS = ("wall", "bytes each", "bytes of 1")
"""The figure that a table is about: the first of these that was measured."""
BASIC = ("wall", "processor", "peak")
FIGURES = {"processor": "processor time", "peak": "peak memory"}


def seconds(value: float) -> str:
    """Return a time with three digits, in the unit that suits it."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if value < limit:
            return f"{_digits(value * factor)} {unit}"
    return f"{_digits(value)} s"


def size(value: float) -> str:
    """Return bytes in the unit that suits them."""
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB")):
        if value < limit:
            return f"{_digits(value / (limit / 1e3))} {unit}"
    return f"{_digits(value / 1e9)} GB"


def _digits(value: float) -> str:
    places = 0 if value >= 100 else 1 if value >= 10 else 2  # noqa: PLR2004 - three digits in all
    return f"{value:,.{places}f}"


def number(value: float) -> str:
    """Return a number of things."""
    return f"{value:,.0f}"


def markdown(run: Run, *, drawings: Sequence[str] = (), floors: Sequence[Floor] = FLOORS) -> str:
    """Return all of it.

    Args:
        run: What was found.
        drawings: File names of drawings, relative to the text.
        floors: What the figures have to be.
    """
    parts = [f"# Comparison: {run.name}", _about(run), "## Floors"]
    about = [floor for floor in floors if floor.workload in run.workloads]
    parts += [_floors(judge(run, about))] if about else []
    if len(about) < len(floors):
        parts += [f"{len(floors) - len(about)} floors are about sets of wheels that this run leaves out."]
    parts += [f"![{name.removesuffix('.svg')}]({name})" for name in drawings]
    for title, every in _grouped(run.series):
        parts += [f"## {title}", *(_table(group) for group in every)]
    if run.left_out:
        parts += ["## Not measured", "\n".join(f"- {line}" for line in run.left_out)]
    return "\n\n".join(parts) + "\n"


def _grouped(series: Iterable[Series]) -> Iterable[tuple[str, list[list[Series]]]]:
    """Return the series by title, and below that by workload, both in the order in which they first came."""
    titles: dict[str, dict[str, list[Series]]] = {}
    for each in series:
        scenario = each.key.scenario
        count = scenario.removeprefix("at-once-")
        title = TITLES.get(scenario, f"at-once: {count} side by side" if count != scenario else scenario)
        titles.setdefault(title, {}).setdefault(each.key.workload, []).append(each)
    return [(title, list(groups.values())) for title, groups in titles.items()]


def _about(run: Run) -> str:
    """Return what was measured, where and when."""
    machine = run.machine
    dirty = ", with changes that are not committed" if run.commit["dirty"] else ""
    stands_on = [
        f"kernel {machine['kernel']}",
        machine["file_system"],
        f"{machine['processors']} processors ({machine['processor']})",
        f"{size(machine['memory'])} of memory",
        f"load {' '.join(map(str, machine['load']))} at the beginning",
    ]
    lines = [
        f"- commit {run.commit['id'][:12]}{dirty}; {run.began}, effort {run.effort}, {run.seconds / 60:.0f} minutes",
        f"- {', '.join(stands_on)}",
        f"- {'; '.join(f'{name}: {version}' for name, version in run.tools.items())}",
    ]
    lines += [
        f"- {name}: {workload.wheels} wheels of {size(workload.packed)}, "
        f"{number(workload.files)} files of {size(workload.unpacked)}"
        for name, workload in run.workloads.items()
    ]
    return "\n".join(lines)


def _floors(judged: Iterable[Judged]) -> str:
    rows = [["", "against", "wanted", "found", ""]]
    for each in judged:
        verdict = {True: "met", False: "**not met**", None: each.why}[each.met]
        found = "" if each.found is None else _times(each.found)
        rows.append([each.floor.what, each.floor.against, each.floor.wanted, found, verdict])
    return table(rows)


def _times(theirs_by_ours: float) -> str:
    """Return a ratio in words, from our point of view."""
    if theirs_by_ours >= 1:
        return f"{_digits(theirs_by_ours)} times less"
    return f"{_digits(1 / theirs_by_ours)} times more"


def _table(group: Sequence[Series]) -> str:
    """Return the table of one scenario and workload."""
    names = list(dict.fromkeys(name for each in group for found in each.rounds.values() for name in found))
    columns = [name for name in names if name not in BASIC]
    lead = next((name for name in LEADS if name in names), "wall")
    also = [name for name in FIGURES if name in names]
    workload = group[0].key.workload
    if lead != "wall":
        columns.remove(lead)
    head = [
        workload,
        "median",
        "quartiles",
        "rounds",
        f"{_first(group)} is",
        *columns,
        *(FIGURES[name] for name in also),
    ]
    rows = [head]
    for each in group:
        if each.failure and not each.rounds:
            rows.append([each.key.tool, f"failed: {_inline(each.failure)}"] + [""] * (len(head) - 2))
            continue
        rows.append(_row(each, _reference(group, each), lead, [*columns, *also]))
    return table(rows)


def _first(group: Sequence[Series]) -> str:
    """Return the name of ours that the others are compared with, if nothing else is said."""
    return next((each.key.tool for each in group if _is_ours(each)), "vrfstore")


def _is_ours(series: Series) -> bool:
    return series.key.tool.startswith("vrfstore")


def _reference(group: Sequence[Series], series: Series) -> Series | None:
    """Return which of ours a series is compared with: one that compiles, if there is one, with what compiles."""
    if series.key.tool in COMPILING:
        for each in group:
            if each.key.tool == EAGER:
                return each
    if series.key.scenario in WITHOUT_RATIOS:
        return None
    return next((each for each in group if _is_ours(each)), None)


def _row(series: Series, ours: Series | None, lead: str, columns: Sequence[str]) -> list[str]:
    whole = spread(series.values(lead))
    failed = f" (then failed: {_inline(series.failure)})" if series.failure else ""
    shown = _shown(lead)
    row = [series.key.tool + failed]
    if whole is None:
        row += ["", "", ""]
    else:
        row += [shown(whole.median), f"{shown(whole.low)} to {shown(whole.high)}", str(whole.count)]
    row.append(_verdict(series, ours, lead))
    for name in columns:
        found = spread(series.values(name))
        row.append(_shown(name)(found.median) if found else "")
    return row


def _verdict(series: Series, ours: Series | None, lead: str) -> str:
    """Say what ours is beside this one; what we lose is said as loudly as what we win."""
    if ours is None or series is ours:
        return ""
    found = ratio(ours, series, lead)
    if found is None:
        return ""
    better, worse = ("faster", "slower") if lead == "wall" else ("smaller", "larger")
    if _is_ours(series):
        return f"{_digits(1 / found.median)} times its time" if lead == "wall" else ""
    low, middle, high = found.low, found.median, found.high
    if middle >= 1:
        words = f"{_digits(middle)} times {better}"
    else:
        low, middle, high = 1 / high, 1 / middle, 1 / low
        words = f"**{_digits(middle)} times {worse}**"
    if ours.key.tool == EAGER:
        words += ", eager"
    return words + (f" ({_digits(low)} to {_digits(high)})" if found.count > 1 else "")


def _shown(name: str) -> Callable[[float], str]:
    """Return how a figure is written."""
    if name.startswith("inodes"):
        return number
    return size if name == "peak" or name.startswith("bytes") else seconds


def _inline(text: str) -> str:
    """Return a line that cannot end a cell."""
    return text.replace("|", "¦")[:120]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, whose head is the first row."""
    head, *others = rows
    lines = [head, ["---"] * len(head), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
