"""Resolving a request: from what is asked to a lock, by whichever resolver there is.

::

    lock files ──────────select──────────────┐
    requirements ─▶ pip or uv ─▶ wheels ─────┼─▶ lock ─▶ is what must not be shadowed left alone?
                              └▶ sources ─build┘
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from vrfstore import fs
from vrfstore.errors import ResolutionError
from vrfstore.model import Lock, LockedWheel, Watcher, nobody
from vrfstore.requirements import base as of_base
from vrfstore.requirements import builds, by_pip, by_uv, inputs, lockfile, pip
from vrfstore.requirements.budget import Budget
from vrfstore.requirements.request import Request
from vrfstore.requirements.sizes import with_sizes
from vrfstore.requirements.solution import Attempt, Resolver, ResolverName, Solution, SourceFile
from vrfstore.requirements.targets import Target
from vrfstore.store.leases import Lease
from vrfstore.store.store import Store
from vrfstore.values import replace

__all__ = ["choose", "log_path", "resolve"]


def choose(name: ResolverName | None, request: Request) -> Resolver:
    """Return the resolver of a name; by default uv where it is installed, and else pip.

    Only pip resolves for an interpreter that is not here. Without a name, that is what it gets.
    """
    if name is None:
        name = "uv" if by_uv.is_installed() and not isinstance(request.interpreter, Target) else "pip"
    return by_uv.solve if name == "uv" else by_pip.solve


def resolve(  # noqa: PLR0913 - all but three by keyword
    store: Store,
    lease: Lease,
    request: Request,
    *,
    log: str,
    resolver: Resolver | None = None,
    preferred: Mapping[str, str] | None = None,
    fresh: bool = False,
    budget: Budget | None = None,
    watch: Watcher = nobody,
) -> Lock:
    """Resolve a request.

    Args:
        store: Where the resolver's files go, and the entries of what is built.
        lease: Names the files in tmp/.
        request: What is asked.
        log: Where the resolver's own words are kept if it fails.
        resolver: By default as ``choose`` says.
        preferred: Versions to keep where they still fit, by normalised name.
        fresh: Nothing counts that a resolver remembers of an index.
        budget: Whose time it has, and how many packages there may be.
        watch: Is told of builds.

    Raises:
        ResolutionError: There is no such package, version or wheel, they conflict, or a package of the base would be
            shadowed that is protected.
        PackageIndexError: The index did not answer.
        WheelError: A hash does not match.
        RequirementsError: What is asked cannot be.
        CapError: It takes too long, or too many packages.
    """
    budget = budget or Budget()
    inputs.check_python(request.requirements, request.interpreter)
    locked, locked_sources = _locked(request)
    solution = Solution(Lock(wheels=(), python=request.interpreter.short_version))
    scratch = store.layout.of("tmp", f"{lease.id}.{fs.unique_name()}")
    fs.make_directory(scratch)
    try:
        pins = {wheel.name: wheel.version for wheel in locked}
        pins |= {source.name: source.version for source in locked_sources}
        attempt = replace(_attempt(request, scratch, log, pins, preferred or {}), fresh=fresh)
        if request.requirements.items:
            pip.check_configuration(request.interpreter, index_url=request.index_url)
            solution = (resolver or choose(None, request))(store, request, attempt, budget)
        sources = [*locked_sources, *(each for each in solution.sources if each.name not in pins)]
        names = {wheel.name for wheel in solution.lock.wheels} | {each.name for each in sources}
        budget.packages(len(pins.keys() | names))
        built = [builds.build(store, request, attempt, each, budget, watch) for each in sources]
    finally:
        fs.remove_tree(scratch)
    wheels = _merged(request, [*locked, *solution.lock.wheels, *built])
    _check_protected(request, wheels)
    if solution.lock.wheels and any(wheel.size is None for wheel in wheels):
        wheels = with_sizes(
            wheels, pip.settings(store, request.interpreter, index_url=request.index_url), budget
        )
    return Lock(wheels=tuple(wheels), python=request.interpreter.short_version)


def _attempt(
    request: Request, scratch: str, log: str, pins: Mapping[str, str], preferred: Mapping[str, str]
) -> Attempt:
    asked = request.requirements
    limits = "".join(f"{item.text}\n" for item in request.protected)
    pinned = "".join(f"{name}=={version}\n" for name, version in pins.items())
    given = pins.keys() | {item.name for item in request.protected}
    return Attempt(
        scratch=scratch,
        log=log,
        constraints=f"{asked.canonical_constraints}{limits}{pinned}",
        preferred={name: version for name, version in preferred.items() if name not in given},
        explained=replace(asked, constraints=(*asked.constraints, *request.protected)),
    )


def _locked(request: Request) -> tuple[list[LockedWheel], list[SourceFile]]:
    """Return what lock files name, but for what the base has in that very version: wheels, and what is to be built."""
    asked, base = request.requirements, request.base
    solutions = [
        lockfile.choose(
            each, request.interpreter, asked.extras, asked.groups, allow_builds=request.allow_builds
        )
        for each in asked.locks
    ]
    wheels = _merged(request, [wheel for each in solutions for wheel in each.lock.wheels])
    sources = {source.name: source for each in solutions for source in each.sources}
    return (
        [wheel for wheel in wheels if not of_base.is_same_version(base.get(wheel.name), wheel.version)],
        [
            source
            for name, source in sorted(sources.items())
            if not of_base.is_same_version(base.get(name), source.version)
        ],
    )


def _merged(request: Request, wheels: list[LockedWheel]) -> list[LockedWheel]:
    """Return wheels sorted by name, each project once.

    Raises:
        ResolutionError: Two of what was given name different wheels of one project.
    """
    found: dict[str, LockedWheel] = {}
    for wheel in wheels:
        other = found.setdefault(wheel.name, wheel)
        if other.digest != wheel.digest:
            raise ResolutionError(
                f"two different wheels of {wheel.name} are asked for: {other.filename} and {wheel.filename}",
                kind="conflict",
                path=request.requirements.path,
                hint="leave out one of the files, or lock them together",
            )
    return sorted(found.values(), key=lambda wheel: wheel.name)


def _check_protected(request: Request, wheels: list[LockedWheel]) -> None:
    base = request.base
    for wheel in wheels:
        if wheel.name in request.protect and wheel.name in base:
            raise ResolutionError(
                f"{wheel.name} {wheel.version} is asked for, and the base's {base[wheel.name]} may not be shadowed",
                kind="protected",
                path=request.requirements.path,
                hint=f"ask for {wheel.name}=={base[wheel.name]}, or leave it out",
            )


def log_path(store: Store, digest: str) -> str:
    """Return where the words of a failed resolution of this request are kept."""
    return os.path.join(store.layout.of("logs"), f"resolve-{digest[:20]}.log")
