"""Reading what a failed pip said: its messages on stderr, and its log, which has more."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)

from vrfstore.requirements import pip
from vrfstore.requirements.failures import (
    Conflict,
    Demand,
    DiskFull,
    Failure,
    HashMismatch,
    HashMissing,
    NoVersion,
    NoWheel,
    OtherPython,
    PackageMissing,
    Unexplained,
    Unreachable,
    accepts,
    contested,
    project,
    version_key,
)
from vrfstore.values import dataclass, replace

__all__ = ["failure"]

_FULL = re.compile(r"\[Errno (?:28|122)\] [\w ]+")
_TROUBLE = re.compile(
    r"connection|timed? ?out|resolve host|HTTP error|SSLError|ProxyError|Could not fetch URL|EOFError: EOF when",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"(\[Errno [-\d]+\] [\w -]+?|\d{3} (?:Client|Server) Error: [\w ]+?)(?= for url| - |[^\w -]|$)",
    re.MULTILINE,
)
_CAUSES = (
    ("proxy", re.compile(r"ProxyError|proxy connection error|Proxy Authentication", re.IGNORECASE)),
    ("certificate", re.compile(r"ssl certificate|SSLCertVerification|CERTIFICATE_VERIFY", re.IGNORECASE)),
    ("credentials", re.compile(r"\b40[13] (?:Client )?Error|EOFError: EOF when reading a line")),
    ("time", re.compile(r"timed? ?out|didn't respond within", re.IGNORECASE)),
)

_TAKEN = re.compile(r"\s*(?:Collecting|Requirement already satisfied:) (\S+).*? \(from ([^()]*->.*|[^()]*)")

_SKIPPED = re.compile(
    r"none of the wheel's tags \((?P<tags>.*?)\) .*?: (?P<wheel>\S+://\S+)"
    r"|No sources permitted for \S+: (?P<source>\S+)"
    r"|requires a different Python \(.*? not in: '(?P<needs>.*?)'\): (?P<other>\S+)"
    r"|Found link (?P<found>\S+) .*version: "
)
"""What pip logs of a file that it has seen: one that does not fit, or one that does."""


class _File(NamedTuple):
    """A file that pip has seen on the index.

    Attributes:
        project: The normalised name.
        version: Its version.
        fault: ``tags``, ``source`` or ``python``; empty where it fits.
        needs: The Pythons that it is for, where that is the fault.
    """

    project: str
    version: str
    fault: str
    needs: str


@dataclass(frozen=True, slots=True)
class _Words:
    """What pip said.

    Attributes:
        stderr: Its messages.
        log: Its whole log, each line without the time.
        askers: For each project that pip took, who asks for it: projects from the one that the file names.
    """

    stderr: str
    log: tuple[str, ...]
    askers: dict[str, tuple[str, ...]]


def failure(stderr: str, log: str) -> Failure:
    """Sort what a failed pip said.

    Args:
        stderr: Its messages.
        log: Its whole log.
    """
    lines = tuple(re.sub(r"^\d\S+ ", "", line).rstrip() for line in log.splitlines())
    words = _Words(stderr, lines, _askers(lines))
    full = _FULL.search(f"{stderr}\n{log}")
    if full is not None:
        return DiskFull(reason=full[0])
    if "DO NOT MATCH THE HASHES" in stderr:
        return _hash_mismatch(stderr)
    if "--require-hashes mode" in stderr:
        named = re.search(r"^    ([\w.-]+)", stderr, re.MULTILINE)
        return HashMissing(project=project(named[1]) if named else "")
    missing = re.search(r"No matching distribution found for (\S+)", stderr)
    if missing is not None:
        return _unmatched(_demand(missing[1], stderr, words), words)
    if "ResolutionImpossible" in stderr:
        return _conflict(words)
    other = re.search(r"Package '(\S+)' requires a different Python: \S+ not in '(.*)'", stderr)
    if other is not None:
        return _unsuitable_metadata(project(other[1]), other[2], words)
    if _TROUBLE.search(stderr):
        return _unreachable(words)
    return Unexplained(words=f"pip failed: {pip.last_line(stderr)}")


# --- who asks


def _askers(lines: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read ``Collecting NAME (from NEAREST->FARTHEST->-r FILE (line 3))``."""
    found: dict[str, tuple[str, ...]] = {}
    for line in lines:
        taken = _TAKEN.match(line)
        if taken is not None:
            steps = [step for step in taken[2].split("->") if not step.startswith(("-r ", "-c "))]
            found.setdefault(project(taken[1]), tuple(project(step) for step in reversed(steps)))
    return found


def _chain(asker: str, words: _Words) -> tuple[str, ...]:
    return (*words.askers.get(asker, ()), asker)


def _demand(wanted: str, stderr: str, words: _Words) -> Demand:
    """Return what pip names as ``NAME>=1``, which ``(from OTHER)`` may follow."""
    origin = re.search(rf"requirement {re.escape(wanted)} \(from (?!versions)([^)\s]+)\)", stderr)
    return Demand(
        project=project(wanted),
        specifier=_specifier(wanted),
        chain=_chain(project(origin[1]), words) if origin is not None else (),
    )


def _specifier(wanted: str) -> str:
    return re.sub(r"^[\w.-]+(\[[^\]]*\])?\s*", "", wanted.strip()).partition(";")[0].strip()


# --- nothing that fits


