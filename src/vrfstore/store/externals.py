"""External environments: those at a path of the user's. What is known of them, on both sides.

``PATH/vrfstore.json`` is the environment's own record: what it was linked from, and every path that vrfstore has put
there. ``<store>/external/<token>.json`` is its registration, which keeps entries from gc: where it is, and what it
refers to. The token is in both, so that another environment at the same path, or the same one elsewhere, is told.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Mapping

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError
from vrfstore.model import EntryReference, Interpreter, LinkOptions
from vrfstore.store.holds import hold, shard
from vrfstore.store.layout import Layout
from vrfstore.store.leases import Lease
from vrfstore.store.records import options_from_json, references_from_json, references_to_json
from vrfstore.values import asdict, dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, TypeAlias

__all__ = [
    "RECORD",
    "ExternalRecord",
    "Made",
    "Registration",
    "State",
    "device_of",
    "forget",
    "forget_absent",
    "hold_key",
    "mount_namespace",
    "read",
    "read_registration",
    "register",
    "registered_at",
    "registrations",
    "state_of",
    "token_at",
    "write",
]

RECORD = "vrfstore.json"
"""The record's name in an environment."""

State: TypeAlias = "Literal['there', 'absent', 'unknown']"
"""What has become of an external environment."""

_SCHEMA = 1
_LARGEST = 1 << 26
_TOKEN = re.compile(r"[0-9a-f]{16}")
_WHAT = re.compile(r"d|\?|l:.+|f:[0-7]+:[0-9a-f]{64}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Made:
    """Something that vrfstore has put into an environment.

    Attributes:
        what: ``d`` for a directory, ``l:<target>`` for a symlink, ``f:<mode>:<SHA-256>`` for a file.
        seen: The file's ``records.own_token`` after it was made, so that it need not be read to be known again;
            empty where that is not known, and for what is no file.
        before: What else may be there instead, while the environment is being changed: what it was until then.
    """

    what: str
    seen: str = ""
    before: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalRecord:
    """What an external environment was linked as.

    Attributes:
        token: Names its registration; 16 hexadecimal digits.
        place: Where it was when it was linked, absolute and without links.
        store: The absolute path of the store.
        asked: The interpreter in the words of whoever asked; empty for the default.
        executable: The interpreter that this meant, an absolute path.
        interpreter: Its identity, as in keys of managed environments.
        options: How it was linked.
        library: The name of its library directory, such as ``python3.11``.
        requirements: The canonical text of what was asked for.
        path: The file that this came from.
        wheels: The entries that it links to, in the order of their names.
        composites: The composites that it links to.
        lock: The digest of its lock.
        made: Everything that vrfstore has put there, by path below the environment.
        finished: Whether all of it is there; False in what a kill has left.
    """

    token: str
    place: str
    store: str
    asked: str
    executable: str
    interpreter: dict[str, object]
    options: LinkOptions = field(default_factory=LinkOptions)
    library: str
    requirements: str
    path: str
    wheels: tuple[EntryReference, ...]
    composites: tuple[EntryReference, ...]
    lock: str
    made: Mapping[str, Made]
    finished: bool

    @property
    def site_packages(self) -> str:
        """Its site-packages, relative to the environment."""
        return f"lib/{self.library}/site-packages"


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """What a store knows of an external environment.

    Attributes:
        token: As in its record.
        path: Where it was when it was last linked or checked, absolute.
        device: The device of its directory then, or of the nearest one above that was there; 0 where nobody knows.
        references: The entries and composites that it refers to; more than it needs while it is being changed.
        locks: The digests of its locks, as many.
        namespace: The mount namespace in which the path was meant, by inode; 0 where nobody knows.
    """

    token: str
    path: str
    device: int
    references: tuple[EntryReference, ...]
    locks: tuple[str, ...]
    namespace: int = 0


def device_of(place: str) -> int:
    """Return the device of a directory, or of the nearest one above it that is there; 0 where nobody can tell."""
    while True:
        try:
            return os.stat(place).st_dev
        except (FileNotFoundError, NotADirectoryError):
            if place == (place := os.path.dirname(place)):
                return 0
        except OSError:
            return 0


def mount_namespace() -> int:
    """Return the inode of the mount namespace of this process (mount_namespaces(7)); 0 where nobody can tell."""
    try:
        return os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        return 0


def state_of(known: Registration) -> State:
    """Return what has become of an environment: there, gone for certain, or nobody can tell.

    It is ``absent`` only where it is looked for in the same mount namespace, the directory above it is there on the
    same device, and in that there is nothing of its name, or an environment of another token. A home that is not
    mounted, a directory that may not be read, or an environment without its record proves nothing.
    """
    above, name = os.path.split(known.path)
    if not known.namespace or known.namespace != mount_namespace() or not name:
        return "unknown"
    try:
        # Through one descriptor, so that nothing is unmounted between looking at what is above and at what is in it.
        # The path was one without links; a link that has come since leads elsewhere.
        parent = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):
        return "unknown"
    try:
        if os.fstat(parent).st_dev != known.device or os.path.realpath(above) != above:
            return "unknown"
        return _state_in(parent, name, known)
    except (OSError, ValueError, StoreDamagedError):
        return "unknown"
    finally:
        os.close(parent)


