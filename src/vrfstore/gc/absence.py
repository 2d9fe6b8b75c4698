"""Environments of one's own that are gone for good: what they referred to is kept no longer.

Absence is not deletion (``store.externals.state_of``). Even where it is certain, somebody may just be moving a
directory: so an environment has to be absent at two collections at least a grace apart. The first leaves a note,
``gc/absent.<token>``, whose modification time is when that was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from vrfstore import fs
from vrfstore.errors import BusyError, StoreDamagedError
from vrfstore.store import externals
from vrfstore.store.externals import Registration
from vrfstore.store.layout import Layout
from vrfstore.values import dataclass

__all__ = ["Absence", "look", "settle"]

_PREFIX = "absent."
_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Absence:
    """What has become of environments of one's own.

    Attributes:
        gone: Registrations that keep nothing any more.
        new: Tokens of environments that are absent, and were not at the collection before.
        over: Tokens of those that were absent, and are not any more, or are not known any more.
        unknown: Registrations of which nobody can tell.
    """

    gone: tuple[Registration, ...]
    new: tuple[str, ...]
    over: tuple[str, ...]
    unknown: tuple[Registration, ...]


def look(layout: Layout, *, now: float, grace: float) -> Absence:
    """Look what has become of all of them; nothing is changed.

    Args:
        layout: The store's.
        now: Seconds since the epoch.
        grace: Seconds that have to be between the first time that one is absent, and the last.
    """
    since = dict(_notes(layout))
    found: dict[str, list[Registration]] = {"gone": [], "new": [], "unknown": []}
    for known in externals.registrations(layout):
        if isinstance(known, StoreDamagedError):
            continue
        state = externals.state_of(known)
        if state == "unknown" and externals.token_at(known.path) != known.token:
            if not _is_new(layout, known.token, now):
                found["unknown"].append(known)
        elif state == "absent":
            first = since.pop(known.token, None)
            if first is None:
                found["new"].append(known)
            elif first + grace <= now:
                found["gone"].append(known)
    return Absence(
        gone=tuple(found["gone"]),
        new=tuple(known.token for known in found["new"]),
        over=tuple(sorted(since)),
        unknown=tuple(found["unknown"]),
    )


def _is_new(layout: Layout, token: str, now: float) -> bool:
    """Whether an environment may just be being made: it is registered before it has a record of its own."""
    try:
        return now - externals.registered_at(layout, token) < _HOUR
    except OSError:
        return True


def settle(layout: Layout, absence: Absence) -> tuple[Registration, ...]:
    """Forget what is gone, and note what was found; return the registrations that were forgotten.

    The caller holds ``gc/run``.
    """
    for token in absence.over:
        fs.remove_file(_note(layout, token))
    for token in absence.new:
        # On a full disk the next collection notes it.
        with contextlib.suppress(OSError):
            fs.write_file(_note(layout, token), b"")
    forgotten = []
    for known in absence.gone:
        with contextlib.suppress(BusyError):
            if externals.forget_absent(layout, known):
                forgotten.append(known)
                fs.remove_file(_note(layout, known.token))
    return tuple(forgotten)


def _notes(layout: Layout) -> Iterator[tuple[str, float]]:
    for name in os.listdir(layout.of("gc")):
        if name.startswith(_PREFIX):
            with contextlib.suppress(FileNotFoundError):
                yield name.removeprefix(_PREFIX), os.lstat(layout.of("gc", name)).st_mtime


def _note(layout: Layout, token: str) -> str:
    return layout.of("gc", f"{_PREFIX}{token}")
