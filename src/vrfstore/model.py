"""The values that pass between the parts: frozen, without behaviour that touches anything.

The words are those of docs/glossary.md; one meaning each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from vrfstore.errors import UsageError
from vrfstore.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NewType, TypeAlias

__all__ = [
    "Borrowed",
    "Digest",
    "EntryPlan",
    "EntryReference",
    "EnvironmentKey",
    "Event",
    "Interpreter",
    "Libraries",
    "LinkOptions",
    "Lock",
    "LockFile",
    "LockedWheel",
    "Node",
    "Requirement",
    "Requirements",
    "Tree",
    "Watcher",
    "both",
    "nobody",
    "parse_digest",
]

if TYPE_CHECKING:
    Digest = NewType("Digest", str)
    """The SHA-256 of a wheel file: 64 lower-case hexadecimal digits. Names an entry."""

    EnvironmentKey = NewType("EnvironmentKey", str)
    """Names a managed environment: 32 lower-case hexadecimal digits over wheels, interpreter and options."""
else:

    def Digest(text: str) -> str:  # noqa: D103, N802 - as typing's, which takes 2 ms to load
        return text

    EnvironmentKey = Digest

_HEX_64 = re.compile(r"[0-9a-f]{64}")


def parse_digest(text: str) -> Digest:
    """Return ``text`` as a digest.

    Raises:
        UsageError: ``text`` is not 64 hexadecimal digits.
    """
    lowered = text.lower()
    if not _HEX_64.fullmatch(lowered):
        raise UsageError(f"not a SHA-256 digest: {text!r}", kind="bad-digest")
    return Digest(lowered)


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """One requirement of a file, in canonical form.

    Attributes:
        name: The normalised project name (PEP 503).
        text: The canonical requirement (PEP 508) with its ``--hash`` options; what pip is given.
        line: The 1-based line of the file where it begins; None where a file has no lines to speak of.
        path: That file, where it is not the one that was given: ``-r`` led to it, or there are several.
    """

    name: str
    text: str
    line: int | None
    path: str = ""


@dataclass(frozen=True, slots=True)
class LockFile:
    """A ``pylock.toml`` (PEP 751) that was given instead of requirements, or beside them.

    What of it is meant depends on the interpreter, so its text is kept as it is.
    """

    path: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """What was asked for, by one file or by several together.

    Attributes:
        path: What to call it: the file that was given first.
        items: Sorted by text and without repetitions.
        constraints: What limits versions and brings nothing (``-c``), in the same way.
        locks: Files that say which wheels, sorted by path.
        files: The absolute paths of all files that have a say beside those that were given, sorted.
        extras: Of a project or a lock: the extras that are wanted, normalised and sorted.
        groups: Of a project or a lock: the dependency groups that are wanted, in the same way.
        requires_python: (path, specifier) of each file that says which Pythons it is for, sorted.
    """

    path: str
    items: tuple[Requirement, ...]
    constraints: tuple[Requirement, ...] = ()
    locks: tuple[LockFile, ...] = ()
    files: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    requires_python: tuple[tuple[str, str], ...] = ()

    @property
    def canonical(self) -> str:
        """The text that the request digest is over: one requirement a line, sorted and unique."""
        return "".join(f"{item.text}\n" for item in self.items)

    @property
    def canonical_constraints(self) -> str:
        """Constraints as ``canonical`` has requirements."""
        return "".join(f"{item.text}\n" for item in self.constraints)

    @property
    def identity(self) -> dict[str, object]:
        """What a request digest covers: whatever could change the outcome, and not how or where it is written."""
        return {
            "constraints": [item.text for item in self.constraints],
            "extras": list(self.extras),
            "groups": list(self.groups),
            "locks": sorted(lock.text for lock in self.locks),
            "requirements": [item.text for item in self.items],
            "requires_python": sorted({specifier for _, specifier in self.requires_python}),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Interpreter:
    """A base Python, as one probe saw it.

    Attributes:
        executable: The absolute path that was asked for.
        real: The real path of the root base executable (never inside a venv).
        version: ``X.Y.Z`` with any pre-release suffix, as ``platform.python_version()``.
        implementation: ``cpython``.
        cache_tag: The name that pycs carry, such as ``cpython-313`` (PEP 3147).
        abi_flags: ``t`` for a free-threaded build, else mostly empty (PEP 3149).
        magic: The magic number of its pycs, 8 hexadecimal digits.
        platform: As ``sysconfig.get_platform()``, such as ``linux-x86_64``.
        libc: The C library and its version, such as ``glibc 2.36`` or ``musl 1.2``; empty where unknown.
        prefix: The root base's ``sys.base_prefix``.
        virtual: Whether ``executable`` is itself a venv's.
        site_directories: Where its packages are, in the order of ``sys.path``.
        base: Its distributions as (normalised name, version), sorted.
        namespaces: The packages, dotted, that ``*-nspkg.pth`` files of the base make before anything is imported.
    """

    executable: str
    real: str
    version: str
    implementation: str
    cache_tag: str
    abi_flags: str
    magic: str
    platform: str
    libc: str = ""
    prefix: str
    virtual: bool
    site_directories: tuple[str, ...]
    base: tuple[tuple[str, str], ...]
    namespaces: tuple[str, ...] = ()

    @classmethod
    def of_identity(cls, identity: Mapping[str, object], executable: str) -> Interpreter:
        """Return an interpreter as far as its ``identity`` tells, which is as far as a plan asks.

        Args:
            identity: As a record holds it.
            executable: The path that was asked for.

        Raises:
            KeyError: Something is missing there.
        """
        directories, namespaces = identity["site_directories"], identity["namespaces"]
        return cls(
            executable=executable,
            real=str(identity["real"]),
            version=str(identity["version"]),
            implementation=str(identity["implementation"]),
            cache_tag=str(identity["cache_tag"]),
            abi_flags=str(identity["abi_flags"]),
            magic="",
            platform=str(identity["platform"]),
            prefix="",
            virtual=bool(identity["virtual"]),
            site_directories=tuple(map(str, directories)) if isinstance(directories, list) else (),
            base=(),
            namespaces=tuple(map(str, namespaces)) if isinstance(namespaces, list) else (),
        )

    @property
    def directory_name(self) -> str:
        """The name of its library directory: ``python3.11``, or ``python3.13t`` when free-threaded."""
        suffix = "t" if "t" in self.abi_flags else ""
        return f"python{self.short_version}{suffix}"

    @property
    def short_version(self) -> str:
        """``X.Y``."""
        return ".".join(self.version.split(".")[:2])

    @property
    def identity(self) -> dict[str, object]:
        """What an environment key covers: where it is, and what it is."""
        return {
            "abi_flags": self.abi_flags,
            "cache_tag": self.cache_tag,
            "implementation": self.implementation,
            "platform": self.platform,
            "real": self.real,
            "version": self.version,
            # What environments are told of the base by name: see ``linker.plan``.
            "virtual": self.virtual,
            "site_directories": list(self.site_directories),
            "namespaces": list(self.namespaces),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkOptions:
    """How an environment is linked; part of its key.

    Attributes:
        isolated: Packages of the base are not seen.
        user_site: The user's own packages (``~/.local``) are seen.
        prompt: What activation scripts show instead of the directory's name.
        allow_collisions: Where two wheels have different files at one place, the last by name wins.
        materialize: Normalised names, sorted: distributions that the environment has copies of. ``*`` alone
            means all.
    """

    isolated: bool = False
    user_site: bool = False
    prompt: str | None = None
    allow_collisions: bool = False
    materialize: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, object]:
        """What an environment key covers: whatever is not as usual."""
        values = {
            "allow_collisions": self.allow_collisions,
            "isolated": self.isolated,
            "materialize": list(self.materialize),
            "prompt": self.prompt,
            "user_site": self.user_site,
        }
        return {name: value for name, value in values.items() if value}


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedWheel:
    """One wheel of a lock.

    Attributes:
        name: The normalised project name.
        version: As the wheel's file name has it.
        filename: The wheel's file name (PEP 427).
        digest: Its SHA-256.
        url: Where it is: ``https:``, ``http:`` or ``file:``, without credentials. Of one that was built here, where
            its source distribution is.
        requires_python: Its Requires-Python, if it has one.
        size: Bytes of the file, where somebody said so.
        built_from: The SHA-256 of the source distribution that it was built from here; empty for one that was not.
    """

    name: str
    version: str
    filename: str
    digest: Digest
    url: str
    requires_python: str | None = None
    size: int | None = None
    built_from: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """The resolved set for one interpreter, sorted by name. What the base satisfies is not in it."""

    wheels: tuple[LockedWheel, ...]
    python: str = ""
    """The ``X.Y`` that it was resolved for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that a long step did, for whoever shows progress.

    Attributes:
        kind: ``resolving``, ``resolved``, ``waiting``, ``missing``, ``fetching``, ``received``,
            ``fetched``, ``unpacked``, ``linking``, ``compiling``, ``compiled`` or ``verified``.
        subject: What it is about: a file name, or whom one waits for.
        size: Bytes, where it makes sense (``received``: since the last event).
        total: Bytes expected, or the number of things expected; 0 where unknown.
    """

    kind: str
    subject: str = ""
    size: int = 0
    total: int = 0


Watcher = Callable[[Event], None]
"""Who is told of events. Called from several threads; must be quick and must not raise."""


def nobody(event: Event) -> None:
    """Be told and do nothing: the watcher where there is none."""
    del event


def both(one: Watcher, other: Watcher) -> Watcher:
    """Return a watcher that tells two others."""

    def tell(event: Event) -> None:
        one(event)
        other(event)

    return tell


Node: TypeAlias = "int | str | dict[str, Node]"
"""One name in a tree.

