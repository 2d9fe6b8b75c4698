"""Runs of the micro-benchmarks: what is kept of one, and how another compares with it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comparison.report import seconds, table

__all__ = ["compared", "kept_of"]


def kept_of(found: Mapping[str, Any], commit: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of the JSON of pytest-benchmark: times in seconds, and where they come from."""
    machine = found["machine_info"]
    return {
        "commit": dict(commit),
        "machine": {
            "kernel": machine["release"],
            "python": machine["python_version"],
            "processor": machine.get("cpu", {}).get("brand_raw", "unknown"),
        },
        "seconds": {
            each["name"].removeprefix("test_"): {
                "least": each["stats"]["min"],
                "median": each["stats"]["median"],
                "rounds": each["stats"]["rounds"],
            }
            for each in found["benchmarks"]
        },
    }


def compared(now: Mapping[str, Any], before: Mapping[str, Any] | None, limit: float) -> tuple[str, list[str]]:
    """Return a Markdown table, and the names of what takes more than so many times as long as before.

    Args:
        now: What ``kept_of`` returned of this run.
        before: The same of the run that was kept; None for none.
        limit: How many times as long is too long.
    """
    rows = [["", "least", "median", "kept", "times as long"]]
    slower = []
    for name, times in now["seconds"].items():
        kept = before["seconds"].get(name) if before else None
        row = [name.replace("_", " "), seconds(times["least"]), seconds(times["median"])]
        if kept is None:
            rows.append([*row, "", ""])
            continue
        factor = times["least"] / kept["least"]
        if factor > limit:
            slower.append(name)
        text = f"{factor:.2f}"
        rows.append([*row, seconds(kept["least"]), f"**{text}, slower**" if factor > limit else text])
    return table(rows), slower
