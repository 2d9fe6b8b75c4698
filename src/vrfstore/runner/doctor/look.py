"""Finding out what there is to know; nothing is judged here."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

from vrfstore import codec, fs
from vrfstore.errors import InterpreterError, StoreDamagedError
from vrfstore.gc import scan
from vrfstore.runner.doctor.facts import Base, Clock, Disk, Facts, Leftover, Mount, Place, Probes, Tools
from vrfstore.runner.doctor.lending import borrowers, lenders
from vrfstore.store import leases
from vrfstore.store.layout import FORMAT, SUBDIRECTORIES, Layout
from vrfstore.store.store import Store

__all__ = ["look", "mount_of", "mount_table"]

_FUTURE = 60.0
"""Seconds ahead of the clock from which a file counts as one from the future."""

_NO_FORMAT = "no format"


def look(root: str, variables: Mapping[str, str]) -> Facts:
    """Find out everything that ``judge`` needs.

    Args:
        root: Where the store is, or would be, an absolute path.
        variables: The environment variables that decide.
    """
    now = time.time()
    layout = Layout(root)
    names = _Names(layout)
    place = _place(layout, names)
    there = place.known
    # Before the probes, which would count as leftovers themselves.
    leftover = _leftover(layout) if there else None
    tools = _tools(variables)
    bases, unread = _bases(layout, place, tools) if there else ((), 0)
    return Facts(
        root=root,
        user=os.geteuid(),
        umask=_umask(),
        place=place,
        disk=_disk(root, place),
        probes=_probes(layout, place),
        clock=names.clock(now) if there else Clock(now=now),
        tools=tools,
        bases=bases,
        unread=unread,
        leftover=leftover,
        lenders=lenders(layout, variables, there=there),
        borrowers=borrowers(layout) if there else None,
    )


class _Names:
    """The names in a store down to one below its parts, with what lstat(2) says of them."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def each(self) -> Iterator[tuple[str, os.stat_result]]:
        for name in ("", "store.json", *SUBDIRECTORIES, *map("/".join, self._inside())):
            with contextlib.suppress(OSError):
                yield name or ".", os.lstat(f"{self._layout.root}/{name}")

    def _inside(self) -> Iterator[tuple[str, str]]:
        for part in SUBDIRECTORIES:
            with contextlib.suppress(OSError):
                for name in os.listdir(self._layout.of(part)):
                    yield part, name

    def strangers(self, owner: int) -> tuple[tuple[int, int, str], ...]:
        counted: Counter[int] = Counter()
        examples: dict[int, str] = {}
        for name, found in self.each():
            if found.st_uid != owner:
                counted[found.st_uid] += 1
                examples.setdefault(found.st_uid, name)
        return tuple((user, count, examples[user]) for user, count in sorted(counted.items()))

    def open_to_all(self) -> tuple[str, ...]:
        return tuple(name for name, found in self.each() if _everybody_writes(found))

    def clock(self, now: float) -> Clock:
        times = {name: max(found.st_mtime, found.st_ctime) for name, found in self.each()}
        made: float | None = None
        with contextlib.suppress(OSError):
            made = os.lstat(self._layout.marker).st_ctime
        future = [when for when in times.values() if when > now + _FUTURE]
        return Clock(now=now, made=made, future=len(future), latest=max(times.values(), default=0.0))


def _everybody_writes(found: os.stat_result) -> bool:
    # The mode of a symlink says nothing.
    return not stat.S_ISLNK(found.st_mode) and bool(found.st_mode & stat.S_IWOTH)