========  ==============================================================================================
``int``   a directory that is always whole: one link, ready-made as ``links/<int>`` in the entry
``str``   a file: ``""`` where the scheme has it at this very path, else its path inside the entry
``dict``  a directory that may be real, by name; if it has a key ``""``, that is the ready-made link to use
          where nobody else brings the same directory
========  ==============================================================================================
"""

Tree: TypeAlias = "dict[str, Node]"
"""What a directory holds, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryReference:
    """An entry as records name it.

    Attributes:
        digest: The wheel's digest.
        name: The normalised project name.
        version: Its version.
        directory: The name of its directory under ``entries/``.
    """

    digest: Digest
    name: str
    version: str
    directory: str


@dataclass(frozen=True, slots=True)
class Libraries:
    """What the shared libraries of a wheel ask of others, and what others may ask of them.

    Directories are as installed and relative to site-packages: ``torch/lib``, and ``../../../lib`` for what
    ``.data/data/lib`` becomes. The empty text is site-packages itself.

    Attributes:
        shipped: The names of its shared libraries by directory, but not of extension modules.
        needs: (directory, file name) of libraries that some file of it is linked against and would find in that
            directory through ``$ORIGIN``, where the wheel ships something, but not that; all others are escapes.
        escapes: Directories that it searches through ``$ORIGIN`` and ships nothing in; dlopen(3) may use them.
    """

    shipped: dict[str, tuple[str, ...]]
    needs: tuple[tuple[str, str], ...] = ()
    escapes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryPlan:
    """``plan.json``: the little that linking needs to know of an entry, read on every warm link.

    Attributes:
        reference: Digest, name, version and directory.
        dist_info: The name of its dist-info directory.
        tags: The wheel's tags, such as ``cp311-cp311-manylinux_2_28_x86_64``.
        requires_python: From METADATA, if it is there.
        unpacked: The bytes of all its files.
        trees: For each scheme directory (``site-packages``, ``data``, ``scripts``, ``headers``) its tree.
        record_links: How many of the first rows of the ready-made RECORD name directory links.
        record_ready: Whether that RECORD can be used as it is; not where a path in it depends on the
            interpreter, as those of headers do.
        libraries: Of its shared libraries, what decides whether it has to be merged with other wheels.
        members: Of a composite, the directory names of the entries that it is made of; else empty.
        claimed: Where only an archive says that this is what the wheel unpacks to: a digest of all its files.
            Such an entry serves nobody but who asks for this very claim.
        shared: Where its files are links: the absolute path of the entry in a shared store that they lead to
            (``store.shared``). It serves nobody but who asks for that store.
    """

    reference: EntryReference
    dist_info: str
    tags: tuple[str, ...]
    requires_python: str | None
    unpacked: int
    trees: dict[str, Tree]
    record_links: int
    record_ready: bool
    libraries: Libraries = Libraries({})
    members: tuple[str, ...] = ()
    claimed: str = ""
    shared: str = ""

    @property
    def identity(self) -> str:
        """What an environment key covers of an entry: its digest, and the claim or the shared store if there is one."""
        if self.shared:
            return f"{self.reference.digest}@{self.shared}"
        return f"{self.reference.digest}~{self.claimed}" if self.claimed else self.reference.digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Borrowed:
    """What a shared store has lent (``store.shared``).

    Attributes:
        plans: Our entries, by the digest of their wheel.
        tokens: What tells that all of it is still there, by path (``fs.stat_token``).
        warnings: Why something was not lent that might have been, in words.
    """

    plans: Mapping[Digest, EntryPlan] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
