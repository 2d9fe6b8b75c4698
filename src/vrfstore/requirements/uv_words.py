"""Reading what a failed ``uv pip compile`` said: a proof, in sentences, that nothing satisfies the requirements.

Each sentence is ``Because A and B, we can conclude that C``. Only the premises that are no earlier conclusions say
something of the index and of the requirements; those are taken as facts, and the failure is found among them.
uv 0.9 breaks lines at 80 columns and draws a tree beside them, later ones do neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

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
    newest,
    project,
    same_specifier,
    version_key,
)
from vrfstore.values import dataclass

__all__ = ["failure"]

_DECORATION = re.compile(
    r"\x1b\[[0-9;]*m|^\s*(?:[\xd7│╰├─▶]+\s*)+|^\s*(?:error|cause|Caused by|help):\s*", re.MULTILINE
)
_HINT = re.compile(r"^\s*hint: ", re.MULTILINE)

_NAME = r"(?:[a-z0-9]+(?:-[a-z0-9]+)*)(?:\[[a-z0-9,-]+\])?"
_RANGE = r"(?:(?:[<>=!~]=?|===)[^\s,<>=!~]+(?:,(?:[<>=!~]=?)[^\s,<>=!~]+)*)?"
_END = r"(?=[\s,]|$)"
_TERM = rf"(?!all versions|only |there |you |we |one of)({_NAME})({_RANGE}){_END}"
_VERB = r"depends?|requires?|is|are|has|have|was|were"
_TERMS = rf"(?:one of: )?{_TERM}(?:(?: and)?(?: one of:)? {_TERM}(?! (?:{_VERB})\b))*"

_PREMISES = re.compile(r"\b[Bb]ecause (.*?),? we can conclude that|(\byou require .*)")
_CONCLUDED = re.compile(
    r"we know from .*?(?= and [^,]*? (?:depends? on|(?:is|are) available|was|has|have) | and you require |$)"
)
_ASKED = re.compile(rf"\byou require {_TERMS}")
_NEEDED = re.compile(rf"(?:all versions of )?{_TERM} depends? on {_TERMS}")
_PYTHON = re.compile(rf"(?:all versions of )?{_TERM} (?:depends? on|requires?) Python ?({_RANGE})")
_ABSENT = re.compile(rf"{_TERM} (?:was|were) not found in the (?:package registry|provided)")
_NO_VERSIONS = re.compile(rf"there (?:is no version|are no versions) of {_TERM}")
_AVAILABLE = re.compile(
    rf"only (?:the following versions of {_NAME} are available: ((?:{_NAME}{_RANGE} ?)+)"
    rf"|({_NAME}{_RANGE}) is available)"
)
_NO_WHEEL = re.compile(rf"(?:all versions of )?{_TERM} (?:has|have) no (usable wheels|wheels|compatible)")
_YANKED = re.compile(rf"{_TERM} was yanked")
_PRERELEASES = re.compile(
    r"Pre-releases are available for `([^`]+)` in the requested range \(e\.g\., ([^)]+)\)"
)

_STATUS = re.compile(r"\b(client|server) error \((\d{3}) ([\w -]+)\)")
_SYSTEM = re.compile(r"([A-Z][\w ]+) \(os error (\d+)\)")
_RESOLVING = re.compile(r"failed to lookup address information: ([\w -]+)")
_RESOLVER_ERRORS = {"Name or service not known": -2, "Temporary failure in name resolution": -3}
"""Numbers of getaddrinfo(3), which pip says as well."""

_TROUBLE = re.compile(
    r"Failed to (?:fetch|download)|error sending request|timed? ?out|\bclient error|\bserver error|dns error"
)
_CAUSES = (
    ("proxy", re.compile(r"tunnel error|proxy")),
    ("certificate", re.compile(r"invalid peer certificate|UnknownIssuer|certificate")),
    ("credentials", re.compile(r"\b40[13] |authentication credentials|missing credentials", re.IGNORECASE)),
    ("time", re.compile(r"timed? ?out", re.IGNORECASE)),
)
_DENIED = re.compile(r"(40[13])[ )]|authentication credentials \((40[13])")
_PHRASES = {"401": "Unauthorized", "403": "Forbidden"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """What the premises say; projects are normalised names without extras, ranges are as uv writes them.

    Attributes:
        asked: What the file asks for, or a constraint limits: (project, range).
        needed: What a version of a project needs: (project, its range, project, range).
        available: The only versions that there are, by project, as ranges such as ``<=2.0``.
        absent: Projects that the index does not know.
        missing: Of these no version is in a range: (project, range).
        pythons: (project, range, the Pythons that it is for).
        wheels: Without a wheel that fits: (project, range, whether it could be built).
        yanked: (project, range).
    """

    asked: tuple[tuple[str, str], ...]
    needed: tuple[tuple[str, str, str, str], ...]
    available: dict[str, tuple[str, ...]]
    absent: frozenset[str]
    missing: tuple[tuple[str, str], ...]
    pythons: tuple[tuple[str, str, str], ...]
    wheels: tuple[tuple[str, str, bool], ...]
    yanked: tuple[tuple[str, str], ...]


def failure(stderr: str) -> Failure:
    """Sort what a failed uv said.

    Args:
        stderr: Its messages.
    """
    text, hints = _unwrapped(stderr)
    full = _SYSTEM.search(text)
    if full is not None and full[2] in {"28", "122"}:
        return DiskFull(reason=f"[Errno {full[2]}] {full[1]}")
    mismatch = re.search(r"Hash mismatch for `([^`]+)`", text)
    if mismatch is not None:
        expected, _, got = text.partition("Computed:")
        digest = re.compile(r"\bsha\d+:([0-9a-f]+)")
        return HashMismatch(
            project=project(mismatch[1]),
            expected=tuple(dict.fromkeys(digest.findall(expected))),
            got=tuple(dict.fromkeys(digest.findall(got))),
        )
    unhashed = re.search(
        r"no trusted hash was provided for: `([^`]+)`|`--require-hashes` mode.* found: `?([\w.-]+)", text
    )
    if unhashed is not None:
        return HashMissing(project=project(unhashed[1] or unhashed[2]))
    denied = _DENIED.search(hints)
    if denied is not None:
        status = denied[1] or denied[2]
        return Unreachable(reason=f"{status} Client Error: {_PHRASES[status]}", cause="credentials")
    premises = list(_premises(text))
    if premises:
        found = _unsolved(_facts(premises), hints, text)
        return found or Unexplained(words=f"uv failed: {premises[0]}")
    if _TROUBLE.search(text):
        return _unreachable(text)
    lines = [line.strip() for line in _HINT.split(_DECORATION.sub("", stderr))[0].splitlines()]
    return Unexplained(words=f"uv failed: {next((line for line in reversed(lines) if line), 'no message')}")


def _unwrapped(stderr: str) -> tuple[str, str]:
    """Return what uv said and what it hinted at, each as one line without a frame."""
    said: list[str] = []
    hints: list[str] = []
    into = said
    for line in stderr.splitlines():
        if _HINT.match(line):
            into = hints
        elif into is hints and not line.strip():
            into = said
        into.append(_DECORATION.sub("", line))
    return " ".join(" ".join(said).split()), " ".join(" ".join(hints).split())


def _premises(text: str) -> Iterator[str]:
    """Yield what sentences stand on, without what earlier ones have concluded."""
    for found in _PREMISES.finditer(text):
        yield _CONCLUDED.sub("", found[1] or found[2]).strip()


def _terms(pattern: re.Pattern[str], premise: str) -> Iterator[tuple[re.Match[str], list[tuple[str, str]]]]:
    """Yield each match of a pattern that ends in terms, with those terms as (project, range)."""
    for found in pattern.finditer(premise):
        listed = re.split(r"\b(?:require|on) ", found[0], maxsplit=1)[1]
        pairs: list[tuple[str, str]] = []
        for part in listed.split(" and "):
            terms = [
                (project(name), bounds) for name, bounds in re.findall(_TERM, part.removeprefix("one of: "))
            ]
            union = terms and part.startswith("one of: ")
            pairs += [(terms[0][0], _union([bounds for _, bounds in terms]))] if union else terms
        yield found, pairs


def _union(ranges: Sequence[str]) -> str:
    """Return several ranges as one: what is below and above a version is all but that."""
    if len(ranges) == 2 and ranges[0].startswith("<") and ranges[1] == f">{ranges[0][1:]}":  # noqa: PLR2004
        return f"!={ranges[0][1:]}"
    return " or ".join(ranges)


def _facts(premises: Sequence[str]) -> _Facts:
    asked = [pair for premise in premises for _, pairs in _terms(_ASKED, premise) for pair in pairs]
    needed = [
        (project(found[1]), found[2], name, bounds)
        for premise in premises
        for found, pairs in _terms(_NEEDED, premise)
        for name, bounds in pairs
    ]
    text = " ; ".join(premises)
    available: dict[str, tuple[str, ...]] = {}
    absent = {project(found[1]) for found in _ABSENT.finditer(text)}
    for several, one in _AVAILABLE.findall(text):
        listed = (several or one).split()
        ranges = tuple(re.sub(rf"^{_NAME}", "", term) for term in listed)
        available[project(listed[0])] = ranges
        # With extras, uv says of a project that is not there that only what nobody asks for is.
        if "[" in listed[0] and all(re.match(r"[<>](?!=)", bounds) for bounds in ranges):
            absent.add(project(listed[0]))
    missing = [(found[1], found[2]) for found in _NO_VERSIONS.finditer(text)]
    absent |= {project(name) for name, bounds in missing if not bounds}
    return _Facts(
        asked=tuple(dict.fromkeys(asked)),
        needed=tuple(dict.fromkeys(needed)),
        available=available,
        absent=frozenset(absent),
        missing=tuple((project(name), bounds) for name, bounds in missing if bounds),
        pythons=tuple((project(found[1]), found[2], found[3]) for found in _PYTHON.finditer(text)),
        wheels=tuple(
            (project(found[1]), found[2], found[3].startswith("usable")) for found in _NO_WHEEL.finditer(text)
        ),
        yanked=tuple((project(found[1]), found[2]) for found in _YANKED.finditer(text)),
    )


# --- which failure it is


def _unsolved(facts: _Facts, hints: str, text: str) -> Failure | None:
    demands = _demands(facts)
    for demand in demands:
        if demand.project in facts.absent:
            return PackageMissing(demand=demand)
    # What other versions of a project need has a part in the proof: then it is not the project that is to blame.
    leaves = [demand for demand in demands if demand.project not in {fact[0] for fact in facts.needed}]
    for demand in sorted(leaves, key=lambda demand: version_key(demand.version), reverse=True):
        found = _unfit(demand, facts) or _unmatched(demand, facts, hints)
        if found is not None:
            return found
    if "which are incompatible" in text or "∅" in text:
        names = {demand.project for demand in demands} or {project(text.partition("you require ")[2])}
        return NoVersion(
            demand=Demand(project=min(names), specifier=",".join(item.specifier for item in demands))
        )
    sides = contested(demands)
    if len(sides) > 1:
        return Conflict(demands=sides)
    return NoVersion(demand=sides[0]) if sides and sides[0].specifier else None


def _demands(facts: _Facts) -> list[Demand]:
    """Return who asks for what, each with the way from the file to it."""
    demands = [Demand(project=name, specifier=bounds) for name, bounds in facts.asked]
    for needer, bounds, name, specifier in facts.needed:
        demands.append(
            Demand(project=name, specifier=specifier, chain=_chain(needer, facts), version=_newest(bounds))
        )
    return demands


def _chain(needer: str, facts: _Facts) -> tuple[str, ...]:
    """Return the projects from one that the file asks for to one that needs something."""
    chain: tuple[str, ...] = (needer,)
    roots = {name for name, _ in facts.asked}
    while chain[0] not in roots:
        above = next((fact[0] for fact in facts.needed if fact[2] == chain[0] and fact[0] not in chain), None)
        if above is None:
            break
        chain = (above, *chain)
    return chain


def _newest(bounds: str) -> str:
    """Return the newest version that a range names: uv includes what exists, and nothing else."""
    named = [bound.lstrip("<>=") for bound in bounds.split(",") if "=" in bound and "*" not in bound]
    return max(named, key=version_key, default="")


def _unfit(demand: Demand, facts: _Facts) -> Failure | None:
    """Return why the versions that a demand would accept are not for us."""
    for name, bounds, needs in sorted(
        facts.pythons, key=lambda fact: version_key(_newest(fact[1])), reverse=True
    ):
        if name == demand.project:
            return OtherPython(demand=demand, version=_newest(bounds), needs=needs)
    wheels = [fact for fact in facts.wheels if fact[0] == demand.project]
    if wheels:
        version = max((_newest(bounds) for _, bounds, _ in wheels), key=version_key)
        return NoWheel(demand=demand, version=version, source=any(source for _, _, source in wheels))
    yanked = [_newest(bounds) for name, bounds in facts.yanked if name == demand.project]
    return NoVersion(demand=demand, yanked=max(yanked, key=version_key)) if yanked else None


def _unmatched(demand: Demand, facts: _Facts, hints: str) -> Failure | None:
    """Return that no version satisfies a demand, where the facts say so."""
    for name, version in _PRERELEASES.findall(hints):
        if project(name) == demand.project:
            return NoVersion(demand=demand, prerelease=version)
    if any(
        name == demand.project and same_specifier(bounds, demand.specifier) for name, bounds in facts.missing
    ):
        return NoVersion(demand=demand)
    ranges = facts.available.get(demand.project)
    if ranges is None or not demand.specifier:
        return None
    bounds = [bound for part in ranges for bound in part.split(",")]
    # Bounds that are included are versions that exist; others are only what nobody asks for.
    versions = [bound.lstrip("<>=") for bound in bounds if "=" in bound]
    if any(accepts(demand.specifier, version) for version in versions):
        return None
    if any(accepts(demand.specifier, bound.lstrip("<>=")) for bound in bounds if "=" not in bound):
        return NoVersion(demand=demand)
    top = [bound.lstrip("<=") for bound in bounds if bound.startswith(("<=", "=="))]
    highest = newest(top) if not any(bound.startswith(">") for bound in bounds) else ""
    return NoVersion(demand=demand, versions=(highest,) if highest else ())


# --- the way to the index


def _unreachable(text: str) -> Unreachable:
    status, system, resolving = _STATUS.search(text), _SYSTEM.search(text), _RESOLVING.search(text)
    reason = ""
    if status is not None:
        reason = f"{status[2]} {status[1].title()} Error: {status[3]}"
    elif system is not None:
        reason = f"[Errno {system[2]}] {system[1]}"
    elif resolving is not None:
        words = resolving[1].strip()
        number = next((number for known, number in _RESOLVER_ERRORS.items() if words.startswith(known)), None)
        reason = words if number is None else f"[Errno {number}] {words}"
    cause = next((cause for cause, pattern in _CAUSES if pattern.search(text)), "")
    return Unreachable(reason=reason, cause=cause)
