"""The record of an environment: ``vrfstore.json`` inside it names all that it refers to.

References are derived from these records by reading; nothing in an entry counts them. The record's
modification time is the environment's last use, so that a hit refreshes it with one system call.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from vrfstore import codec, fs
from vrfstore.errors import StoreDamagedError
from vrfstore.model import Digest, EntryReference, EnvironmentKey, Interpreter, LinkOptions
from vrfstore.store.layout import Layout
from vrfstore.values import asdict, dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "EnvironmentRecord",
    "options_from_json",
    "own_token",
    "read",
    "record_to_json",
    "references_from_json",
    "references_to_json",
    "unchanged",
]

_SCHEMA = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentRecord:
    """What an environment is made of.

    Attributes:
        directory: Its directory name: the key, and the generation if that is not 0.
        key: See ``linker.link.environment_key``.
        asked: The interpreter in the words of whoever asked: a path, a version or a command; empty for the default.
        executable: The interpreter that this meant, an absolute path.
        interpreter: The identity that the key covers.
        options: How it was linked.
        library: The name of its library directory, such as ``python3.11``.
        wheels: The entries it links to, in the order of their names.
        composites: The composites it links to.
        shared: The directory names of those entries whose files are in a shared store.
        lock: The digest that names its lock in ``locks/``.
        own: For each of its own paths that tell whether somebody changed it, its ``own_token``.
    """

    directory: str
    key: EnvironmentKey
    executable: str
    interpreter: dict[str, object]
    library: str
    wheels: tuple[EntryReference, ...]
    lock: str
    own: dict[str, str]
    asked: str = ""
    options: LinkOptions = field(default_factory=LinkOptions)
    composites: tuple[EntryReference, ...] = ()
    shared: frozenset[str] = frozenset()

    @property
    def entries(self) -> frozenset[str]:
        """The directory names below entries/ of all that it links to, composites among them."""
        return frozenset(reference.directory for reference in (*self.wheels, *self.composites))


def own_token(path: str) -> str:
    """Return ``inode:size:mtime:ctime`` of a path, links not followed.

    Without the device, which another boot may number anew: then every environment would look changed. With the
    size, because a power cut may leave a file that is new and empty.
    """
    found = os.lstat(path)
    return f"{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def record_to_json(record: EnvironmentRecord) -> bytes:
    """Return the content of ``vrfstore.json``. The directory name is not in it: a generation is a name."""
    return codec.dumps(
        {
            "schema": _SCHEMA,
            "key": record.key,
            "asked": record.asked,
            "executable": record.executable,
            "interpreter": record.interpreter,
            "options": asdict(record.options),
            "library": record.library,
            "wheels": references_to_json(record.wheels),
            "composites": references_to_json(record.composites),
            "lock": record.lock,
            "own": record.own,
            **({"shared": sorted(record.shared)} if record.shared else {}),
        }
    )


def references_to_json(references: Iterable[EntryReference]) -> list[list[str]]:
    """Return references as records hold them."""
    return [[found.digest, found.name, found.version, found.directory] for found in references]


def references_from_json(value: Iterable[Iterable[object]]) -> Iterator[EntryReference]:
    """Yield the references that a record holds.

    Raises:
        ValueError, TypeError: They are none.
    """
    for digest, name, version, directory in (map(codec.text, reference) for reference in value):
        yield EntryReference(digest=Digest(digest), name=name, version=version, directory=directory)


def options_from_json(value: dict[str, Any]) -> LinkOptions:
    """Return the options that a record holds.

    Raises:
        TypeError: They are none.
    """
    options = LinkOptions(**value | {"materialize": tuple(map(codec.text, value.get("materialize", ())))})
    if options.prompt is not None:
        codec.text(options.prompt)
    if not all(
        isinstance(each, bool) for each in (options.isolated, options.user_site, options.allow_collisions)
    ):
        raise TypeError("an option is neither true nor false")
    return options


def read(layout: Layout, directory: str) -> EnvironmentRecord:
    """Return the record of the environment with this directory name.

    Raises:
        FileNotFoundError: There is no such environment.
        StoreDamagedError: Its record is missing or cannot be read.
    """
    path = layout.record(directory)
    try:
        value = codec.loads(_bytes(path))
        if value["schema"] != _SCHEMA:
            raise StoreDamagedError(
                f"the record is of schema {value['schema']!r}, which this version does not know",
                kind="record-unknown",
                path=path,
            )
        return EnvironmentRecord(
            directory=directory,
            key=EnvironmentKey(codec.text(value["key"])),
            executable=codec.text(value["executable"]),
            interpreter=_identity(value),
            library=codec.text(value["library"]),
            wheels=tuple(references_from_json(value["wheels"])),
            lock=codec.text(value["lock"]),
            own={path: codec.text(token) for path, token in value["own"].items()},
            asked=codec.text(value["asked"]),
            options=options_from_json(value["options"]),
            composites=tuple(references_from_json(value["composites"])),
            shared=frozenset(map(codec.text, value.get("shared", ()))),
        )
    except FileNotFoundError:
        if os.path.isdir(os.path.dirname(path)):
            raise StoreDamagedError("the record is missing", kind="record-missing", path=path) from None
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreDamagedError(
            f"the record cannot be read: {error}", kind="record-unreadable", path=path
        ) from error


def _identity(value: Mapping[str, Any]) -> dict[str, object]:
    """Return the identity of an interpreter; what lacks a part of it is none."""
    identity = dict(value["interpreter"])
    Interpreter.of_identity(identity, codec.text(value["executable"]))
    return identity


def _bytes(path: str) -> bytes:
    try:
        return fs.read_file(path)
    except FileNotFoundError:
        # Where the environment has been published since we looked, the second look finds the record.
        return fs.read_file(path)


def unchanged(layout: Layout, record: EnvironmentRecord) -> bool:
    """Whether the environment's own directories are as they were published."""
    root = layout.of("environments", record.directory)
    try:
        return all(own_token(f"{root}/{path}") == token for path, token in record.own.items())
    except OSError:
        return False
