"""Comparing an environment with what it was linked as, and linking anew what is not.

Only the links and hard links that lead to the store are looked at. What people and tools have put there since is
theirs; so is what they removed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence

from vrfstore import fs
from vrfstore.errors import StoreDamagedError, VrfstoreError
from vrfstore.linker.plan import EnvironmentPlan, Merge, merge, plan_environment
from vrfstore.model import EntryPlan, Interpreter
from vrfstore.store import interpreters, records
from vrfstore.store.bytecode import pyc_path
from vrfstore.store.leases import Lease
from vrfstore.store.records import EnvironmentRecord
from vrfstore.store.store import Store
from vrfstore.store.verify import Problem
from vrfstore.values import dataclass, replace

__all__ = [
    "Linked",
    "check_environment",
    "expected_links",
    "is_as_linked",
    "leads_nowhere",
    "recorded",
    "relink",
    "remember",
]

_CHUNK = 1 << 20

_PYC_HEAD = 8
_UNCHECKED = b"\1\0\0\0"
"""After the magic number: hash-based, and not to be compared with the source (PEP 552)."""


@dataclass(frozen=True, slots=True)
class Linked:
    """A path of an environment that is a further link to an inode of the store.

    Attributes:
        source: Relative to the store.
        path: Relative to the environment.
    """

    source: str
    path: str

    @property
    def entry(self) -> str:
        """The directory name of the entry that it comes from; empty where it is a link to the interpreter."""
        part, _, rest = self.source.partition("/")
        return rest.partition("/")[0] if part == "entries" else ""


def _interpreter(record: EnvironmentRecord) -> Interpreter:
    return Interpreter.of_identity(record.interpreter, record.executable)


def expected_links(store: Store, record: EnvironmentRecord) -> list[Linked]:
    """Return what an environment was linked as.

    Raises:
        StoreDamagedError: An entry that it refers to is gone or cannot be read.
    """
    return [Linked(source, path) for source, path in _plan_of(store, record).links]


def is_as_linked(store: Store, record: EnvironmentRecord) -> bool:
    """Whether an environment has just what it was linked as, whatever the times of its directories.

    Raises:
        StoreDamagedError: An entry that it refers to is gone or cannot be read.
    """
    root = store.layout.of("environments", record.directory)
    plan = _plan_of(store, record)
    names: dict[str, set[str]] = defaultdict(set)
    links = (path for _, path in (*plan.links, *plan.copies))
    files = (path for path, _ in plan.files)
    for path in (*plan.directories, *links, *files, *(new.path for new in plan.records)):
        parent, _, name = path.rpartition("/")
        names[parent].add(name)
    try:
        for path, token in record.own.items():
            if os.path.isdir(f"{root}/{path}"):
                if set(os.listdir(f"{root}/{path}")) != names[path]:
                    return False
            elif records.own_token(f"{root}/{path}") != token:
                return False
    except OSError:
        return False
    return not any(
        _to_be_linked(f"{root}/{path}", f"{store.root}/{source}", trusted=True, replaced=())
        for source, path in plan.links
    )


def recorded(plans: Sequence[EntryPlan], record: EnvironmentRecord) -> Merge:
    """Return how an environment was linked, with its composites under the names that they have in its record.

    A composite is named after what its members were when it was made. A claimed member may have been proven since.
    """
    merged = merge(plans, record.options)
    if len(merged.composites) != len(record.composites):
        return merged
    named = zip(merged.composites, record.composites, strict=True)
    return replace(
        merged, composites=tuple(replace(found, reference=reference) for found, reference in named)
    )


def _plan_of(store: Store, record: EnvironmentRecord) -> EnvironmentPlan:
    interpreter = _interpreter(record)
    hashes = functools.cache(store.manifest_hashes)
    try:
        plans = [store.plan(wheel.directory, even_marked=True) for wheel in record.wheels]
        return plan_environment(
            plans,
            interpreter,
            recorded(plans, record),
            place=store.layout.of("environments", record.directory),
            interpreter_links=interpreters.ready_links_name(interpreter),
            hashes_of=lambda entry: hashes(entry.reference.directory),
        )
    except FileNotFoundError as error:
        directory = os.path.dirname(str(error.filename))
        raise StoreDamagedError(
            "the entry is gone",
            kind="entry-missing",
            path=directory,
            hint=f"mend it with: vrfstore verify --repair {os.path.basename(directory)}",
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreDamagedError(f"an entry's plan makes no sense: {error!r}") from error


def check_environment(
    store: Store, record: EnvironmentRecord, *, damaged: Collection[str] = ()
) -> tuple[Problem, ...]:
    """Return what is wrong with the links of an environment.

    Where somebody changed its own directories by hand, files that differ are his; links that lead nowhere, or
    elsewhere, are wrong all the same.

    Args:
        store: The store.
        record: The environment's.
        damaged: Directory names of entries that tell nothing of what links should be.
    """
    try:
        expected = expected_links(store, record)
    except VrfstoreError as error:
        return (Problem(kind="unchecked", path="", message=f"cannot be checked: {error}"),)
    own_ends = _own_ends(_interpreter(record))
    root = store.layout.of("environments", record.directory)
    untouched = records.unchanged(store.layout, record)
    found: list[Problem] = []
    for linked in expected:
        # What is not there, or not where it was, is no link any more; nor is what we may not look at.
        with contextlib.suppress(OSError):
            telling = linked.entry not in damaged
            own_end = own_ends.get(linked.source)
            end = own_end or _end(f"{store.root}/{linked.source}")
            problems = _problems(store, root, linked, end, untouched=untouched, telling=telling)
            # The interpreter of a target is not here.
            elsewhere = own_end is not None and bool(record.interpreter.get("target"))
            found += (each for each in problems if not (elsewhere and each.kind == "dangling"))
    found += (
        Problem(kind="bytecode", path=path, message=f"{path} is not what was compiled of its module")
        for path in _stale_bytecode(store, record, expected)
    )
    return tuple(found)


def _stale_bytecode(
    store: Store, record: EnvironmentRecord, expected: Sequence[Linked], replaced: Collection[str] = ()
) -> Iterator[str]:
    """Yield the pycs of an environment that its entries do not have, or not any more.

    Only unchecked ones (PEP 552), which run whatever their source is; others are an interpreter's own.
    """
    root = store.layout.of("environments", record.directory)
    tag = str(record.interpreter["cache_tag"])
    for linked in expected:
        if linked.entry and linked.path.endswith(".py"):
            path = pyc_path(linked.path, tag)
            with contextlib.suppress(OSError):
                seen = os.lstat(f"{root}/{path}")
                if not stat.S_ISREG(seen.st_mode):
                    continue
                old = f"{seen.st_dev}:{seen.st_ino}" in replaced
                if old or _is_stale(f"{root}/{path}", f"{store.root}/{pyc_path(linked.source, tag)}"):
                    yield path


def _is_stale(path: str, source: str) -> bool:
    with open(path, "rb") as stream:
        flags = stream.read(_PYC_HEAD)[_PYC_HEAD // 2 :]
    return flags == _UNCHECKED and not _same(path, source)


def _own_ends(interpreter: Interpreter) -> dict[str, str]:
    """Return where the ready-made links to an interpreter have to lead, by their paths below the store."""
    folder = interpreters.ready_links_name(interpreter)
    return {
        f"{folder}/python": interpreter.real,
        f"{folder}/python3": "python",
        f"{folder}/python{interpreter.short_version}": "python",
        f"{folder}/{interpreter.directory_name}": "python",
        f"{folder}/lib64": "lib",
    }


def _end(path: str) -> str | None:
    """Return where a symlink leads; None where there is something else, or nothing."""
    return os.readlink(path) if os.path.islink(path) else None


def _problems(
    store: Store, root: str, linked: Linked, end: str | None, *, untouched: bool, telling: bool
) -> Iterator[Problem]:
    path, source = f"{root}/{linked.path}", f"{store.root}/{linked.source}"
    seen = os.lstat(path)
    if stat.S_ISREG(seen.st_mode):
        if untouched and telling and not _same(path, source):
            message = f"{linked.path} has not the bytes of {linked.source}"
            yield Problem(kind="changed", path=linked.path, message=message)
    elif stat.S_ISLNK(seen.st_mode):
        target = os.readlink(path)
        if telling and not _leads_right(path, target, source, end):
            yield Problem(kind="repointed", path=linked.path, message=f"{linked.path} leads to {target}")
        elif leads_nowhere(path):
            message = f"{linked.path} leads to {target}, which is not there"
            yield Problem(kind="dangling", path=linked.path, message=message)


def leads_nowhere(path: str) -> bool:
    """Whether nothing is at the end of a path; somewhere that we may not look, there may be something."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
    return False


