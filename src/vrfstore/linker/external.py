"""An environment at a path of the user's: made, and made again, around what the user has put there since.

The plan is the same as for a managed environment. Here it is compared with what is there::

    plan ──▶ wanted (what at which path) ─┐
    record ─▶ what we made last time ─────┼─ decide (pure) ─▶ changes ─▶ apply
    lstat ──▶ what is there ──────────────┘

No regular file of the store gets a further link here, because ``chmod -R`` or ``chown -R`` would reach it: what is a
hard link in a managed environment is a copy, or a symlink where it is large.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping

from vrfstore import fs
from vrfstore.errors import BusyError
from vrfstore.linker.plan import EnvironmentPlan
from vrfstore.linker.realise import new_record
from vrfstore.model import Interpreter
from vrfstore.store import externals, records
from vrfstore.store.externals import ExternalRecord, Made
from vrfstore.values import dataclass, replace

__all__ = [
    "Changes",
    "Item",
    "apply",
    "changing",
    "configuration",
    "configured",
    "decide",
    "finished",
    "found_at",
    "keep_beside",
    "occupied",
    "parents",
    "strangers",
    "sweep",
    "wanted",
]

_TEMPORARY = ".vrfstore-"
_LEFTOVER = re.compile(rf"(?:{re.escape(_TEMPORARY)}|\.{re.escape(externals.RECORD)}\.)[0-9a-f]{{16}}")
_CACHE = "__pycache__"
_SETTINGS = ("home", "include-system-site-packages", "version", "executable")
_LARGEST_CONFIGURATION = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """What is wanted at a path.

    Attributes:
        what: As ``Made.what``.
        content: Of a file: its bytes; None where they are to be copied from ``source``.
        source: The absolute path of the file to copy.
        mode: The permission bits of a file.
        folded: Whether it is a link to a whole directory, which could be a real one as well.
    """

    what: str
    content: bytes | None = None
    source: str = ""
    mode: int = 0o644
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be done, in the order of the fields, and what is not.

    Attributes:
        put: Paths to make, or to make something else of; parents first.
        remove: Paths that nothing wants any more; children first.
        kept: Paths where something is that the user put there, although something else is wanted.
    """

    put: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def nothing(self) -> bool:
        """Whether all is as it should be."""
        return not self.put and not self.remove


def decide(
    made: Mapping[str, Made],
    wanted: Mapping[str, str],
    found: Mapping[str, str | None],
    *,
    again: Collection[str] = (),
    stays: Collection[str] = (),
    force: bool = False,
) -> Changes:
    """Decide what to change in an environment. Pure.

    Args:
        made: What vrfstore put there, by path.
        wanted: What is to be there, by path, as ``Made.what``.
        found: What is there, by path, for all paths of both; None where there is nothing.
        again: Paths where what is there is of no use to anybody, whoever put it there.
        stays: Directories of ours that cannot make way, because of what the user has put into them.
        force: What the user put in the way goes.
    """
    put: list[str] = []
    kept: list[str] = []
    for path, what in wanted.items():
        there = found[path]
        if there == what:
            continue
        if there is None or force or path in again or (path not in stays and _is_ours(made.get(path), there)):
            put.append(path)
        else:
            kept.append(path)
    blocked = [path for path in kept if found[path] != "d"]
    put = [path for path in put if not any(path.startswith(f"{above}/") for above in blocked)]
    replaced = {path for path in put if wanted[path] != "d"}
    remove = [
        path
        for path, mine in made.items()
        if path not in wanted
        and (there := found[path]) is not None
        and _is_ours(mine, there)
        # What is in a directory goes with it; when it is a link, the same path leads somewhere else.
        and replaced.isdisjoint(parents(path))
    ]
    return Changes(tuple(sorted(put, key=_rank)), tuple(sorted(remove, reverse=True)), tuple(sorted(kept)))


def _rank(path: str) -> tuple[bool, str]:
    """Order paths: packages first, so that ``bin`` and ``pyvenv.cfg`` lead to what stands already; parents first."""
    return path != "lib" and not path.startswith("lib/"), path


def _is_ours(made: Made | None, there: str) -> bool:
    return made is not None and there in (made.what, *made.before)


