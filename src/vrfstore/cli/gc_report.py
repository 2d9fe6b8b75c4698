"""What a collection did, in one screen for people and in full for machines."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from vrfstore.cli import render
from vrfstore.gc.policy import age
from vrfstore.gc.sweep import Report
from vrfstore.gc.usage import Holder

__all__ = ["MOST_LINES", "counted", "to_json", "to_text"]

MOST_LINES = 24
"""Lines of text that a report has at most, whatever the store."""

_REMOVED = 8
_HOLDERS = 5
_GROUPS = 4

_USED = "used not long ago"

_REASONS: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"used (?P<when>.+) ago", _USED),
        (r"pinned by root (?P<who>.+)", "pinned"),
        (r"leased", "leased"),
        (r"in use by process (?P<who>.+)", "in use by processes"),
    )
)
"""The reasons of ``policy`` and ``scan``, and what environments with one are called together."""


def to_json(report: Report, holders: Sequence[Holder] = ()) -> dict[str, object]:
    """Return a report as an object.

    Args:
        report: What was done.
        holders: Where it is over budget: who holds how much.
    """
    return {
        "status": "over-budget" if report.missing else "done",
        "dry_run": report.dry_run,
        "removed": {
            "environments": list(report.environments),
            "entries": list(report.entries),
            "leftovers": report.leftovers,
            "records": report.records,
        },
        "forgotten": list(report.forgotten),
        "bytes_freed": report.freed,
        "bytes_used": report.used,
        "bytes_missing": report.missing,
        "holders": [
            {
                "name": holder.what,
                "why": list(holder.why),
                "bytes_exclusive": holder.exclusive,
                "bytes_shared": holder.shared,
            }
            for holder in holders
        ],
        "kept": {
            "environments": {name: list(why) for name, why in sorted(report.kept.items())},
            "entries": report.entries_kept,
        },
        "problems": list(report.problems),
        "stopped": report.stopped or None,
        "seconds": round(report.seconds, 3),
    }


def to_text(
    report: Report,
    *,
    max_age: float | None = None,
    holders: Sequence[Holder] = (),
    packages: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return a report as at most ``MOST_LINES`` lines.

    Args:
        report: What was done.
        max_age: Seconds within which environments have been used that stay for that.
        holders: Where it is over budget: who holds how much, the largest first.
        packages: What was in environments, by directory name, as far as that is known.
    """
    lines = [
        *_removed(report, packages or {}),
        *_kept(report, max_age),
        *_ended(report),
        *_over_budget(report, holders),
        *_problems(report),
    ]
    return "\n".join(map(render.visible, lines))


def counted(report: Report) -> str:
    """Return how much goes of everything, in words."""
    return ", ".join(
        (
            render.count(len(report.environments), "environment", "environments"),
            render.count(len(report.entries), "entry", "entries"),
            render.count(report.leftovers, "leftover", "leftovers"),
            render.count(report.records, "record", "records"),
        )
    )


def _removed(report: Report, packages: Mapping[str, Sequence[str]]) -> Iterator[str]:
    removed, freed = ("would remove", "would free") if report.dry_run else ("removed", "freed")
    yield f"{removed} {counted(report)}; {freed} {render.size(report.freed)}"
    names = [render.with_some(f"environment {name}", packages.get(name, ())) for name in report.environments]
    names += [f"entry {name}" for name in report.entries]
    names += [f"the registration of {path}, which is gone" for path in report.forgotten]
    yield from (f"  {name}" for name in names[:_REMOVED])
    if len(names) > _REMOVED:
        yield f"  and {len(names) - _REMOVED} more; see --json"


def _kept(report: Report, max_age: float | None) -> Iterator[str]:
    counted = (
        render.count(len(report.kept), "environment", "environments"),
        render.count(report.entries_kept, "entry", "entries"),
    )
    keeps = "would keep" if report.dry_run else "kept"
    takes = "" if report.used is None else f"; the store takes {render.size(report.used)}"
    yield f"{keeps} {', '.join(counted)}{takes}"
    numbers: Counter[str] = Counter()
    who: dict[str, dict[str, None]] = defaultdict(dict)
    for why in report.kept.values():
        words, named = _grouped(why[0] if why else "")
        if words == _USED and max_age is not None:
            words = f"used within {age(max_age)}"
        numbers[words] += 1
        if named:
            who[words][named] = None
    groups = numbers.most_common()
    for words, number in groups[:_GROUPS]:
        yield f"  {render.with_some(f'{number} {words}', list(who[words]))}"
    if len(groups) > _GROUPS:
        yield f"  {sum(number for _, number in groups[_GROUPS:])} for other reasons; see --json"


def _grouped(reason: str) -> tuple[str, str]:
    """Return what environments with a reason are called together, and what tells them apart."""
    for pattern, words in _REASONS:
        match = pattern.fullmatch(reason)
        if match is not None:
            return words, match.groupdict().get("who") or ""
    return reason, ""


def _ended(report: Report) -> Iterator[str]:
    if report.stopped == "time":
        yield "stopped, because the time is over; the next gc goes on from there"
    elif report.stopped == "freed":
        yield "stopped, because so much was to be freed and no more; the next gc goes on from there"


def _over_budget(report: Report, holders: Sequence[Holder]) -> Iterator[str]:
    if not report.missing:
        return
    yield f"over budget by {render.size(report.missing)}, all of it in use or too young; most is held by"
    for holder in holders[:_HOLDERS]:
        sizes = f"{render.size(holder.exclusive)}, and {render.size(holder.shared)} shared"
        yield f"  {holder.what}: {sizes} ({'; '.join(holder.why[:1])})"
    if not holders:
        yield "  see: vrfstore du"
    elif len(holders) > _HOLDERS:
        yield f"  and {len(holders) - _HOLDERS} more; see: vrfstore du"


def _problems(report: Report) -> Iterator[str]:
    """Say that there are some; what they are stands among the warnings."""
    if report.problems:
        yield render.count(len(report.problems), "problem, see above", "problems, see above")