def _leads_right(path: str, target: str, source: str, end: str | None) -> bool:
    if end is not None:
        return target == end
    # A large file that could not be hard-linked is a link to the file in the store.
    return not (os.path.exists(path) and os.path.exists(source)) or os.path.samefile(path, source)


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


def relink(
    store: Store,
    lease: Lease,
    record: EnvironmentRecord,
    *,
    trusted: bool,
    wanted: Callable[[Linked], bool],
    replaced: Collection[str] = (),
) -> None:
    """Link anew what is not as it was linked. Each is replaced by a rename, so that nobody finds it missing.

    Args:
        store: The store.
        lease: Names what is on its way.
        record: The environment's.
        trusted: Nobody changed it by hand, so that it may be handed out afterwards as before, and files that
            differ are not somebody's own.
        wanted: Which links are meant; what they come from is sound.
        replaced: ``device:inode`` of files of entries that were replaced: these are nobody's own either.

    Raises:
        StoreDamagedError: An entry that it refers to is gone or cannot be read.
        FileNotFoundError: The environment is gone.
    """
    root = store.layout.of("environments", record.directory)
    expected = [linked for linked in expected_links(store, record) if wanted(linked)]
    if any(not linked.entry for linked in expected):
        _mend_ready_links(store, lease, _interpreter(record))
    for linked in expected:
        path, source = f"{root}/{linked.path}", f"{store.root}/{linked.source}"
        if not _to_be_linked(path, source, trusted=trusted, replaced=replaced):
            continue
        temporary = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
        fs.hard_link(source, temporary, place=path)
        fs.rename(temporary, path)
    for path in list(_stale_bytecode(store, record, expected, replaced)):
        fs.remove_file(f"{root}/{path}")
    if trusted:
        remember(store, lease, record)


