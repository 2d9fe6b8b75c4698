"""Where everything in a store is, and what it is called. Pure: names only, nothing is touched.

::

    <store>/
      store.json                      format version, store id
      modules.jsonl                   memo: which distribution brought which module; see store.modules
      shared.json                     the stores that this one borrows from; see store.clients
      clients/<client>.json           what other stores borrow from this one; only where its owner has made it
      entries/<short>-<name>-<ver>/   an unpacked wheel, sealed
          site-packages/ data/ scripts/ headers/     the wheel, by scheme
          links/                                     ready-made inodes that environments hard-link
          bytecode/<cache tag>-<magic>.json          what has been compiled; the pycs are in __pycache__
          manifest.json                              everything that verify needs
          plan.json                                  the little that linking needs
      environments/<key>[.generation]/               a symlink farm; vrfstore.json inside is its record
      inputs/<digest>.json            memo: input → environment, stats
      requests/<digest>.json          memo: request → lock, time
      locks/<digest>.toml             pylock.toml files (PEP 751)
      interpreters/<digest>.json      what a probe said; <digest>/ the ready-made links to that python
      roots/<name>.json               pins, and the environments of projects
      external/<token>.json           environments elsewhere that refer to entries
      leases/<kind>.<id>.<key>[.…]    see store.leases
      holds/                          files that are only ever locked, never removed
      gc/                             run (hold), condemned or spare, ballast, repaired
      tmp/<id>.<random>               files on their way to a name
      logs/                           the resolver's own words, the compiler's; audit.log
      repairs/<entry>.json            what a repair has yet to do

In ``entries/`` and ``environments/`` a name that begins with a dot is not published: ``.new-<id>.<random>``
is being made by the holder of lease ``<id>``, ``.dead-<random>`` is being removed. The latter are in ``locks/`` and
``interpreters/`` as well.
"""

from __future__ import annotations

__all__ = [
    "BYTECODE",
    "DEAD_PREFIX",
    "DIGEST_LENGTHS",
    "FORMAT",
    "MEMO_SCHEMA",
    "SITE_PACKAGES",
    "STAGING_PREFIX",
    "Layout",
    "entry_directory",
    "environment_directory",
    "lease_until",
]

FORMAT = 3
"""The version of everything in this module's picture. Another one is refused."""

MEMO_SCHEMA = 2
"""The version of what is inside a memo. One of another version counts as not there."""

SITE_PACKAGES = "site-packages"
"""Purelib and platlib of an entry. Tools look for this name in a path to tell third-party code."""

BYTECODE = "bytecode"
"""The directory of an entry that has the records of its bytecode."""

STAGING_PREFIX = ".new-"
DEAD_PREFIX = ".dead-"

DIGEST_LENGTHS = (20, 28, 40, 64)
"""How many digits of its digest an entry's directory name begins with: the first that is no other wheel's."""

_NAME_LIMIT = 100

SUBDIRECTORIES = (
    "entries", "environments", "inputs", "requests", "locks", "interpreters", "roots", "external", "leases", "holds",
    "gc", "tmp", "logs", "repairs",
)  # fmt: skip


def lease_until(identity: str, key: str, boot: str, deadline: int, wall: int) -> str:
    """Return the name of a lease that ends at a time; see docs/on-disk-contract.md, "Lease".

    Args:
        identity: 16 random hexadecimal digits.
        key: That of an environment, or ``-``.
        boot: Names the boot that ``deadline`` counts from.
        deadline: When it ends, in seconds since then.
        wall: The same moment in seconds since the epoch.
    """
    return f"until.{identity}.{key}.{boot}.{deadline}.{wall}"


class Layout:
    """The paths of one store. A plain class, because the path of a hit needs it and dataclasses take 10 ms.

    Attributes:
        root: The store's absolute path.
    """

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = root

    def of(self, part: str, name: str = "") -> str:
        """Return the path of ``name`` in the part ``part``, or of the part itself."""
        return f"{self.root}/{part}/{name}" if name else f"{self.root}/{part}"

    @property
    def marker(self) -> str:
        """``store.json``."""
        return f"{self.root}/store.json"

    @property
    def modules(self) -> str:
        """``modules.jsonl``."""
        return f"{self.root}/modules.jsonl"

    @property
    def lenders(self) -> str:
        """``shared.json``."""
        return f"{self.root}/shared.json"

    @property
    def condemned(self) -> str:
        """The list of names that a gc is about to rename aside; almost always absent."""
        return f"{self.root}/gc/condemned"

    @property
    def ballast(self) -> str:
        """A file of nothing, which a gc removes first where the disk is full."""
        return f"{self.root}/gc/ballast"

    @property
    def repaired(self) -> str:
        """An empty file; its change time is when an entry was last exchanged for a sound one."""
        return f"{self.root}/gc/repaired"

    @property
    def audit(self) -> str:
        """What was asked of a closed gate (``runner.gate``); not taken by age, as other logs are."""
        return f"{self.root}/logs/audit.log"

    @property
    def audit_before(self) -> str:
        """The one before, which was put aside when it was large."""
        return f"{self.audit}.1"

    def lock(self, digest: str) -> str:
        """The lock of this digest."""
        return f"{self.root}/locks/{digest}.toml"

    def record(self, environment: str) -> str:
        """The record of the environment with this directory name; its mtime is the last use."""
        return f"{self.root}/environments/{environment}/vrfstore.json"


def entry_directory(digest: str, name: str, version: str, *, length: int = DIGEST_LENGTHS[0]) -> str:
    """Return the directory name of an entry: so many digits of its digest, then name and version for people.

    Args:
        digest: 64 hexadecimal digits.
        name: The project name in any form.
        version: The version.
        length: How many digits; more where a shorter name is another wheel's.
    """
    readable = f"{name.replace('-', '_')}-{version}"[:_NAME_LIMIT]
    return f"{digest[:length]}-{readable}"


def environment_directory(key: str, generation: int) -> str:
    """Return the directory name of a managed environment. The first generation, 0, has no suffix."""
    return key if generation == 0 else f"{key}.{generation}"
