"""Saying in the words of whoever wrote the requirements what a resolver said when it failed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from packaging.utils import canonicalize_name

from vrfstore.errors import (
    DiskFullError,
    PackageIndexError,
    RequirementsError,
    ResolutionError,
    VrfstoreError,
    WheelError,
)
from vrfstore.model import Interpreter, Requirement, Requirements
from vrfstore.requirements import pip
from vrfstore.requirements.targets import Target

__all__ = ["resolution_error"]

_VERSIONS_SHOWN = 5

_UNSUITABLE = re.compile(r"none of the wheel's tags|No sources permitted|requires a different Python")
"""What pip logs of a file that is there, but not for us."""


def resolution_error(
    stderr: str, log: str, requirements: Requirements, interpreter: Interpreter
) -> VrfstoreError:
    """Sort what a failed pip said into one error.

    Args:
        stderr: Its messages.
        log: Its whole log.
        requirements: What was asked; gives the line to blame.
        interpreter: For whom.
    """
    full = re.search(r"\[Errno (28|122)\] [\w ]+", f"{stderr}\n{log}")
    if full is not None:
        return DiskFullError(
            f"pip has no room: {full[0]}", hint="free some space, for instance with: vrfstore gc"
        )
    if "DO NOT MATCH THE HASHES" in stderr:
        return _hash_error(stderr, requirements)
    if "--require-hashes mode" in stderr:
        return _hash_missing(stderr, requirements)
    missing = re.search(r"No matching distribution found for (\S+)", stderr)
    if missing is not None:
        return _missing(missing[1], stderr, log, requirements, interpreter)
    if "ResolutionImpossible" in stderr:
        return _conflict(log, requirements)
    if re.search(
        r"connection|timed? ?out|resolve host|HTTP error|SSLError|ProxyError", stderr, re.IGNORECASE
    ):
        return _unreachable(stderr, log)
    return ResolutionError(f"pip failed: {pip.last_line(stderr)}")


def _named(requirements: Requirements, name: str) -> Requirement | None:
    wanted = canonicalize_name(re.split(r"[\s\[<>=!~;@(]", name, maxsplit=1)[0])
    return next((item for item in requirements.items if item.name == wanted), None)


def _missing(
    wanted: str, stderr: str, log: str, requirements: Requirements, interpreter: Interpreter
) -> VrfstoreError:
    name = canonicalize_name(re.split(r"[\[<>=!~;@]", wanted, maxsplit=1)[0])
    pages = [line for line in log.splitlines() if f"/{name}" in line]
    absent = any("404 Client Error" in line for line in pages)
    broken = [line for line in log.splitlines() if re.search(r"Could not fetch URL|Retrying \(", line)]
    if not absent and any("404 Client Error" not in line for line in broken):
        return _unreachable(stderr, log)
    item = _named(requirements, name)
    origin = re.search(rf"requirement {re.escape(wanted)} \(from (?!versions)([^)]+)\)", stderr)
    brought = f", which {origin[1]} needs," if origin is not None and item is None else ""
    line = item.line if item is not None else None
    path = requirements.path
    listed = re.search(r"\(from versions: ([^)]*)\)", stderr)
    versions = [] if listed is None or listed[1] == "none" else listed[1].split(", ")
    if versions:
        shown = ", ".join(versions[-_VERSIONS_SHOWN:])
        return ResolutionError(
            f"no version of {name}{brought} satisfies {wanted}; the newest for this Python are: {shown}",
            kind="no-version",
            path=path,
            line=line,
            hint=f"ask for one that exists, as in: {name}=={versions[-1]}",
        )
    skipped = (_normal(line) for line in log.splitlines() if _UNSUITABLE.search(line))
    if any(re.search(rf"(^|[^a-z0-9-]){re.escape(name)}-\d", line) for line in skipped):
        target = isinstance(interpreter, Target)
        libc = f" with {interpreter.libc}" if target else ""
        return ResolutionError(
            f"{name}{brought} has no wheel for Python {interpreter.version} on {interpreter.platform}{libc}",
            kind="no-wheel",
            path=path,
            line=line,
            hint="choose another version or package; vrfstore installs wheels only"
            + ("; if the target's C library is newer, say so in its file" if target else ""),
        )
    return ResolutionError(
        f"there is no package {name} on the index{brought.rstrip(',')}",
        kind="package-missing",
        path=path,
        line=line,
        hint="check the spelling of the name",
    )


def _normal(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def _conflict(log: str, requirements: Requirements) -> ResolutionError:
    """Name both sides: pip lists them in its log after ``The conflict is caused by:``."""
    lines = [re.sub(r"^\S+ ", "", line).strip() for line in log.splitlines()]
    causes = _after(lines, "The conflict is caused by:")
    sides = "; ".join(cause.replace("The user requested", "the file asks for") for cause in causes)
    blamed = [item for cause in causes if (item := _blamed(requirements, cause)) is not None]
    return ResolutionError(
        "the requirements contradict each other" + (f": {sides}" if sides else ""),
        kind="conflict",
        path=requirements.path,
        line=min((item.line for item in blamed if item.line is not None), default=None),
        hint="loosen or remove one of them",
    )


def _blamed(requirements: Requirements, cause: str) -> Requirement | None:
    """Return the requirement behind ``The user requested X`` or ``NAME VERSION depends on X``."""
    _, requested, text = cause.partition("The user requested ")
    exact = next((item for item in requirements.items if requested and item.text == text), None)
    return exact or _named(requirements, text if requested else cause.partition(" ")[0])


def _after(lines: Sequence[str], heading: str) -> list[str]:
    if heading not in lines:
        return []
    start = lines.index(heading) + 1
    found: list[str] = []
    for line in lines[start:]:
        if not line or line.startswith(("To fix", "Additionally")):
            break
        found.append(line)
    return found


def _hash_error(stderr: str, requirements: Requirements) -> WheelError:
    line = next(
        (line.strip() for line in stderr.splitlines() if " from http" in line or " from file" in line), ""
    )
    name = line.split("=")[0].split()[0] if line else ""
    expected = _values(stderr, r"Expected\s+(?:sha\d+|or) (\w+)")
    got = _values(stderr, r"Got\s+(\w+)")
    item = _named(requirements, name) if name else None
    error = WheelError(
        f"the wheel of {name or 'a package'} has another hash ({got}) than the file asks for ({expected})",
        kind="hash-mismatch",
        path=requirements.path,
        hint="if the version was changed on purpose, write its own hash",
    )
    error.line = item.line if item is not None else None
    return error


def _hash_missing(stderr: str, requirements: Requirements) -> RequirementsError:
    """Say what lacks a hash: where one requirement has hashes, pip wants them of everything."""
    item = next((found for found in requirements.items if "--hash=" not in found.text), None)
    if item is not None:
        name = item.name
    else:
        named = re.search(r"^    ([\w.-]+)", stderr, re.MULTILINE)
        name = f"{named[1]}, which another requirement brings," if named else "a dependency"
    return RequirementsError(
        f"{name} has no --hash, but others have",
        kind="requirement-hash",
        path=requirements.path,
        line=item.line if item is not None else None,
        hint="write a hash and an exact version for everything, dependencies too, or for nothing",
    )


def _values(text: str, pattern: str) -> str:
    return ", ".join(f"{value[:12]}…" for value in _unique(re.findall(pattern, text))) or "none"


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _unreachable(stderr: str, log: str) -> PackageIndexError:
    reason = re.search(
        r"(\[Errno [-\d]+\] [\w -]+?|\d{3} (?:Client|Server) Error: [\w ]+?)(?= for url| - |[^\w -]|$)",
        f"{stderr}\n{log}",
        re.MULTILINE,
    )
    return PackageIndexError(
        f"the package index did not answer{f': {reason[1].strip()}' if reason else ''}",
        kind="index-unreachable",
        hint="check the network, the proxy and pip's configuration (pip config list)",
    )


def uv_error(stderr: str, requirements: Requirements, interpreter: Interpreter) -> VrfstoreError:
    """Stand-in until the words of uv are sorted."""
    del requirements, interpreter
    return ResolutionError(f"uv failed: {pip.last_line(stderr)}")
