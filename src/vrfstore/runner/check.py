"""``env check``: what has drifted in environments. Registers one that was moved; changes nothing else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vrfstore.errors import StoreDamagedError, UsageError, VrfstoreError
from vrfstore.linker.drift import Drift
from vrfstore.model import EntryReference
from vrfstore.runner import inspection
from vrfstore.runner.inspection import Found
from vrfstore.store import externals
from vrfstore.store.externals import ExternalRecord, Registration
from vrfstore.store.store import Store

__all__ = ["Checked", "Subject", "check", "subjects"]


@dataclass(frozen=True, slots=True)
class Subject:
    """An environment that was asked for.

    Attributes:
        place: Its path.
        found: What it is; None where that cannot be told, or where there is nothing any more.
        problem: Why not.
    """

    place: str
    found: Found | None
    problem: Drift | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What has become of an environment.

    Attributes:
        place: Its path.
        managed: Whether it is one of the store's.
        python: The version that it was linked for; empty where that cannot be told.
        drifts: What is not as it was linked, additions by hand among it.
        registered: Whether it had been moved, and the store knows now where it is.
    """

    place: str
    managed: bool
    python: str
    drifts: tuple[Drift, ...]
    registered: bool = False

    @property
    def drifted(self) -> bool:
        """Whether anything needs mending."""
        return any(each.drifted for each in self.drifts)


def subjects(
    paths: Sequence[str], given: str | None, *, everything: bool, to_look: bool
) -> Iterator[Subject]:
    """Yield the environments that are meant.

    Args:
        paths: Directories, or names of managed environments.
        given: The store that was given, if it was.
        everything: All of the store instead, and all that are registered there.
        to_look: Nothing will be changed.

    Raises:
        UsageError: A path is no environment.
        StoreError: The store cannot be used.
    """
    if everything:
        yield from _everything(Store.open(given, to_look=to_look), to_look=to_look)
        return
    for path in paths:
        try:
            found = inspection.find(path, given, to_look=to_look)
        except StoreDamagedError as error:
            yield Subject(os.path.realpath(path), None, Drift("record-unreadable", "", error.message))
        else:
            yield Subject(found.place, found)


def _everything(store: Store, *, to_look: bool) -> Iterator[Subject]:
    for name in store.environments():
        place = store.layout.of("environments", name)
        try:
            yield Subject(place, Found(store, place, store.record(name), name))
        except FileNotFoundError:  # collected meanwhile
            continue
        except StoreDamagedError as error:
            yield Subject(place, None, Drift("record-unreadable", "", error.message))
    for known in externals.registrations(store.layout):
        if isinstance(known, StoreDamagedError):
            yield Subject(str(known.path), None, Drift("record-unreadable", "", known.message))
            continue
        gone = Drift("gone", "", "it was registered, and is not there any more")
        subject = Subject(known.path, None, gone)
        # What cannot be looked at may be a disk that is not mounted.
        with contextlib.suppress(UsageError):
            try:
                record = externals.read(known.path)
                if record is not None and record.token == known.token:
                    found = inspection.find(known.path, store.root, to_look=to_look)
                    subject = Subject(found.place, found)
            except StoreDamagedError as error:
                subject = Subject(known.path, None, Drift("record-unreadable", "", error.message))
        yield subject


def check(subject: Subject, *, requirements: bool = True) -> Checked:
    """Look at an environment, and register it if it was moved.

    Args:
        subject: From ``subjects``.
        requirements: Whether to look at what its distributions require, as ``pip check`` does.
    """
    if subject.found is None:
        drifts = () if subject.problem is None else (subject.problem,)
        return Checked(place=subject.place, managed=False, python="", drifts=drifts)
    found = subject.found
    looked = inspection.inspect(found, requirements=requirements, wary=True)
    if found.managed and not os.path.lexists(found.place):  # collected meanwhile
        return Checked(place=found.place, managed=True, python="", drifts=())
    known = looked.seen.registered
    moved = known is not None and known.path not in ("", found.place) and not known.copied
    registered = moved and isinstance(found.record, ExternalRecord) and _register(found, found.record)
    return Checked(
        place=found.place,
        managed=bool(found.managed),
        python=str(found.record.interpreter.get("version")),
        drifts=looked.drifts,
        registered=registered,
    )


def _register(found: Found, record: ExternalRecord) -> bool:
    """Let the store know where an environment is now; it may need all that it needed before."""
    store = found.store
    with contextlib.suppress(VrfstoreError):
        known = externals.read_registration(store.layout, record.token)
        if known is None or not inspection.may_write(store):
            return False
        references = {
            reference.directory: reference
            for reference in (*known.references, *record.wheels, *record.composites)
        }
        moved = Registration(
            token=record.token,
            path=found.place,
            device=os.stat(os.path.dirname(found.place)).st_dev,
            references=tuple(sorted(references.values(), key=_order)),
            locks=tuple(sorted({*known.locks, record.lock})),
        )
        with store.session() as lease:
            externals.register(store.layout, lease, moved)
        return True
    return False


def _order(reference: EntryReference) -> tuple[str, str]:
    return reference.name, reference.directory
