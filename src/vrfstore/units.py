"""Lengths of time, moments and sizes as people write them. Pure."""

from __future__ import annotations

import re

__all__ = ["moment_text", "parse_duration", "parse_room", "parse_size", "size_text"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_WHOLE = 100.0
_LAST_MOMENT = 253_402_300_799
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_duration(text: str, unit: str = "d") -> float:
    """Return seconds: a number and one of s, m, h, d, w.

    Args:
        text: What somebody wrote.
        unit: What a bare number counts.

    Raises:
        ValueError: It is something else.
    """
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)([smhdw]?)", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a length of time such as 30d, 12h or 0")
    return float(match[1]) * _SECONDS[match[2] or unit]


def parse_size(text: str) -> int:
    """Return bytes: a number, maybe with one of k, M, G, T (powers of 1000), or KiB, MiB, GiB, TiB.

    Raises:
        ValueError: It is something else.
    """
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?) ?([kmgt]?)(ib|b)?", text.strip().lower())
    if match is None or (match[3] == "ib" and not match[2]):
        raise ValueError(f"{text!r} is not a size such as 500M or 4GiB")
    unit = 1024 ** "kmgt".index(match[2]) * 1024 if match[3] == "ib" else _BYTES[match[2]]
    return int(float(match[1]) * unit)


def parse_room(text: str) -> tuple[float, bool]:
    """Return a part of a file system: bytes and False, or percent and True where it ends in ``%``.

    Raises:
        ValueError: It is neither a size nor a number from 0 to 100 with ``%``.
    """
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,18})?) ?%", text.strip())
    if match is not None and float(match[1]) <= _WHOLE:
        return float(match[1]), True
    try:
        return float(parse_size(text)), False
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a size such as 20G nor a part of the disk such as 10%"
        ) from None


def size_text(count: float) -> str:
    """Return bytes for people: ``812 B``, ``3.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        # As shown, rounded, it stays below 1000; and three digits are enough for everybody.
        if round(count) < 1000:  # noqa: PLR2004
            whole = unit == "B" or round(count, 1) >= 100  # noqa: PLR2004
            return f"{count:.0f} {unit}" if whole else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def moment_text(seconds: float) -> str:
    """Return a time since the epoch in UTC, to the second (RFC 3339): ``2026-07-31T06:09:00Z``."""
    # What is beyond the year 9999 has no form there, and is far enough away.
    from datetime import UTC, datetime  # noqa: PLC0415 - 2 ms, for those who tell a time

    told = datetime.fromtimestamp(min(max(round(seconds), 0), _LAST_MOMENT), UTC)
    return told.strftime("%Y-%m-%dT%H:%M:%SZ")