def _to_be_linked(path: str, source: str, *, trusted: bool, replaced: Collection[str]) -> bool:
    try:
        seen = os.lstat(path)
        if stat.S_ISLNK(seen.st_mode):
            end = _end(source)
            if end is not None:
                return os.readlink(path) != end
            return not (os.path.exists(path) and os.path.samefile(path, source))
        if not stat.S_ISREG(seen.st_mode):  # somebody's own, as a directory that he made of a link
            return False
        mine = trusted or f"{seen.st_dev}:{seen.st_ino}" in replaced
        return mine and not os.path.samefile(path, source)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False


def _mend_ready_links(store: Store, lease: Lease, interpreter: Interpreter) -> None:
    """Make the ready-made links to an interpreter what they were made as."""
    interpreters.ready_links(store.layout, lease, interpreter)
    for source, end in _own_ends(interpreter).items():
        path = f"{store.root}/{source}"
        if _end(path) != end:
            temporary = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
            fs.symlink(end, temporary)
            _put(temporary, path)
    sentinel = f"{store.root}/{interpreters.ready_links_name(interpreter)}/sentinel"
    if not os.path.isfile(sentinel) or os.path.getsize(sentinel):
        temporary = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
        fs.write_file(temporary, b"", mode=0o444)
        _put(temporary, sentinel)


def _put(temporary: str, path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        fs.remove_tree(path)
    fs.rename(temporary, path)


def remember(store: Store, lease: Lease, record: EnvironmentRecord) -> None:
    """Write down the environment's own directories as they are now, without counting that as a use."""
    root = store.layout.of("environments", record.directory)
    own = {path: records.own_token(f"{root}/{path}") for path in record.own}
    if own == record.own:
        return
    path = store.layout.record(record.directory)
    with open(path, "rb") as old:
        used = os.fstat(old.fileno())
        temporary = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
        fs.write_file(temporary, records.record_to_json(replace(record, own=own)), sync=True)
        fs.set_times(temporary, used.st_atime_ns, used.st_mtime_ns)
        fs.rename(temporary, path)
        # Whoever used it meanwhile has stamped the old one.
        again = os.fstat(old.fileno())
        if again.st_mtime_ns != used.st_mtime_ns:
            fs.set_times(path, again.st_atime_ns, again.st_mtime_ns)
