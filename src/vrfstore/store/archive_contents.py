"""What is in an archive: its first member, in the one form that there is for each content. Pure: values only."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from vrfstore import codec
from vrfstore.errors import WheelError
from vrfstore.model import Digest, LinkOptions
from vrfstore.store.wheel import parse_filename, problem_with_name
from vrfstore.values import asdict, dataclass, field

__all__ = [
    "CONTENTS",
    "ArchivedEntry",
    "ArchivedEnvironment",
    "ArchivedLock",
    "Contents",
    "FormatError",
    "Target",
    "check_digest",
    "check_number",
    "name_problem",
]

_FORMAT = "vrfstore-archive"
_SCHEMA = 2

CONTENTS = "vrfstore-archive.json"
"""The name of the first member."""

_LARGEST = 1 << 60
"""Bytes. A larger number in an archive is nonsense."""

_LONGEST_PROMPT = 1000
"""Characters."""


class FormatError(Exception):
    """An archive says what it may not. ``member`` names what is to blame, if it is one member."""

    def __init__(self, message: str, member: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.member = member


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivedEntry:
    """An entry of an archive: either its own files, or its wheel.

    Attributes:
        digest: The wheel's SHA-256.
        name: Its normalised name.
        version: Its version.
        filename: The wheel's file name.
        tree: What all its own files come to, see ``tree_digest``; empty where the wheel comes instead.
        manifest: Bytes of its manifest; 0 where the wheel comes instead.
        size: Bytes of its own files together, or of the wheel.
    """

    digest: Digest
    name: str
    version: str
    filename: str
    tree: str
    manifest: int
    size: int

    @property
    def wheel_member(self) -> str:
        """The name of the member that is the wheel itself, where there is one."""
        return f"entries/{self.digest}/{self.filename}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivedLock:
    """A lock of an archive: the SHA-256 of its text, and bytes."""

    digest: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What an interpreter has to be for an environment: what wheels are built for, and not where it is.

    Attributes:
        implementation: ``cpython``.
        python: ``X.Y``. Releases of one X.Y have one ABI (PEP 387), so that X.Y.Z does not matter.
        cache_tag: Such as ``cpython-313`` (PEP 3147).
        abi_flags: ``t`` for a free-threaded build, else mostly empty.
        platform: As ``sysconfig.get_platform()``.
    """

    implementation: str
    python: str
    cache_tag: str
    abi_flags: str
    platform: str

    @classmethod
    def of(cls, identity: Mapping[str, object]) -> Target:
        """Return what an interpreter's identity, as environments record it, comes to elsewhere."""
        return cls(
            implementation=str(identity["implementation"]),
            python=".".join(str(identity["version"]).split(".")[:2]),
            cache_tag=str(identity["cache_tag"]),
            abi_flags=str(identity["abi_flags"]),
            platform=str(identity["platform"]),
        )

    def __str__(self) -> str:
        return f"{self.implementation} {self.python}{self.abi_flags} on {self.platform}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchivedEnvironment:
    """An environment of an archive.

    Attributes:
        target: What it was linked for.
        lock: The digest of its lock.
        wheels: Those of its wheels.
        options: How it was linked.
    """

    target: Target
    lock: str
    wheels: tuple[Digest, ...]
    options: LinkOptions = field(default_factory=LinkOptions)

    def check_options(self, names: Collection[str]) -> None:
        """Check that it can have been linked like that.

        Args:
            names: Those of its wheels.

        Raises:
            FormatError: It cannot.
        """
        options = self.options
        flags = (options.isolated, options.user_site, options.allow_collisions)
        if any(type(flag) is not bool for flag in flags) or (options.isolated and options.user_site):
            raise FormatError("an environment has options that make no sense", CONTENTS)
        _check_prompt(options.prompt)
        _check_copies(options.materialize, names)


def _check_copies(copied: Sequence[object], names: Collection[str]) -> None:
    if any(not isinstance(name, str) or name not in names for name in copied):
        raise FormatError("an environment has copies of wheels that it does not have", CONTENTS)
    _check_order(copied)


