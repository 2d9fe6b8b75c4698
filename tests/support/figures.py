"""Figures that a run of the tests says at its end: how much was tried, and how long something took."""

from __future__ import annotations

__all__ = ["lines", "note"]

lines: dict[str, str] = {}
"""What was found, by what it is of."""


def note(subject: str, found: str) -> None:
    """Say at the end of the run what was found."""
    lines[subject] = found
