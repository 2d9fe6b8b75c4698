"""Saying in the words of whoever wrote the requirements what a resolver said when it failed.

``pip_words`` and ``uv_words`` find out which failure it is; what is said of it is here, once for both.
"""

from __future__ import annotations

import re

from vrfstore.errors import (
    DiskFullError,
    PackageIndexError,
    RequirementsError,
    ResolutionError,
    VrfstoreError,
    WheelError,
)
from vrfstore.model import Interpreter, Requirements
from vrfstore.requirements import names, pip_words, uv_words
from vrfstore.requirements.blame import Asked, brought
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
    newest,
)
from vrfstore.requirements.targets import Target

__all__ = ["resolution_error", "unreachable", "uv_error"]

_VERSIONS_SHOWN = 5

_PIN = re.compile(r"===?\s*([^,*\s]+)")

_WHEELS_ONLY = "choose another version or package; vrfstore installs wheels only"
_BUILDS = "choose another version or package, or have an operator allow builds with --allow-builds"

_UNREACHABLE = {
    "": "check the network, the proxy and pip's configuration (pip config list)",
    "certificate": "its certificate is not trusted here; name its authority with PIP_CERT, or in pip's configuration",
    "credentials": (
        "the index wants credentials, or other ones: in its URL in pip's configuration, in ~/.netrc, or in a keyring, "
        "which is asked only where pip's keyring-provider is import or subprocess"
    ),
    "proxy": "check HTTPS_PROXY, and whether the proxy wants credentials",
    "time": "try again; PIP_DEFAULT_TIMEOUT gives it more seconds",
}
"""What to do, by the cause."""


def resolution_error(
    stderr: str, log: str, requirements: Requirements, interpreter: Interpreter
) -> VrfstoreError:
    """Sort what a failed pip said into one error.

    Args:
        stderr: Its messages.
        log: Its whole log.
        requirements: What was asked; gives the line to blame. A constraint without path and line keeps a version of
            the base.
        interpreter: For whom.
    """
    asked = Asked(requirements=requirements, interpreter=interpreter, resolver="pip")
    return _error(pip_words.failure(stderr, log), asked)


def uv_error(stderr: str, requirements: Requirements, interpreter: Interpreter) -> VrfstoreError:
    """Sort what a failed ``uv pip compile`` said into one error.

    Args:
        stderr: Its messages.
        requirements: What was asked; gives the line to blame. A constraint without path and line keeps a version of
            the base.
        interpreter: For whom.
    """
    asked = Asked(requirements=requirements, interpreter=interpreter, resolver="uv")
    return _error(uv_words.failure(stderr), asked)


def unreachable(failure: Unreachable) -> PackageIndexError:
    """Return the error of an index that did not answer, or not us."""
    reason = f": {failure.reason}" if failure.reason else ""
    return PackageIndexError(
        f"the package index did not answer{reason}",
        kind="index-unreachable",
        hint=_UNREACHABLE[failure.cause],
    )


def _error(failure: Failure, asked: Asked) -> VrfstoreError:
    error = _of_the_way(failure, asked)
    error.message = _without_secrets(error.message)
    error.args = (error.message,)
    error.hint = None if error.hint is None else _without_secrets(error.hint)
    return error


def _without_secrets(text: str) -> str:
    """Return a text as one line, without what may give access in a URL: user, password and query."""
    text = re.sub(r"//[^/\s]*@|//[^/\s:@]+:[^\s@]*@", "//", " ".join(text.split()))
    return re.sub(r"(\w://[^\s?]*)\?[^\s)'\"]*", r"\1", text)


def _of_the_way(failure: Failure, asked: Asked) -> VrfstoreError:
    """Return the error for a failure: those of machines here, those of requirements in ``_of_requirements``."""
    match failure:
        case Unreachable():
            return unreachable(failure)
        case DiskFull():
            return DiskFullError(
                f"{asked.resolver} has no room: {failure.reason}",
                hint="free some space, for instance with: vrfstore gc",
            )
        case HashMismatch():
            return _hash_mismatch(failure, asked)
        case HashMissing():
            return _hash_missing(failure, asked)
        case Unexplained():
            return ResolutionError(failure.words)
    return _of_requirements(failure, asked)


