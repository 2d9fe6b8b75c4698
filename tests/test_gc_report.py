"""What a gc says: everything for machines, one screen for people, whatever the store."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrfstore.cli.gc_report import MOST_LINES, to_json, to_text
from vrfstore.gc.sweep import Report
from vrfstore.gc.usage import Holder

NOTHING = Report(
    dry_run=False,
    environments=(),
    entries=(),
    leftovers=0,
    records=0,
    freed=0,
    kept={},
    entries_kept=0,
    problems=(),
)
DAY = 86400.0


def test_a_report_names_what_went_and_groups_what_stays_by_why() -> None:
    report = replace(
        NOTHING,
        environments=("e1", "e2"),
        entries=("52a0-numpy-2.4.1",),
        leftovers=1,
        records=3,
        freed=12_345_678,
        forgotten=("/srv/film/.venv",),
        kept={
            "e3": ("used 3 days ago",),
            "e4": ("used 2 hours ago",),
            "e5": ("used 5 hours ago",),
            "e6": ("pinned by root nightly", "leased"),
            "e7": ("pinned by root film",),
            "e8": ("leased",),
            "e9": ("in use by process 123, 124",),
        },
        entries_kept=40,
    )
    text = to_text(report, max_age=30 * DAY, packages={"e1": ("a 1", "b 1", "c 1", "d 1")})
    assert text.splitlines() == [
        "removed 2 environments, 1 entry, 1 leftover, 3 records; freed 12.3 MB",
        "  environment e1 (a 1, b 1, c 1 and 1 more)",
        "  environment e2",
        "  entry 52a0-numpy-2.4.1",
        "  the registration of /srv/film/.venv, which is gone",
        "kept 7 environments, 40 entries",
        "  3 used within 30 days",
        "  2 pinned (nightly, film)",
        "  1 leased",
        "  1 in use by processes (123, 124)",
    ]


def test_a_dry_run_speaks_of_what_would_be() -> None:
    assert to_text(replace(NOTHING, dry_run=True, used=5_000)).splitlines() == [
        "would remove 0 environments, 0 entries, 0 leftovers, 0 records; would free 0 B",
        "would keep 0 environments, 0 entries; the store takes 5.0 kB",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stopped": "time"}, "stopped, because the time is over; the next gc goes on from there"),
        ({"stopped": "freed"}, "stopped, because so much was to be freed and no more; the next gc goes on"),
        ({"problems": ("a", "b")}, "2 problems, see above"),
        ({"missing": 7_000}, "over budget by 7.0 kB, all of it in use or too young; most is held by"),
        ({"kept": {"e": ("its record cannot be read",)}}, "1 its record cannot be read"),
    ],
)
def test_a_report_says_what_else_there_is_to_know(changes: dict[str, object], expected: str) -> None:
    plain, told = (to_text(replace(NOTHING, **each)) for each in ({}, changes))  # type: ignore[arg-type]
    assert expected in told
    assert expected not in plain


def test_over_budget_it_is_said_who_holds_how_much() -> None:
    holders = [
        Holder(what=f"environments/e{number}", why=("root film (pin)", "leased"), exclusive=2_000, shared=50)
        for number in range(7)
    ]
    report = replace(NOTHING, missing=1)
    lines = to_text(report, holders=holders).splitlines()
    assert "  environments/e0: 2.0 kB, and 50 B shared (root film (pin))" in lines
    assert lines[-1] == "  and 2 more; see: vrfstore du"
    document = to_json(report, holders)
    assert document["status"] == "over-budget"
    assert document["holders"] == [
        {"name": holder.what, "why": list(holder.why), "bytes_exclusive": 2_000, "bytes_shared": 50}
        for holder in holders
    ]


def test_no_name_does_anything_to_a_terminal() -> None:
    text = to_text(replace(NOTHING, forgotten=("/srv/\x1b[2J\n\n",)))
    assert "\x1b" not in text
    assert len(text.splitlines()) == 3


NAMES = st.lists(st.sampled_from([f"n{number}" for number in range(99)]), unique=True, max_size=60)
WHY = st.sampled_from(
    [
        "leased",
        "used 3 days ago",
        "pinned by root a",
        "pinned by root b",
        "in use by process 1",
        "x",
        "y",
        "z",
        "w",
    ]
)


@given(
    environments=NAMES,
    entries=NAMES,
    forgotten=NAMES,
    kept=st.dictionaries(
        st.sampled_from([f"k{number}" for number in range(99)]), st.tuples(WHY), max_size=60
    ),
    problems=NAMES,
    over=st.sampled_from([{"missing": 1}, {"stopped": "time"}, {"stopped": "freed"}, {}]),
    held=NAMES,
)
def test_a_report_fits_on_a_screen_and_counts_everything(
    environments: list[str],
    entries: list[str],
    forgotten: list[str],
    kept: dict[str, tuple[str]],
    problems: list[str],
    over: dict[str, object],
    held: list[str],
) -> None:
    report = replace(
        NOTHING,
        environments=tuple(environments),
        entries=tuple(entries),
        forgotten=tuple(forgotten),
        kept=kept,
        problems=tuple(problems),
        **over,  # type: ignore[arg-type]
    )
    holders = [Holder(what=name, why=("root film",), exclusive=1, shared=1) for name in held]
    lines = to_text(report, max_age=DAY, holders=holders).splitlines()
    assert len(lines) <= MOST_LINES
    first = next(number for number, line in enumerate(lines) if line.startswith("kept "))
    groups = []
    for line in lines[first + 1 :]:
        if not line.startswith("  "):
            break
        groups.append(int(line.split()[0]))
    assert sum(groups) == len(kept)