def _place(layout: Layout, names: _Names) -> Place:
    root = layout.root
    parent = _nearest(root)
    try:
        found = os.stat(root)
    except FileNotFoundError:
        if os.path.lexists(root):
            return Place(kind="obstructed", complaint="it is a symlink that leads nowhere", parent=parent)
        return Place(
            kind="absent",
            parent=parent,
            parent_writable=_may(parent, os.W_OK | os.X_OK),
            owner=os.stat(parent).st_uid,
        )
    except PermissionError as error:
        return Place(kind="hidden", complaint=str(error.strerror), parent=parent)
    except OSError as error:
        return Place(kind="obstructed", complaint=str(error.strerror), parent=parent)
    if not stat.S_ISDIR(found.st_mode):
        return Place(kind="obstructed", complaint="it is not a directory", parent=parent)
    kind, format_, complaint = _marker(layout)
    if kind != "store" or format_ != FORMAT:
        return Place(
            kind=kind,
            format=format_,
            complaint=complaint,
            parent=root,
            parent_writable=_may(root, os.W_OK | os.X_OK),
            owner=found.st_uid,
            mode=stat.S_IMODE(found.st_mode),
        )
    real = [part for part in SUBDIRECTORIES if _is_directory(layout.of(part))]
    return Place(
        kind=kind,
        format=format_,
        parent=root,
        missing=tuple(part for part in SUBDIRECTORIES if not os.path.lexists(layout.of(part))),
        unusable=tuple(
            part for part in SUBDIRECTORIES if part not in real and os.path.lexists(layout.of(part))
        ),
        unreadable=tuple(part for part in real if not _may(layout.of(part), os.R_OK | os.X_OK)),
        unwritable=tuple(part for part in real if not _may(layout.of(part), os.W_OK | os.X_OK)),
        strangers=names.strangers(found.st_uid),
        open_to_all=names.open_to_all(),
        exposed=_exposed(os.path.dirname(root)),
        owner=found.st_uid,
        mode=stat.S_IMODE(found.st_mode),
    )


def _marker(
    layout: Layout,
) -> tuple[Literal["store", "empty", "foreign", "hidden", "unreadable"], object, str]:
    """Return what a directory is, its format, and a complaint."""
    try:
        value = codec.loads(fs.read_file(layout.marker))
    except FileNotFoundError:
        try:
            inside = os.listdir(layout.root)
        except OSError as error:
            return "hidden", None, str(error.strerror)
        # What Store.open overlooks too.
        others = [name for name in inside if not name.startswith((".store.", "lost+found"))]
        return ("foreign" if others else "empty"), None, ""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        return "unreadable", None, str(reason)
    return "store", value.get("format", _NO_FORMAT) if isinstance(value, dict) else _NO_FORMAT, ""


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _exposed(parent: str) -> str | None:
    with contextlib.suppress(OSError):
        found = os.stat(parent)
        if _everybody_writes(found) and not found.st_mode & stat.S_ISVTX:
            return parent
    return None


def _nearest(path: str) -> str:
    """Return the nearest directory at or above a path that is there."""
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _may(path: str, what: int) -> bool:
    return os.access(path, what, effective_ids=True)