def wanted(
    plan: EnvironmentPlan, store_root: str, interpreter: Interpreter, *, ready: str
) -> dict[str, Item]:
    """Return what an external environment of this plan consists of, by path.

    Args:
        plan: From ``plan_environment``.
        store_root: The absolute path of the store.
        interpreter: The base.
        ready: The directory of ready-made links to it, below the store.

    Raises:
        OSError: An entry is gone.
    """
    items: dict[str, Item] = {path: Item("d") for path in plan.directories}
    for source, path in plan.links:
        if source == f"{ready}/python":
            items[path] = _symlink(interpreter.real)
        else:
            items[path] = _linked(store_root, source, path)
    for source, path in plan.copies:
        items[path] = _copied(f"{store_root}/{source}")
    for path, content in plan.files:
        items[path] = _file(content)
    for record in plan.records:
        items[record.path] = _file(new_record(record, store_root, plan.headers))
    items[".gitignore"] = _file(b"*\n")
    return items


def _linked(store_root: str, source: str, path: str) -> Item:
    origin = f"{store_root}/{source}"
    found = os.lstat(origin)
    if stat.S_ISLNK(found.st_mode):
        target = os.readlink(origin)
        # Ready-made links lead upwards to the store from inside of it; from here the way is another.
        _, inside, rest = target.partition("../entries/")
        if target.startswith("/"):
            return _of_file(target, os.stat(target), path)  # a file of a shared store
        if not inside:
            return _symlink(target)
        target = f"{store_root}/entries/{rest}"
        return Item(f"l:{target}", folded=os.path.isdir(target))
    return _of_file(origin, found, path)


def _of_file(origin: str, found: os.stat_result, path: str) -> Item:
    if found.st_size > fs.COPY_LIMIT and _may_be_link(path):
        return _symlink(origin)
    return _copied(origin)


def _may_be_link(path: str) -> bool:
    """Whether a large file may be a symlink: a library or a program, but nothing that a server may serve."""
    name = path.rpartition("/")[2]
    return name.endswith(".so") or ".so." in name or path.startswith("bin/")


def configuration(content: bytes) -> dict[str, str]:
    """Return what decides of a ``pyvenv.cfg``, by key (PEP 405); places with links resolved."""
    found = {}
    for key, value, _ in _settings(content):
        if key in _SETTINGS:
            found[key] = _resolved(value) if key in {"home", "executable"} else value.lower()
    return found


