"""What a resolver is given beside the request, and what it answers: the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from vrfstore import fs
from vrfstore.errors import RequirementsError, ResolutionError, WheelError
from vrfstore.model import Digest, Lock, Requirements, parse_digest
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.request import Request
from vrfstore.requirements.urls import without_credentials
from vrfstore.store.store import Store
from vrfstore.values import dataclass, field

__all__ = [
    "Attempt",
    "Resolver",
    "ResolverName",
    "Solution",
    "SourceFile",
    "check_hashes",
    "keep_words",
    "source_file",
]


ResolverName: TypeAlias = Literal["pip", "uv"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A source distribution that has to be built, since there is no wheel.

    Attributes:
        name: The normalised project name.
        version: Its version.
        filename: Its file name.
        url: Where it is, without credentials.
        digest: Its SHA-256.
    """

    name: str
    version: str
    filename: str
    url: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Solution:
    """What a resolver found: wheels, and what has to be built before it is one. Nothing that the base satisfies."""

    lock: Lock
    sources: tuple[SourceFile, ...] = ()

    @property
    def versions(self) -> dict[str, str]:
        """The version of each, by normalised name."""
        wheels = {wheel.name: wheel.version for wheel in self.lock.wheels}
        return wheels | {source.name: source.version for source in self.sources}

    def moved(self, base: Mapping[str, str], preferred: Mapping[str, str]) -> dict[str, str]:
        """Return the preferred versions of what comes before the base in another one."""
        return {
            name: preferred[name]
            for name, version in self.versions.items()
            if name in base and preferred.get(name, version) != version
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What one call of a resolver works with.

    Attributes:
        scratch: A directory for its files; removed by whoever made it.
        log: Where its own words are kept if it fails.
        constraints: What limits versions, one requirement a line.
        preferred: Versions to keep where they still fit, by normalised name.
        explained: What was asked and what limits it, for errors.
        fresh: Nothing counts that a resolver remembers of an index.
    """

    scratch: str
    log: str
    explained: Requirements
    constraints: str = ""
    preferred: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False


Resolver: TypeAlias = Callable[[Store, Request, Attempt, Budget], Solution]
"""Finds the wheels of a request.

It raises ``ResolutionError`` where there are none, ``PackageIndexError`` where the index does not answer,
``WheelError`` where a hash does not match, and ``CapError`` where the time is over.
"""


def source_file(name: str, version: str, url: str, digest: str | None) -> SourceFile:
    """Return a source distribution by what a resolver says of it.

    Raises:
        ResolutionError: There is no SHA-256.
    """
    filename = unquote(urlsplit(url).path.rpartition("/")[2])
    if not digest:
        raise no_hash(filename)
    return SourceFile(
        name=name,
        version=version,
        filename=filename,
        url=without_credentials(url),
        digest=parse_digest(digest),
    )


def no_hash(filename: str) -> ResolutionError:
    """Return the error for a file of which the index does not say what its bytes are."""
    return ResolutionError(
        f"the index gives no SHA-256 for {filename}",
        kind="no-hash",
        hint="use an index that publishes hashes",
    )


def check_hashes(requirements: Requirements, lock: Lock) -> None:
    """Hold wheels against the hashes that were asked for, as pip does: once one has hashes, all must.

    Raises:
        RequirementsError: Something has none.
        WheelError: Something has another.
    """
    wanted = {item.name: _hashes(item.text) for item in requirements.items}
    if not any(wanted.values()):
        return
    for wheel in lock.wheels:
        hashes = wanted.get(wheel.name, frozenset())
        item = next((item for item in requirements.items if item.name == wheel.name), None)
        path = (item.path if item is not None else "") or requirements.path
        line = None if item is None else item.line
        if not hashes:
            who = wheel.name if item is not None else f"{wheel.name}, which another requirement brings,"
            raise RequirementsError(
                f"{who} has no --hash, but others have",
                kind="requirement-hash",
                path=path,
                line=line,
                hint="write a hash and an exact version for everything, dependencies too, or for nothing",
            )
        if wheel.digest not in hashes:
            shown = ", ".join(f"{value[:12]}…" for value in sorted(hashes))
            error = WheelError(
                f"the wheel of {wheel.name} has another hash ({wheel.digest[:12]}…) than the file asks for ({shown})",
                kind="hash-mismatch",
                path=path,
                hint="if the version was changed on purpose, write its own hash",
            )
            error.line = line
            raise error


def _hashes(text: str) -> frozenset[str]:
    return frozenset(
        word.partition("sha256:")[2] for word in text.split() if word.startswith("--hash=sha256:")
    )


def keep_words(words: str, log: str) -> str | None:
    """Keep what a resolver said, in full; return where, or None where that was not possible."""
    try:
        fs.remove_file(log)
        fs.write_file(log, words.encode(errors="replace"))
    except OSError:
        return None
    return log