def _umask() -> int | None:
    # umask(2) only tells it by setting another one, for all threads.
    with contextlib.suppress(OSError, ValueError):
        for line in fs.read_file("/proc/self/status").decode(errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return None


def _disk(root: str, place: Place) -> Disk:
    found = os.statvfs(place.parent)
    table = mount_table()
    elsewhere: list[str] = []
    if place.kind == "store":
        device = os.stat(root).st_dev
        points = {mount.point for mount in _mounts(table)}
        for part in SUBDIRECTORIES:
            path = f"{root}/{part}"
            with contextlib.suppress(OSError):
                if os.stat(path).st_dev != device or os.path.realpath(path) in points:
                    elsewhere.append(part)
    return Disk(
        mount=mount_of(table, os.path.realpath(place.parent)),
        free=found.f_bavail * found.f_frsize,
        inodes=found.f_favail if found.f_files else None,
        elsewhere=tuple(elsewhere),
    )


def mount_table() -> str:
    """Return the text of ``/proc/self/mountinfo``; nothing where it cannot be read."""
    try:
        return fs.read_file("/proc/self/mountinfo").decode(errors="surrogateescape")
    except OSError:
        return ""


def mount_of(table: str, path: str) -> Mount | None:
    """Return the mount that a path is on.

    Args:
        table: The text of ``/proc/self/mountinfo``.
        path: An absolute path without symlinks.
    """
    found: Mount | None = None
    for mount in _mounts(table):
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        # Of several on one point, the last one hides the others.
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _mounts(table: str) -> Iterator[Mount]:
    for line in table.splitlines():
        ours, separator, theirs = line.partition(" - ")
        fields, more = ours.split(" "), theirs.split(" ")
        if not separator or len(fields) < 6 or len(more) < 3:  # noqa: PLR2004 - see proc(5)
            continue
        options = frozenset(fields[5].split(",")) | frozenset(more[2].split(","))
        yield Mount(point=_unescaped(fields[4]), type=more[0], options=options)


def _unescaped(text: str) -> str:
    r"""Undo what proc(5) does to blanks and backslashes: ``\040`` and its like."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        text = text.replace(code, chr(int(code[1:], 8)))
    return text


_GONE = {errno.ENOENT, errno.ENOTDIR}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EIO}
"""What says nothing of a feature: nothing can be tried."""

_ATTEMPTS = 3


def _probes(layout: Layout, place: Place) -> Probes:
    if place.known:
        parent, prefix = layout.of("tmp"), ""
    elif place.kind in {"absent", "empty"}:
        # Store.open overlooks this prefix in a new directory, and gc clears it should we be killed.
        parent, prefix = place.parent, ".store."
    else:
        return Probes(untried="this is no store that may be touched", failed={})
    if not _is_directory(parent) or not _may(parent, os.W_OK | os.X_OK):
        return Probes(untried=f"{parent} may not be written", failed={})
    if place.known and place.owner != os.geteuid():
        return Probes(untried="it is another user's store", failed={})
    complaint = ""
    for _ in range(_ATTEMPTS):
        directory = f"{parent}/{prefix}{fs.unique_name()}"
        try:
            fs.make_directory(directory, 0o700)
            return _tried(directory)
        except OSError as error:
            complaint = str(error.strerror)
            # A gc takes it for a leftover, because no lease protects it: whether leases work is not known yet.
            if error.errno not in _GONE:
                break
        finally:
            with contextlib.suppress(OSError):
                fs.remove_tree(directory)
    return Probes(untried=complaint, failed={})


def _tried(directory: str) -> Probes:
    """Try every feature in a new directory.

    Raises:
        OSError: Nothing can be tried: the directory is gone, or the disk is full.
    """
    # The kernel stamps with the time of its last tick, or with the exact one.
    before = scan.now()
    fs.write_file(f"{directory}/file", b"file")
    after = time.time()
    stamped = os.stat(f"{directory}/file").st_mtime
    failed: dict[str, str] = {}
    for feature, attempt in _FEATURES.items():
        try:
            problem = attempt(directory)
        except OSError as error:
            if error.errno in _GONE | _FULL:
                raise
            problem = str(error.strerror)
        if problem:
            failed[feature] = problem
    times = [os.lstat(f"{directory}/{name}").st_mtime_ns for name in os.listdir(directory)]
    return Probes(
        failed=failed,
        resolution=_resolution(times),
        skew=stamped - after if stamped > after else min(0.0, stamped - before),
    )


def _resolution(times: Iterable[int]) -> int:
    """Return the largest usual step, in nanoseconds, that all of these are multiples of."""
    found = list(times)
    steps = (2 * 10**9, *(10**power for power in range(9, 0, -1)))
    return next((step for step in steps if not any(when % step for when in found)), 1)


def _try_hard_link(directory: str) -> str:
    return _linked(f"{directory}/file", f"{directory}/hard")


def _linked(source: str, path: str) -> str:
    fs.hard_link(source, path)
    # fs.hard_link makes do with a copy or a fresh symlink where it has to.
    return (
        ""
        if os.path.samestat(os.lstat(source), os.lstat(path))
        else "the kernel or the file system refuses them"
    )


def _try_symlink(directory: str) -> str:
    fs.symlink("file", f"{directory}/symlink")
    return "" if os.readlink(f"{directory}/symlink") == "file" else "they are not kept as they were made"


def _try_hard_link_of_symlink(directory: str) -> str:
    if not os.path.islink(f"{directory}/symlink"):
        return "there are no symlinks"
    return _linked(f"{directory}/symlink", f"{directory}/symlink.hard")


def _try_rename(directory: str) -> str:
    fs.write_file(f"{directory}/old", b"old")
    fs.write_file(f"{directory}/new", b"new")
    fs.rename(f"{directory}/new", f"{directory}/old")
    kept = fs.read_file(f"{directory}/old") == b"new" and not os.path.lexists(f"{directory}/new")
    return "" if kept else "the old file is still there"


def _try_flock(directory: str) -> str:
    # As leases do it: the owner opens for writing, who looks opens for reading only.
    owner = os.open(f"{directory}/file", os.O_RDWR | os.O_CLOEXEC)
    try:
        looker = os.open(f"{directory}/file", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(looker, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return "two have the same file locked at once"
            fcntl.flock(owner, fcntl.LOCK_UN)
            fcntl.flock(looker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(looker)
    finally:
        os.close(owner)
    return ""


def _try_exchange(directory: str) -> str:
    fs.write_file(f"{directory}/left", b"left")
    fs.write_file(f"{directory}/right", b"right")
    if not fs.exchange(f"{directory}/left", f"{directory}/right"):
        return "it takes several steps"
    return "" if fs.read_file(f"{directory}/left") == b"right" else "nothing is exchanged"


def _try_case(directory: str) -> str:
    fs.write_file(f"{directory}/Case", b"")
    return "upper and lower case are the same" if os.path.lexists(f"{directory}/cASE") else ""


def _try_program(directory: str) -> str:
    fs.write_file(f"{directory}/program", b"#!/bin/sh\n", mode=0o755)
    # access(2) says no on a mount without exec, also to root.
    return "" if _may(f"{directory}/program", os.X_OK) else "they may not be run"


_FEATURES: Mapping[str, Callable[[str], str]] = {
    "hard links": _try_hard_link,
    "symlinks": _try_symlink,
    "hard links of symlinks": _try_hard_link_of_symlink,
    "rename over a file": _try_rename,
    "flock": _try_flock,
    "exchange of two names": _try_exchange,
    "case": _try_case,
    "programs": _try_program,
}
"""Each is tried in a directory of its own making that has a ``file``; says what is wrong, or nothing."""


def _tools(variables: Mapping[str, str]) -> Tools:
    from vrfstore import interpreter  # noqa: PLC0415

    executable, version, complaint = "", None, ""
    try:
        executable = interpreter.find(variables.get("VRFSTORE_PYTHON"))
        version = interpreter.probe(executable).version
    except InterpreterError as error:
        complaint = error.message
    return Tools(
        python=executable,
        python_version=version,
        python_complaint=complaint,
        pip=_distribution("pip"),
        uv=_distribution("uv") or _uv_on_path(variables.get("PATH")),
        isal=_distribution("isal"),
    )


def _distribution(name: str) -> str | None:
    """Return the version of a distribution that the running Python has."""
    import importlib.metadata  # noqa: PLC0415

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _uv_on_path(path: str | None) -> str | None:
    import shutil  # noqa: PLC0415
    import subprocess  # noqa: PLC0415

    program = shutil.which("uv", path=path or os.defpath)
    if program is None:
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
        )
        words = done.stdout.split()
        if done.returncode == 0 and len(words) > 1:
            return words[1]
    return None


def _bases(layout: Layout, place: Place, tools: Tools) -> tuple[tuple[Base, ...], int]:
    """Return the interpreters of the environments on disk, and how many records cannot be read."""
    store = Store(layout)
    counted: Counter[tuple[str, str]] = Counter()
    unread = 0
    with contextlib.suppress(OSError):
        for directory in store.environments():
            try:
                identity = store.record(directory).interpreter
                if identity.get("target"):
                    continue  # nothing here stands on it
                counted[str(identity["real"]), str(identity["version"])] += 1
            except FileNotFoundError:
                continue
            except (StoreDamagedError, KeyError, TypeError):
                unread += 1
    # Whoever owns the store could name any program.
    trusted = place.owner in {0, os.geteuid()}
    asked: dict[str, tuple[str | None, str]] = {}
    if tools.python_version is not None:
        asked[os.path.realpath(tools.python)] = (tools.python_version, "")
    bases = []
    for (real, version), environments in sorted(counted.items()):
        if real not in asked:
            asked[real] = _asked(real, trusted=trusted)
        found, complaint = asked[real]
        bases.append(
            Base(real=real, version=version, environments=environments, found=found, complaint=complaint)
        )
    return tuple(bases), unread


def _asked(real: str, *, trusted: bool) -> tuple[str | None, str]:
    """Return the version of an interpreter, and a complaint."""
    from vrfstore import interpreter  # noqa: PLC0415

    if not os.path.isfile(real):
        return None, "it is not there any more"
    if not trusted:
        return None, ""
    try:
        return interpreter.probe(real).version, ""
    except InterpreterError as error:
        return None, error.message


def _leftover(layout: Layout) -> Leftover:
    try:
        found = scan.leftovers(Store(layout))
    except OSError as error:
        return Leftover(complaint=f"{error.strerror} ({error.filename})")
    stale = os.path.lexists(layout.condemned) and leases.is_free(layout.of("gc", "run"))
    paths = (*found.trees, *found.files)
    return Leftover(count=len(paths), bytes=_bytes(paths), stale_list=stale)


def _bytes(paths: Iterable[str]) -> int:
    inodes: dict[tuple[int, int], int] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            inodes[found.st_dev, found.st_ino] = found.st_blocks * 512
            if stat.S_ISDIR(found.st_mode):
                waiting += [f"{path}/{name}" for name in os.listdir(path)]
    return sum(inodes.values())