def _unmatched(demand: Demand, words: _Words) -> Failure:
    """Tell why nothing of a project satisfies a demand: pip has the same message for all reasons."""
    listed = re.search(r"\(from versions: ([^)]*)\)", words.stderr)
    known = [] if listed is None or listed[1] == "none" else listed[1].split(", ")
    if not known and _unanswered(demand.project, words):
        return _unreachable(words)
    files = [file for file in _files(words) if file.project == demand.project]
    versions = tuple(known or sorted({file.version for file in files if not file.fault}, key=version_key))
    wanted = [file for file in files if file.fault and accepts(demand.specifier, file.version)]
    wanted.sort(key=lambda file: version_key(file.version))
    others = [file for file in wanted if file.fault == "python"]
    if others and others[-1].version == wanted[-1].version:
        return OtherPython(
            demand=demand, version=others[-1].version, needs=others[-1].needs, versions=versions
        )
    if wanted:
        source = any(file.fault == "source" for file in wanted)
        return NoWheel(demand=demand, version=wanted[-1].version, source=source, versions=versions)
    yanked = _yanked(demand, words.stderr)
    if versions or yanked or files:
        return NoVersion(demand=demand, versions=versions, yanked=yanked)
    return PackageMissing(demand=demand)


def _yanked(demand: Demand, stderr: str) -> str:
    listed = re.search(r"Ignored the following yanked versions: (.*)", stderr)
    fitting = (
        [] if listed is None else [item for item in listed[1].split(", ") if accepts(demand.specifier, item)]
    )
    return max(fitting, key=version_key, default="")


def _unanswered(name: str, words: _Words) -> bool:
    """Tell whether an index failed, so that nobody knows what it has."""
    pages = [line for line in words.log if f"/{name}/" in line or line.endswith(f"/{name}")]
    absent = any("404 Client Error" in line for line in pages)
    failed = [line for line in (pages if absent else words.log) if "Could not fetch URL" in line]
    if not absent:
        failed += [line for line in words.log if "Retrying (" in line]
    return any("404 Client Error" not in line for line in failed)


def _files(words: _Words) -> Iterator[_File]:
    for line in words.log:
        seen = _SKIPPED.search(line)
        if seen is None:
            continue
        fault = {"wheel": "tags", "source": "source", "other": "python"}.get(seen.lastgroup or "", "")
        url = seen["wheel"] or seen["source"] or seen["other"] or seen["found"]
        named = _named(url)
        if named is not None:
            yield _File(*named, fault, seen["needs"] or "")


def _named(url: str) -> tuple[str, str] | None:
    """Return project and version of the file behind a URL."""
    try:
        filename = unquote(urlsplit(url).path.rpartition("/")[2])
        if filename.endswith(".whl"):
            name, version, _, _ = parse_wheel_filename(filename)
        else:
            name, version = parse_sdist_filename(filename)
    except (InvalidWheelFilename, InvalidSdistFilename, ValueError):
        return None
    return name, str(version)


def _unsuitable_metadata(name: str, needs: str, words: _Words) -> Failure:
    """Return the failure of a version whose METADATA alone said which Pythons it is for."""
    tried = [
        line.strip().removeprefix(f"{name} ").partition(" ")[0]
        for line in words.log
        if re.match(rf"\s+{re.escape(name)} \S+ depends on Python ", line)
    ]
    demand = Demand(project=name, chain=words.askers.get(name, ()))
    return OtherPython(demand=demand, version=max(tried, key=version_key, default=""), needs=needs)


# --- contradictions


def _conflict(words: _Words) -> Failure:
    """Read what pip lists in its log after ``The conflict is caused by:``."""
    lines = [line.strip() for line in words.log]
    causes = _demands(_after(lines, "The conflict is caused by:"), words)
    # Of each project it lists the version that it tried last, which is the oldest. What it said before of newer ones
    # is what they ask for.
    known = {(cause.chain[-1:], cause.project) for cause in causes if cause.chain}
    earlier = (cause for cause in _demands(lines, words) if (cause.chain[-1:], cause.project) in known)
    sides = contested([*causes, *earlier])
    if len({side.chain[-1:] or side.specifier for side in sides}) == 1:
        # Several versions of one project want what cannot be had, or one constraint allows nothing that is there.
        return _unmatched(sides[0], replace(words, stderr=""))
    return Conflict(demands=sides)


def _demands(lines: Sequence[str], words: _Words) -> list[Demand]:
    return [demand for line in lines if (demand := _cause(line, words)) is not None]


def _cause(line: str, words: _Words) -> Demand | None:
    """Return the demand behind ``The user requested X`` or ``NAME VERSION depends on X``."""
    asked = re.fullmatch(r"The user requested (\(constraint\) )?(\S.*)", line)
    if asked is not None:
        return Demand(
            project=project(asked[2]), specifier=_specifier(asked[2]), constraint=asked[1] is not None
        )
    needed = re.fullmatch(r"(\S+) (\S+) depends on (\S.*)", line)
    if needed is None:
        return None
    return Demand(
        project=project(needed[3]),
        specifier=_specifier(needed[3]),
        chain=_chain(project(needed[1]), words),
        version=needed[2],
    )


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


# --- hashes, and the way to the index


def _hash_mismatch(stderr: str) -> HashMismatch:
    line = next(
        (line.strip() for line in stderr.splitlines() if " from http" in line or " from file" in line), ""
    )
    return HashMismatch(
        project=project(line),
        expected=tuple(dict.fromkeys(re.findall(r"Expected\s+(?:sha\d+|or) (\w+)", stderr))),
        got=tuple(dict.fromkeys(re.findall(r"Got\s+(\w+)", stderr))),
    )


def _unreachable(words: _Words) -> Unreachable:
    # An index that answers that it does not have it is not the one that failed.
    log = (line for line in words.log if "404 Client Error" not in line)
    text = "\n".join((words.stderr, *log))
    reason = _REASON.search(text)
    cause = next((cause for cause, pattern in _CAUSES if pattern.search(text)), "")
    return Unreachable(reason=reason[1].strip() if reason else "", cause=cause)