def _settings(content: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and line; of lines that have none, nothing."""
    for line in content.decode(errors="surrogateescape").splitlines():
        key, _, value = line.partition("=")
        if key.strip() and len(key) < len(line):
            yield key.strip().lower(), value.strip(), line


def _resolved(path: str) -> str:
    with contextlib.suppress(ValueError, OSError):
        return os.path.realpath(path)
    return path


def configured(environment: str, planned: Item, prompt: str | None) -> Item:
    """Return what ``pyvenv.cfg`` is to be, with what the user has put into it.

    Args:
        environment: The absolute path.
        planned: What it would be without.
        prompt: What the environment was linked with before; another one is the user's.
    """
    wanted = planned.content or b""
    try:
        with fs.open_regular(f"{environment}/pyvenv.cfg") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            there = stream.read(_LARGEST_CONFIGURATION + 1)
    except (OSError, ValueError):
        return planned
    if not there or len(there) > _LARGEST_CONFIGURATION:
        return planned
    ours = {key: (value, line) for key, value, line in _settings(wanted)}
    says = {key: value for key, value, _ in _settings(there)}
    usual = {None, "", repr(prompt), ours["prompt"][0] if "prompt" in ours else None}
    prompted = says.get("prompt") not in usual
    if configuration(there) == configuration(wanted) and (
        prompted or says.get("prompt") == ours.get("prompt", (None,))[0]
    ):
        return _file(there, mode)
    theirs = {
        key: line
        for key, _, line in _settings(there)
        if key not in _SETTINGS and (key != "prompt" or prompted)
    }
    lines = [line for key, (_, line) in ours.items() if key not in theirs] + [*theirs.values()]
    return _file("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


def keep_beside(environment: str, path: str) -> str:
    """Keep what a file was that somebody has changed, and return where; nothing for what is no file."""
    place = f"{environment}/{path}"
    beside = f"{path}.before-healing"
    try:
        if not stat.S_ISREG(os.lstat(place).st_mode):
            return ""
        if os.path.lexists(f"{environment}/{beside}"):
            with contextlib.suppress(OSError):
                if _found(f"{environment}/{beside}", None) == _found(place, None):
                    return beside  # from a call that was killed
            beside = f"{beside}.{fs.unique_name()}"
        fs.copy_file(place, f"{environment}/{beside}", mode=stat.S_IMODE(os.lstat(place).st_mode))
    except FileNotFoundError:
        return ""
    return beside


def _symlink(target: str) -> Item:
    return Item(f"l:{target}")


def _file(content: bytes, mode: int = 0o644) -> Item:
    return Item(f"f:{mode:o}:{hashlib.sha256(content).hexdigest()}", content, mode=mode)


def _copied(source: str) -> Item:
    with fs.open_regular(source) as stream:
        found = os.fstat(stream.fileno())
        mode = stat.S_IMODE(found.st_mode) | stat.S_IWUSR
        if found.st_size <= fs.COPY_LIMIT:
            return _file(stream.read(), mode)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Item(f"f:{mode:o}:{digest}", source=source, mode=mode)


def found_at(environment: str, paths: Iterable[str], made: Mapping[str, Made]) -> dict[str, str | None]:
    """Return what is at some paths of an environment, as ``Made.what``; ``?`` for what is neither of these.

    A file that has the inode, size and times that it had when we made it is not read again.
    """
    wanted = set(paths)
    # Behind a link is another place: also behind one that nobody has listed.
    above = {parent for path in wanted for parent in parents(path)}
    found: dict[str, str | None] = {}
    for path in sorted(wanted | above):
        hidden = found.get(path.rpartition("/")[0], "d") != "d"
        found[path] = None if hidden else _found(f"{environment}/{path}", made.get(path))
    return {path: found[path] for path in wanted}


def parents(path: str) -> Iterator[str]:
    """Yield the directories above a path, the nearest first."""
    while path := path.rpartition("/")[0]:
        yield path


def _found(path: str, made: Made | None) -> str | None:
    try:
        seen = os.lstat(path)
        if stat.S_ISLNK(seen.st_mode):
            return f"l:{os.readlink(path)}"
        if stat.S_ISDIR(seen.st_mode):
            return "d"
        if not stat.S_ISREG(seen.st_mode):
            return "?"
        if made is not None and made.seen and made.seen == records.own_token(path):
            return made.what
        with fs.open_regular(path) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return f"f:{stat.S_IMODE(seen.st_mode):o}:{digest}"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        return "?"


def occupied(
    environment: str, items: Mapping[str, Item], made: Mapping[str, Made], found: Mapping[str, str | None]
) -> set[str]:
    """Return the directories where something else is planned, and the user has something in them."""
    return {
        path
        for path, item in items.items()
        if item.what != "d" and found[path] == "d" and _has_strangers(environment, path, made, found)
    }


def _has_strangers(
    environment: str, path: str, made: Mapping[str, Made], found: Mapping[str, str | None]
) -> bool:
    """Whether there is anything in a directory that is not as we have put it there, but for bytecode."""
    if path not in made:
        return True
    with os.scandir(f"{environment}/{path}") as children:
        names = [child.name for child in children if child.name != _CACHE]
    return any(not _is_ours_throughout(environment, f"{path}/{name}", made, found) for name in names)


def _is_ours_throughout(
    environment: str, path: str, made: Mapping[str, Made], found: Mapping[str, str | None]
) -> bool:
    there = found.get(path)
    if there is None or not _is_ours(made.get(path), there):
        return False
    return there != "d" or not _has_strangers(environment, path, made, found)


def apply(
    environment: str,
    changes: Changes,
    items: Mapping[str, Item],
    made: Mapping[str, Made],
    found: Mapping[str, str | None],
    *,
    force: bool = False,
) -> None:
    """Change an environment as it was decided.

    What is new is put in its place by a rename. A kill at any step leaves what the next call makes whole, because
    the record, which is there already, says of each path what it was and what it is going to be.

    Args:
        environment: The absolute path.
        changes: From ``decide``.
        items: From ``wanted``.
        made: What vrfstore put there before.
        found: What was there when it was decided.
        force: What the user put in the way goes.

    Raises:
        BusyError: The user has just put something in the way; what comes after it is not done.
        OSError: The disk is full; or (``ENOTEMPTY``) as above.
    """
    for path in changes.put:
        if not force:
            _check_still(environment, path, made, found)
        place = f"{environment}/{path}"
        if os.path.isdir(place) and not os.path.islink(place):
            _make_way(environment, path, items, made, force=force)
        _put(environment, place, items[path])
    for path in changes.remove:
        _check_still(environment, path, made, found)
        _remove(environment, path, items)


def _check_still(
    environment: str, path: str, made: Mapping[str, Made], found: Mapping[str, str | None]
) -> None:
    """Look once more: copying takes long enough for pip to come in between.

    Raises:
        BusyError: It is not what was decided about.
    """
    if found_at(environment, [path], made)[path] not in (found[path], None):
        raise BusyError(
            f"somebody else has just changed {path}", kind="environment-busy", path=f"{environment}/{path}"
        )
    if any(os.path.islink(f"{environment}/{parent}") for parent in parents(path)):
        raise BusyError(f"{path} is behind a link now", kind="environment-busy", path=f"{environment}/{path}")


def _put(environment: str, place: str, item: Item) -> None:
    if item.what == "d":
        if os.path.lexists(place):
            fs.remove_file(place)
        fs.make_directory(place)
        return
    temporary = f"{environment}/{_TEMPORARY}{fs.unique_name()}"
    try:
        if item.what.startswith("l:"):
            fs.symlink(item.what[2:], temporary)
        elif item.content is not None:
            fs.write_file(temporary, item.content, mode=item.mode)
        else:
            fs.copy_file(item.source, temporary, mode=item.mode, follow=True)
        if os.path.lexists(place):
            _forget_bytecode(place)
        fs.rename(temporary, place)
    except BaseException:
        fs.remove_file(temporary)
        raise


def _forget_bytecode(place: str) -> None:
    """Remove the pycs of a module that is going to be another one.

    What tells them is time and size of their source, and two versions of it may be equal in both.
    """
    parent, _, name = place.rpartition("/")
    if name.endswith(".py") and not os.path.islink(f"{parent}/{_CACHE}"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for pyc in os.listdir(f"{parent}/{_CACHE}"):
                if pyc.startswith(f"{name[:-3]}.") and pyc.endswith(".pyc"):
                    fs.remove_file(f"{parent}/{_CACHE}/{pyc}")


def _make_way(
    environment: str, path: str, items: Mapping[str, Item], made: Mapping[str, Made], *, force: bool
) -> None:
    """Remove a directory where there is to be something else, with all of ours in it."""
    if force:
        fs.remove_tree(f"{environment}/{path}")
        return
    for below in sorted((mine for mine in made if mine.startswith(f"{path}/")), reverse=True):
        _remove(environment, below, items)
    _remove(environment, path, items)


def _remove(environment: str, path: str, items: Mapping[str, Item]) -> None:
    place = f"{environment}/{path}"
    if any(os.path.islink(f"{environment}/{parent}") for parent in parents(path)):
        return
    if not os.path.isdir(place) or os.path.islink(place):
        _forget_bytecode(place)
        fs.remove_file(place)
        return
    # What importing left there goes with it; what the user put there stays, and with it the directory.
    if os.path.isdir(f"{place}/{_CACHE}") and f"{path}/{_CACHE}" not in items:
        fs.remove_tree(f"{place}/{_CACHE}")
    fs.remove_directory(place)


def changing(
    record: ExternalRecord,
    earlier: ExternalRecord | None,
    items: Mapping[str, Item],
    useless: Mapping[str, str | None],
) -> ExternalRecord:
    """Return the record for the time of the change: of every path, what it was and what it is going to be.

    Args:
        record: What the environment is going to be.
        earlier: What it was.
        items: From ``wanted``.
        useless: What is there that is not ours, and goes all the same.
    """
    before = {} if earlier is None else earlier.made
    made = dict(before)
    for path, item in items.items():
        old, there = before.get(path), useless.get(path)
        ours = () if old is None else (old.what, *old.before)
        made[path] = Made(item.what, "", ours if there is None else (*ours, there))
    return replace(record, made=made, finished=False)


def finished(
    record: ExternalRecord, environment: str, items: Mapping[str, Item], kept: Iterable[str]
) -> ExternalRecord:
    """Return the record for an environment that stands; what the user has put there is not ours."""
    theirs = set(kept)
    made = {
        path: Made(item.what, _token(f"{environment}/{path}") if item.what.startswith("f:") else "")
        for path, item in items.items()
        if path not in theirs
    }
    return replace(record, made=made, finished=True)


def strangers(place: str) -> list[str]:
    """Return the names in a directory that are not what a killed link may have left in an empty one."""
    return [name for name in os.listdir(place) if not _LEFTOVER.fullmatch(name)]


def sweep(place: str) -> None:
    """Remove what a killed link has left on its way; whoever calls holds the environment."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(place):
            path = f"{place}/{name}"
            if _LEFTOVER.fullmatch(name) and (os.path.islink(path) or not os.path.isdir(path)):
                fs.remove_file(path)


def _token(path: str) -> str:
    try:
        return records.own_token(path)
    except OSError:
        return ""
