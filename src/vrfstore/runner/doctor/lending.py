"""Finding out which stores a store borrows from, or would, and which borrow from it; nothing is judged here."""

from __future__ import annotations

import contextlib
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping

from vrfstore.errors import StoreDamagedError, UsageError
from vrfstore.runner import configuration, sharing
from vrfstore.runner.doctor.facts import Borrowers, Lender
from vrfstore.store import clients
from vrfstore.store.layout import Layout
from vrfstore.store.store import Store

__all__ = ["borrowers", "lenders"]


def lenders(layout: Layout, variables: Mapping[str, str], *, there: bool) -> tuple[Lender, ...]:
    """Return what is known of each shared store, sorted by path.

    Args:
        layout: That of the store of one's own.
        variables: The environment variables that decide which one is asked for.
        there: Whether there is a store of one's own.
    """
    borrowed: dict[str, list[str]] = defaultdict(list)
    for place in _borrowed(layout) if there else ():
        borrowed[os.path.dirname(os.path.dirname(place))].append(place)
    asked = _asked(layout, variables)
    roots = {*borrowed, *(clients.lenders(layout) if there else ()), *([asked] if asked else ())}
    return tuple(_lender(root, borrowed.get(root, ()), asked=root == asked) for root in sorted(roots))


def _lender(root: str, places: list[str] | tuple[()], *, asked: bool) -> Lender:
    _, complaints = sharing.opened(root)
    return Lender(
        root=root,
        asked=asked,
        complaint=complaints[0] if complaints else "",
        borrowed=len(places),
        gone=sum(not os.path.exists(f"{place}/plan.json") for place in places),
        told=clients.is_open(Layout(root)),
    )


def _borrowed(layout: Layout) -> Iterator[str]:
    store = Store(layout)
    with contextlib.suppress(OSError):
        for directory in store.entries():
            with contextlib.suppress(FileNotFoundError, StoreDamagedError):
                plan = store.plan(directory, even_marked=True)
                if plan.shared:
                    yield plan.shared


def _asked(layout: Layout, variables: Mapping[str, str]) -> str | None:
    try:
        configured = configuration.read(variables).shared_store
        return sharing.asked(None, variables, configured, layout)
    except UsageError:
        return None  # which the next link says


def borrowers(layout: Layout) -> Borrowers | None:
    """Return what is known of the stores that borrow from this one; None where there is no place to say so."""
    try:
        mode = os.lstat(layout.of("clients")).st_mode
    except OSError:
        return None
    found = list(clients.read(layout))
    unread = tuple(each.path or "" for each in found if isinstance(each, StoreDamagedError))
    return Borrowers(
        guarded=bool(mode & stat.S_ISVTX) or not mode & (stat.S_IWGRP | stat.S_IWOTH),
        known=len(found) - len(unread),
        unread=unread,
    )