def _of_requirements(
    failure: PackageMissing | NoVersion | OtherPython | NoWheel | Conflict, asked: Asked
) -> ResolutionError:
    match failure:
        case PackageMissing():
            return _package_missing(failure, asked)
        case NoVersion():
            return (
                _base_absent(failure, asked) if asked.of_base(failure.demand) else _no_version(failure, asked)
            )
        case OtherPython():
            return _other_python(failure, asked)
        case NoWheel():
            return _no_wheel(failure, asked)
        case Conflict():
            return _conflict(failure, asked)


def _refused(asked: Asked, demand: Demand | None, kind: str, message: str, hint: str) -> ResolutionError:
    path, line = asked.place(asked.item(demand) if demand is not None else None)
    error = ResolutionError(message, kind=kind, path=path, line=line, hint=hint)
    error.package = demand.project if demand is not None and kind != "conflict" else None
    return error


# --- what one demand lacks


def _package_missing(failure: PackageMissing, asked: Asked) -> ResolutionError:
    demand = failure.demand
    message = f"there is no package {demand.project} on the index{brought(demand).rstrip(',')}"
    if demand.chain:
        hint = f"ask for another version of {demand.chain[0]}"
    else:
        hint = names.advice(demand.project, asked.interpreter)
    return _refused(asked, demand, "package-missing", message, hint)


def _no_version(failure: NoVersion, asked: Asked) -> ResolutionError:
    demand, name, wanted = failure.demand, failure.demand.project, asked.wanted(failure.demand)
    who, versions = brought(demand), failure.versions
    best = newest(versions)
    pin = _PIN.fullmatch(demand.specifier)
    if failure.yanked:
        message = f"nothing satisfies {wanted}{who} but {name} {failure.yanked}, which was yanked"
        hint = f"ask for another version; exactly {name}=={failure.yanked} is still given to who insists"
    elif failure.prerelease:
        message = f"only pre-releases of {name}{who} satisfy {wanted}, such as {failure.prerelease}"
        hint = f"ask for one by its version, as in: {name}=={failure.prerelease}"
    elif pin is not None:
        message = f"no version {pin[1]} of {name}{who.rstrip(',')}{f'; newest is {best}' if best else ''}"
        others = [version for version in versions if version != best][1 - _VERSIONS_SHOWN :]
        hint = _instead(demand, best) + (f" (there are also {', '.join(others)})" if others else "")
    else:
        shown = ", ".join(versions[-_VERSIONS_SHOWN:])
        message = f"no version of {name}{who} satisfies {wanted}"
        message += f"; the newest for this Python are: {shown}" if shown else ""
        hint = _instead(demand, best)
    return _refused(asked, demand, "no-version", message, hint)


def _instead(demand: Demand, best: str) -> str:
    if best:
        return f"ask for one that exists, as in: {demand.project}=={best}"
    if demand.chain:
        return f"ask for another version of {demand.chain[0]}"
    return f"ask for one that exists; {demand.project} without a version gets the newest"


def _other_python(failure: OtherPython, asked: Asked) -> ResolutionError:
    demand, best = failure.demand, newest(failure.versions)
    message = f"{_versioned(demand, failure.version)}{brought(demand)} needs Python {failure.needs}, "
    message += f"this is {asked.interpreter.version}"
    if best:
        hint = f"ask for one that this Python can have, as in: {demand.project}=={best}"
    else:
        hint = f"ask for another version of {(demand.chain or (demand.project,))[0]}, or use such a Python"
    return _refused(asked, demand, "requires-python", message, hint)


