"""Comparing an environment with what it was linked as, and linking anew what is not.

Only the links and hard links that lead to the store are looked at. What people and tools have put there since is
theirs; so is what they removed.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vrfstore import fs
from vrfstore.errors import StoreDamagedError, VrfstoreError
from vrfstore.linker.plan import plan_environment
from vrfstore.model import Interpreter
from vrfstore.store import interpreters, records
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store
from vrfstore.store.verify import Problem

__all__ = ["Linked", "check_environment", "expected_links", "relink"]

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Linked:
    """A path of an environment that is a further link to an inode of the store.

    Attributes:
        source: Relative to the store.
        path: Relative to the environment.
    """

    source: str
    path: str


def _interpreter(record: EnvironmentRecord) -> Interpreter:
    """Return the interpreter of an environment as far as its record knows it, which is as far as a plan asks."""
    identity = record.interpreter
    directories = identity["site_directories"]
    added = tuple(map(str, directories)) if isinstance(directories, list) else ()
    return Interpreter(
        executable=record.executable,
        real=str(identity["real"]),
        version=str(identity["version"]),
        implementation=str(identity["implementation"]),
        cache_tag=str(identity["cache_tag"]),
        abi_flags=str(identity["abi_flags"]),
        magic="",
        platform=str(identity["platform"]),
        prefix="",
        virtual=bool(added),
        site_directories=added,
        base=(),
    )


def expected_links(store: Store, record: EnvironmentRecord) -> list[Linked]:
    """Return what an environment was linked as.

    Raises:
        StoreDamagedError: An entry that it refers to is gone or cannot be read.
    """
    interpreter = _interpreter(record)
    try:
        plans = [store.plan(wheel.directory) for wheel in record.wheels]
    except FileNotFoundError as error:
        directory = os.path.dirname(str(error.filename))
        raise StoreDamagedError(
            "the entry is gone",
            kind="entry-missing",
            path=directory,
            hint=f"mend it with: vrfstore verify --repair {os.path.basename(directory)}",
        ) from error
    hashes = functools.cache(store.manifest_hashes)
    plan = plan_environment(
        plans,
        interpreter,
        interpreter_links=interpreters.ready_links_name(interpreter),
        hashes_of=lambda entry: hashes(entry.reference.directory),
    )
    return [Linked(source, path) for source, path in plan.links]


def check_environment(store: Store, record: EnvironmentRecord) -> tuple[Problem, ...]:
    """Return what is wrong with the links of an environment.

    Where somebody changed its own directories by hand, files that differ are his; links that lead nowhere, or
    elsewhere, are wrong all the same.
    """
    try:
        expected = expected_links(store, record)
    except VrfstoreError as error:
        return (Problem(kind="unchecked", path="", message=f"cannot be checked: {error}"),)
    root = store.layout.of("environments", record.directory)
    untouched = records.unchanged(store.layout, record)
    return tuple(_problems(store, root, expected, untouched=untouched))


def _problems(store: Store, root: str, expected: list[Linked], *, untouched: bool) -> Iterator[Problem]:
    for linked in expected:
        path = f"{root}/{linked.path}"
        try:
            seen = os.lstat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(seen.st_mode):
            yield from _link_problems(store, path, linked)
        elif stat.S_ISREG(seen.st_mode) and untouched and not _same(path, f"{store.root}/{linked.source}"):
            message = f"{linked.path} has not the bytes of {linked.source}"
            yield Problem(kind="changed", path=linked.path, message=message)


def _link_problems(store: Store, path: str, linked: Linked) -> Iterator[Problem]:
    source = f"{store.root}/{linked.source}"
    target = os.readlink(path)
    wanted = os.readlink(source) if os.path.islink(source) else None
    # A large file that could not be hard-linked is a link to the file in the store.
    elsewhere = not os.path.samefile(path, source) if wanted is None and os.path.exists(path) else False
    if elsewhere or (wanted is not None and target != wanted):
        yield Problem(kind="repointed", path=linked.path, message=f"{linked.path} leads to {target}")
    elif not os.path.exists(path):
        message = f"{linked.path} leads to {target}, which is not there"
        yield Problem(kind="dangling", path=linked.path, message=message)


def _same(path: str, source: str) -> bool:
    """Whether two files are one, or have the same bytes."""
    try:
        if os.path.samefile(path, source):
            return True
        with open(path, "rb") as one, open(source, "rb") as other:
            while data := one.read(_CHUNK):
                if data != other.read(_CHUNK):
                    return False
            return not other.read(1)
    except OSError:
        return False


def relink(store: Store, lease: Lease, record: EnvironmentRecord, *, trusted: bool) -> list[str]:
    """Link anew what is not as it was linked; return those paths, relative to the environment.

    Each is replaced by a rename, so that nobody finds it missing.

    Args:
        store: The store.
        lease: Names what is on its way.
        record: The environment's.
        trusted: Nobody changed it by hand, so that it may be handed out afterwards as before, and files that
            differ are not somebody's own.

    Raises:
        StoreDamagedError: An entry that it refers to is gone or cannot be read.
    """
    root = store.layout.of("environments", record.directory)
    mended = []
    for linked in expected_links(store, record):
        path, source = f"{root}/{linked.path}", f"{store.root}/{linked.source}"
        if not os.path.lexists(path) or _is_right(path, source):
            continue
        if not os.path.islink(path) and not trusted:
            continue
        temporary = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
        fs.hard_link(source, temporary, place=path)
        fs.rename(temporary, path)
        mended.append(linked.path)
    if trusted:
        _remember(store, lease, root, record)
    return mended


def _is_right(path: str, source: str) -> bool:
    if os.path.islink(path) and os.path.islink(source):
        return os.readlink(path) == os.readlink(source)
    return os.path.exists(path) and os.path.samefile(path, source)


def _remember(store: Store, lease: Lease, root: str, record: EnvironmentRecord) -> None:
    """Write down the environment's own directories as they are now, without counting that as a use."""
    own = {path: records.own_token(f"{root}/{path}") for path in record.own}
    if own == record.own:
        return
    path = store.layout.record(record.directory)
    used = os.stat(path)
    temporary = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
    fs.write_file(temporary, records.record_to_json(replace(record, own=own)))
    fs.set_times(temporary, used.st_atime_ns, used.st_mtime_ns)
    fs.rename(temporary, path)