def _state_in(parent: int, name: str, known: Registration) -> State:
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return "absent"
    if not stat.S_ISDIR(found.st_mode) or found.st_dev != known.device:
        return "unknown"
    record = read(f"/proc/self/fd/{parent}/{name}")
    if record is None:
        return "unknown"
    return "there" if record.token == known.token else "absent"


def hold_key(place: str) -> str:
    """Return what names the hold of the environment at a path without links."""
    return codec.hexdigest(os.fsencode(place))


def read(environment: str) -> ExternalRecord | None:
    """Return the record of the environment at a path; None where there is none.

    Raises:
        StoreDamagedError: It cannot be read, or is another version's.
    """
    path = f"{environment}/{RECORD}"
    try:
        value = _known(codec.loads(fs.read_file(path, _LARGEST)))
        return ExternalRecord(
            token=_token(value["token"]),
            place=_path_text(value["place"]),
            store=_path_text(value["store"]),
            asked=codec.text(value["asked"]),
            executable=_path_text(value["executable"]),
            interpreter=_identity(value),
            options=options_from_json(value["options"]),
            library=_path_text(value["library"]),
            requirements=codec.text(value["requirements"]),
            path=codec.text(value["path"]),
            wheels=tuple(references_from_json(value["wheels"])),
            composites=tuple(references_from_json(value["composites"])),
            lock=_path_text(value["lock"]),
            made={
                _inside(path): Made(_what(what), codec.text(seen), tuple(map(_what, before)))
                for path, (what, seen, before) in value["made"].items()
            },
            finished=bool(value["finished"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreDamagedError(
            f"the environment's record cannot be read: {error}",
            kind="record-unreadable",
            path=path,
            hint="link it again with: vrfstore link FILE --into PATH --force",
        ) from error


def token_at(environment: str) -> str:
    """Return the token of the environment at a path; empty where there is none, or none that can be read."""
    try:
        record = read(environment)
    except StoreDamagedError:
        return ""
    return "" if record is None else record.token


def _known(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if value["schema"] != _SCHEMA:
        raise ValueError(f"it is of schema {value['schema']!r}")
    return value


def _identity(value: Mapping[str, Any]) -> dict[str, object]:
    """Return the identity of an interpreter; what lacks a part of it is none."""
    identity = dict(value["interpreter"])
    _path_text(identity["real"])
    Interpreter.of_identity(identity, codec.text(value["executable"]))
    return identity


def _token(value: object) -> str:
    """Return a token of a record, which becomes part of a path in the store."""
    token = codec.text(value)
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{token!r} is no token")
    return token


def _path_text(value: object) -> str:
    """Return a text that a system call takes."""
    text = codec.text(value)
    if b"\0" in os.fsencode(text):
        raise ValueError(f"{text!r} is no path")
    return text


def _what(value: object) -> str:
    """Return a ``Made.what``."""
    text = codec.text(value)
    if not _WHAT.fullmatch(text):
        raise ValueError(f"{text[:100]!r} is nothing that is put into an environment")
    return text


def _inside(path: str) -> str:
    """Return a path of a record, which somebody may have written who means to lead us out of the environment."""
    parts = _path_text(path).split("/")
    if "" in parts or "." in parts or ".." in parts:
        raise ValueError(f"{path!r} is no path in an environment")
    return path


def write(environment: str, record: ExternalRecord) -> None:
    """Put a record in its place, or in that of the one before."""
    value: dict[str, Any] = {
        "schema": _SCHEMA,
        "token": record.token,
        "place": record.place,
        "store": record.store,
        "asked": record.asked,
        "executable": record.executable,
        "interpreter": record.interpreter,
        "options": asdict(record.options),
        "library": record.library,
        "requirements": record.requirements,
        "path": record.path,
        "wheels": references_to_json(record.wheels),
        "composites": references_to_json(record.composites),
        "lock": record.lock,
        "made": {path: [made.what, made.seen, made.before] for path, made in record.made.items()},
        "finished": record.finished,
    }
    temporary = f"{environment}/.{RECORD}.{fs.unique_name()}"
    try:
        fs.write_file(temporary, codec.dumps(value), sync=True)
        fs.rename(temporary, f"{environment}/{RECORD}")
    except BaseException:
        fs.remove_file(temporary)
        raise


def register(layout: Layout, lease: Lease, registration: Registration) -> None:
    """Let gc know of an environment; in place of what it knew of it before. What it knows already is not written."""
    # Under the hold: a gc that saw it absent may be about to forget it.
    with _held(layout, registration.token), contextlib.suppress(StoreDamagedError):
        if read_registration(layout, registration.token) == registration:
            return
    value = {
        "schema": _SCHEMA,
        "path": registration.path,
        "device": registration.device,
        "references": references_to_json(registration.references),
        "locks": list(registration.locks),
        "namespace": registration.namespace,
    }
    temporary = layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
    # Synced: what it keeps from gc is in use by an environment that nothing here knows of otherwise.
    fs.write_file(temporary, codec.dumps(value), sync=True)
    with _held(layout, registration.token):
        fs.rename(temporary, _path(layout, registration.token))


def forget(layout: Layout, token: str) -> bool:
    """Let gc know no more of an environment. Returns whether it did."""
    return fs.remove_file(_path(layout, token))


def registered_at(layout: Layout, token: str) -> float:
    """Return when an environment was registered last, seconds since the epoch.

    Raises:
        OSError: It is not, or that cannot be told.
    """
    return os.lstat(_path(layout, token)).st_mtime


def forget_absent(layout: Layout, registration: Registration) -> bool:
    """Let gc know no more of an environment that is absent, unless it was registered anew meanwhile.

    Returns:
        Whether it was forgotten.

    Raises:
        BusyError: Somebody is registering it.
    """
    with _held(layout, registration.token, timeout=0):
        try:
            again = read_registration(layout, registration.token)
        except StoreDamagedError:
            return False
        return again == registration and state_of(again) == "absent" and forget(layout, registration.token)


def _held(
    layout: Layout, token: str, timeout: float | None = None
) -> contextlib.AbstractContextManager[None]:
    return hold(layout.of("holds", shard("external", token)), timeout=timeout)


def read_registration(layout: Layout, token: str) -> Registration | None:
    """Return what is known of one environment; None where nothing is.

    Raises:
        StoreDamagedError: It cannot be read.
    """
    path = _path(layout, token)
    try:
        value = _known(codec.loads(fs.read_file(path)))
        return Registration(
            token=token,
            path=codec.text(value["path"]),
            device=int(value["device"]),
            references=tuple(references_from_json(value["references"])),
            locks=tuple(map(codec.text, value["locks"])),
            # Older records do not say.
            namespace=int(value.get("namespace", 0)),
        )
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        # A link that leads nowhere is still there, and may lead somewhere tomorrow.
        if isinstance(error, FileNotFoundError) and not os.path.lexists(path):
            return None
        raise StoreDamagedError(
            f"the registration of an environment cannot be read: {error}",
            kind="registration-unreadable",
            path=path,
        ) from error


def registrations(layout: Layout) -> Iterator[Registration | StoreDamagedError]:
    """Yield what is known of all external environments, and an error for each that cannot be read."""
    for name in sorted(os.listdir(layout.of("external"))):
        try:
            found = read_registration(layout, name.removesuffix(".json"))
        except StoreDamagedError as error:
            yield error
        else:
            if found is not None:
                yield found


def _path(layout: Layout, token: str) -> str:
    return layout.of("external", f"{token}.json")