def _no_wheel(failure: NoWheel, asked: Asked) -> ResolutionError:
    demand, best, interpreter = failure.demand, newest(failure.versions), asked.interpreter
    target = isinstance(interpreter, Target)
    message = (
        f"{_versioned(demand, failure.version)}{brought(demand)} has no wheel for Python {interpreter.version} "
        f"on {interpreter.platform}{f' with {interpreter.libc}' if target else ''}"
        f"{', only its source' if failure.source else ''}"
    )
    hint = f"ask for one that has, as in: {demand.project}=={best}; or " if best else ""
    hint += _BUILDS if failure.source else _WHEELS_ONLY
    hint += "; if the target's C library is newer, say so in its file" if target else ""
    return _refused(asked, demand, "no-wheel", message, hint)


def _versioned(demand: Demand, version: str) -> str:
    # Where any version would do, none does, and the newest is only one of them.
    return f"{demand.project} {version}" if demand.specifier and version else demand.project


# --- what demands lack together


def _conflict(failure: Conflict, asked: Asked) -> ResolutionError:
    demands = sorted(failure.demands, key=asked.order)
    kept = next((demand for demand in demands if asked.of_base(demand)), None)
    if kept is not None:
        return _protected(kept, [demand for demand in demands if demand is not kept], asked)
    sides = "; ".join(asked.side(demand) for demand in demands)
    return _refused(
        asked,
        # Whoever asks for what is nowhere in the file is no one to blame.
        next((demand for demand in demands if asked.item(demand) is not None), None),
        "conflict",
        "the requirements contradict each other" + (f": {sides}" if sides else ""),
        "loosen or remove one of them",
    )


def _protected(kept: Demand, others: list[Demand], asked: Asked) -> ResolutionError:
    """Return the error for demands that only another version of what the base has would satisfy."""
    first = others[0] if others else kept
    has = f"{kept.project} {kept.specifier.lstrip('=')}"
    if first.chain:
        root = first.chain[0]
        asking = f"{first.chain[-1]}{f', which {root} brings,' if first.chain[1:] else ''} needs"
        hint = f"ask for a version of {root} that goes with {has}"
    else:
        asking, hint = "the file asks for", f"ask for what includes {has}, or leave {kept.project} out"
    message = f"{asking} {asked.wanted(first)}, and the base's {has} may not be shadowed"
    return _refused(asked, first, "protected", message, hint)


def _base_absent(failure: NoVersion, asked: Asked) -> ResolutionError:
    """Return the error for what the base has and the index lacks, where a resolver looks at the index only."""
    demand = failure.demand
    who = f"{demand.chain[-1]} needs" if demand.chain else "the file asks for"
    return _refused(
        asked,
        demand,
        "protected",
        f"{who} {demand.project}, and the base's {demand.project} {demand.specifier.lstrip('=')} is not on the index, "
        f"where {asked.resolver} looks for it",
        "let pip resolve, which looks at the base",
    )


# --- hashes


def _hash_mismatch(failure: HashMismatch, asked: Asked) -> WheelError:
    item = asked.item(Demand(project=failure.project))
    expected, got = (
        ", ".join(f"{value[:12]}…" for value in values) or "none"
        for values in (failure.expected, failure.got)
    )
    path, line = asked.place(item)
    error = WheelError(
        f"the wheel of {failure.project or 'a package'} has another hash ({got}) than the file asks for "
        f"({expected})",
        kind="hash-mismatch",
        path=path,
        hint="if the version was changed on purpose, write its own hash",
    )
    error.line = line
    return error


def _hash_missing(failure: HashMissing, asked: Asked) -> RequirementsError:
    """Say what lacks a hash: where one requirement has hashes, they are wanted of everything."""
    item = next((found for found in asked.requirements.items if "--hash=" not in found.text), None)
    if item is not None:
        name = item.name
    else:
        name = f"{failure.project}, which another requirement brings," if failure.project else "a dependency"
    path, line = asked.place(item)
    return RequirementsError(
        f"{name} has no --hash, but others have",
        kind="requirement-hash",
        path=path,
        line=line,
        hint="write a hash and an exact version for everything, dependencies too, or for nothing",
    )