def _check_prompt(prompt: object) -> None:
    if prompt is None:
        return
    if not isinstance(prompt, str) or not 0 < len(prompt) <= _LONGEST_PROMPT or not prompt.isprintable():
        raise FormatError("an environment has a prompt that cannot be shown", CONTENTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """All that is in an archive, each kind in the order of ``sorted``: the first member."""

    entries: tuple[ArchivedEntry, ...]
    environments: tuple[ArchivedEnvironment, ...] = ()
    locks: tuple[ArchivedLock, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the first member's content."""
        return codec.dumps(
            {
                "format": _FORMAT,
                "schema": _SCHEMA,
                "entries": [asdict(entry) for entry in self.entries],
                "environments": [asdict(environment) for environment in self.environments],
                "locks": [asdict(lock) for lock in self.locks],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Contents:
        """Return what the first member of an archive says.

        Raises:
            FormatError: It is of another schema, not in the one form there is, or does not make sense.
        """
        try:
            value = codec.loads(data)
            if value["format"] == _FORMAT and value["schema"] != _SCHEMA:
                raise FormatError(
                    f"it is of schema {value['schema']!r}; this version knows {_SCHEMA}", CONTENTS
                )
            contents = cls(
                entries=tuple(ArchivedEntry(**entry) for entry in value["entries"]),
                environments=tuple(map(_environment, value["environments"])),
                locks=tuple(ArchivedLock(**lock) for lock in value["locks"]),
            )
            # Whatever is there too, twice, or a 1.0 or true for a 1, would be written in another way.
            known = contents.to_bytes() == data
        except (ValueError, KeyError, TypeError, AttributeError, UnicodeError) as error:
            raise FormatError(f"it cannot be read: {type(error).__name__}", CONTENTS) from error
        if not known:
            raise FormatError("it is not in the form that vrfstore writes", CONTENTS)
        contents.check()
        return contents

    def check(self) -> None:
        """Check that everything is of its type, in order, and refers to what is there.

        Raises:
            FormatError: It is not.
        """
        for entry in self.entries:
            _check_entry(entry)
        for lock in self.locks:
            check_digest(lock.digest)
            check_number(lock.size)
        _check_order([_entry_order(entry) for entry in self.entries])
        _check_order([lock.digest for lock in self.locks])
        digests = {entry.digest: entry.name for entry in self.entries}
        if len(digests) != len(self.entries):
            raise FormatError("it has one wheel twice", CONTENTS)
        for environment in self.environments:
            if any(not isinstance(text, str) for text in asdict(environment.target).values()):
                raise FormatError("an environment is for no interpreter", CONTENTS)
            for digest in (environment.lock, *environment.wheels):
                check_digest(digest)
            _check_order(environment.wheels)
            if not digests.keys() >= set(environment.wheels):
                raise FormatError("an environment has wheels that are not in the archive", CONTENTS)
            environment.check_options(frozenset(digests[digest] for digest in environment.wheels))
        _check_order([_environment_order(environment) for environment in self.environments])
        if {environment.lock for environment in self.environments} != {lock.digest for lock in self.locks}:
            raise FormatError("the locks are not those of the environments", CONTENTS)

    @classmethod
    def of(
        cls,
        entries: Iterable[ArchivedEntry],
        environments: Iterable[ArchivedEnvironment],
        locks: Iterable[ArchivedLock],
    ) -> Contents:
        """Return contents in their order, everything once."""
        return cls(
            entries=tuple(sorted(set(entries), key=_entry_order)),
            environments=tuple(sorted(set(environments), key=_environment_order)),
            locks=tuple(sorted(set(locks), key=lambda lock: lock.digest)),
        )


def _environment(value: Mapping[str, Any]) -> ArchivedEnvironment:
    options = value["options"]
    return ArchivedEnvironment(
        target=Target(**value["target"]),
        lock=value["lock"],
        wheels=tuple(value["wheels"]),
        options=LinkOptions(**{**options, "materialize": tuple(options["materialize"])}),
    )


def _entry_order(entry: ArchivedEntry) -> tuple[str, str, str]:
    return entry.name, entry.version, entry.digest


def _environment_order(environment: ArchivedEnvironment) -> tuple[object, ...]:
    target, options = environment.target, environment.options
    how = (options.isolated, options.user_site, options.prompt or "", options.allow_collisions)
    return environment.lock, tuple(asdict(target).values()), environment.wheels, how, options.materialize


def _check_order(keys: Sequence[Any]) -> None:
    if any(first >= second for first, second in itertools.pairwise(keys)):
        raise FormatError("it is not in order, or has something twice", CONTENTS)


def _check_entry(entry: ArchivedEntry) -> None:
    check_digest(entry.digest)
    check_number(entry.manifest)
    check_number(entry.size)
    if entry.tree != "":  # whatever else is false is no digest either
        check_digest(entry.tree)
    if bool(entry.tree) is not (entry.manifest > 0):
        raise FormatError("an entry comes neither as its files nor as its wheel", CONTENTS)
    problem = name_problem(entry.filename)
    if problem or "/" in entry.filename:
        raise FormatError(f"the file name {entry.filename!r} {problem or 'is none'}", CONTENTS)
    try:
        name, version, _ = parse_filename(entry.filename)
    except WheelError as error:
        raise FormatError(error.message, CONTENTS) from error
    if (entry.name, entry.version) != (str(name), str(version)):
        raise FormatError(f"{entry.filename} is not the wheel of {entry.name!r} {entry.version!r}", CONTENTS)


def check_digest(text: object) -> None:
    """Check that this is a SHA-256.

    Raises:
        FormatError: It is not.
    """
    if not isinstance(text, str) or len(text) != 64 or set(text) - set("0123456789abcdef"):  # noqa: PLR2004
        raise FormatError(f"{text!r} is no SHA-256", CONTENTS)


def check_number(number: object) -> None:
    """Check that this is a number of bytes.

    Raises:
        FormatError: It is not.
    """
    if type(number) is not int or not 0 <= number <= _LARGEST:  # True is an int
        raise FormatError(f"{number!r} is no size", CONTENTS)


def name_problem(name: object) -> str | None:
    """Say what is wrong with the path of a file, if anything is: what may not be in a wheel may not be here."""
    if not isinstance(name, str):
        return "is no text"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has half a character in its name"
    return "is a directory" if name.endswith("/") else problem_with_name(name)
