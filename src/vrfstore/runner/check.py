"""``env check``: what has drifted in environments. Registers one that was moved; changes nothing else.

Also ``env forget``: letting go of one that is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
from collections.abc import Iterator, Sequence

from vrfstore.errors import DiskFullError, DriftError, StoreDamagedError, UsageError, VrfstoreError
from vrfstore.linker.drift import Drift
from vrfstore.model import EntryReference
from vrfstore.runner import inspection
from vrfstore.runner.inspection import Found
from vrfstore.store import externals
from vrfstore.store.externals import ExternalRecord, Registration
from vrfstore.store.store import Store
from vrfstore.values import dataclass

__all__ = ["Checked", "Forgotten", "Subject", "as_error", "check", "forget", "subjects"]


@dataclass(frozen=True, slots=True)
class Subject:
    """An environment that was asked for.

    Attributes:
        place: Its path.
        found: What it is; None where that cannot be told, or where there is nothing any more.
        problem: Why not.
        error: The same, where somebody has to do something about it.
    """

    place: str
    found: Found | None
    problem: Drift | None = None
    error: VrfstoreError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What has become of an environment.

    Attributes:
        place: Its path.
        managed: Whether it is one of the store's.
        python: The version that it was linked for; empty where that cannot be told.
        drifts: What is not as it was linked, additions by hand among it.
        registered: Whether it had been moved, and the store knows now where it is.
        error: Why it could not be looked at; among ``drifts`` as well.
    """

    place: str
    managed: bool
    python: str
    drifts: tuple[Drift, ...]
    registered: bool = False
    error: VrfstoreError | None = None

    @property
    def exit_code(self) -> int:
        """What a script is told of it; 0 for one that is as it was linked."""
        if self.error is not None:
            return self.error.exit_code
        return DriftError.exit_code if self.drifted else 0

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
        UsageError: The only path is no environment.
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
        except (VrfstoreError, OSError) as error:
            if len(paths) == 1:
                raise
            yield _failed(os.path.realpath(path), error)
        else:
            yield Subject(found.place, found)


def as_error(error: VrfstoreError | OSError, place: str) -> VrfstoreError:
    """Return what has gone wrong with one environment in the terms of the exit codes."""
    if isinstance(error, VrfstoreError):
        error.path = error.path or place
        return error
    path = place if error.filename is None else os.fsdecode(error.filename)
    reason = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(reason, path=path, hint="free some space, for instance with: vrfstore gc")
    return DriftError(reason, kind="environment-unusable", path=path)


def _failed(place: str, error: VrfstoreError | OSError) -> Subject:
    found = as_error(error, place)
    return Subject(place, None, Drift(found.kind, "", found.message), found)


def _everything(store: Store, *, to_look: bool) -> Iterator[Subject]:
    for name in store.environments():
        place = store.layout.of("environments", name)
        try:
            yield Subject(place, Found(store, place, inspection.managed_record(store, name), name))
        except UsageError:  # collected meanwhile
            continue
        except StoreDamagedError as error:
            yield Subject(place, None, Drift("record-unreadable", "", error.message))
        except (VrfstoreError, OSError) as error:
            yield _failed(place, error)
    for known in externals.registrations(store.layout):
        if isinstance(known, StoreDamagedError):
            yield Subject(str(known.path), None, Drift("record-unreadable", "", known.message))
            continue
        yield _registered(store, known, to_look=to_look)


def _registered(store: Store, known: Registration, *, to_look: bool) -> Subject:
    # What cannot be looked at may be a disk that is not mounted.
    with contextlib.suppress(UsageError):
        try:
            record = externals.read(known.path)
            if record is not None and record.token == known.token:
                found = inspection.find(known.path, store.root, to_look=to_look)
                return Subject(found.place, found)
        except UsageError:
            raise
        except StoreDamagedError as error:
            return Subject(known.path, None, Drift("record-unreadable", "", error.message))
        except (VrfstoreError, OSError) as error:
            return _failed(known.path, error)
    forgetting = f"vrfstore env forget {shlex.quote(known.path)}"
    message = f"it was registered, and is not there any more; to let gc have what it had: {forgetting}"
    return Subject(known.path, None, Drift("gone", "", message))


def check(subject: Subject, *, requirements: bool = True, alone: bool = True) -> Checked:
    """Look at an environment, and register it if it was moved.

    Args:
        subject: From ``subjects``.
        requirements: Whether to look at what its distributions require, as ``pip check`` does.
        alone: Raise what goes wrong; else it is a problem of this one, and in nobody else's way.

    Raises:
        VrfstoreError: It cannot be looked at, and is alone.
        OSError: As above.
    """
    try:
        return _check(subject, requirements=requirements)
    except (VrfstoreError, OSError) as error:
        if alone:
            raise
        return _check(_failed(subject.place, error), requirements=requirements)


def _check(subject: Subject, *, requirements: bool) -> Checked:
    if subject.found is None:
        drifts = () if subject.problem is None else (subject.problem,)
        return Checked(place=subject.place, managed=False, python="", drifts=drifts, error=subject.error)
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
            device=externals.device_of(found.place),
            references=tuple(sorted(references.values(), key=_order)),
            locks=tuple(sorted({*known.locks, record.lock})),
            namespace=externals.mount_namespace(),
        )
        with store.session() as lease:
            externals.register(store.layout, lease, moved)
        return True
    return False


def _order(reference: EntryReference) -> tuple[str, str]:
    return reference.name, reference.directory


@dataclass(frozen=True, slots=True)
class Forgotten:
    """An environment that the store knows no more of.

    Attributes:
        name: That of its registration.
        path: Where it was; empty where that could not be read.
    """

    name: str
    path: str

    def to_json(self) -> dict[str, object]:
        """Return it for machines."""
        return {"name": self.name, "path": self.path}


def forget(store: Store, target: str) -> tuple[Forgotten, ...]:
    """Let a store know no more of an environment of somebody's own that is gone.

    Args:
        store: The store.
        target: Where it was; or the name of its registration.

    Raises:
        UsageError: The store knows of none, or it is there still.
    """
    places = {os.path.abspath(target), os.path.realpath(target)}
    meant: list[Forgotten] = []
    for known in externals.registrations(store.layout):
        if isinstance(known, Registration):
            if known.token == target or known.path in places:
                _check_gone(known)
                meant.append(Forgotten(known.token, known.path))
        elif (name := os.path.basename(str(known.path)).removesuffix(".json")) == target:
            meant.append(Forgotten(name, ""))
    if not meant:
        raise UsageError(
            f"the store knows of no environment {target!r}",
            kind="target-unknown",
            hint="see: vrfstore env check --all",
        )
    for each in meant:
        externals.forget(store.layout, each.name)
    return tuple(meant)


def _check_gone(known: Registration) -> None:
    try:
        record = externals.read(known.path)
        there = record is not None and record.token == known.token
    except StoreDamagedError:
        there = True  # nobody can tell
    if there:
        raise UsageError(
            "the environment is still there",
            kind="environment-there",
            path=known.path,
            hint=f"remove it first, with: rm -r {shlex.quote(known.path)}",
        )
