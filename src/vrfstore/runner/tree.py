"""``tree``: which package of an environment needs which, as their METADATA says; nothing is resolved again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from vrfstore import fs
from vrfstore.errors import StoreDamagedError
from vrfstore.linker.distributions import distributions
from vrfstore.model import Interpreter
from vrfstore.needs import Described, Need, described, needs
from vrfstore.requirements import base as of_base
from vrfstore.runner.given import Given
from vrfstore.runner.inspection import Found
from vrfstore.store import interpreters
from vrfstore.target import marker_environment
from vrfstore.values import dataclass

__all__ = ["Branch", "Package", "grow", "packages", "wanted"]

Origin = Literal["environment", "base", "missing"]

_LARGEST = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One distribution that an environment sees.

    Attributes:
        name: Normalised.
        version: Its version.
        origin: Where it is.
        needs: What it requires, with the extras that others ask of it.
    """

    name: str
    version: str
    origin: Origin
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """One line of the tree.

    Attributes:
        package: What it is; one that is not there has no version.
        asked: In which versions whoever is above needs it; empty for any, and at the top.
        extras: Which extras of it are asked for.
        branches: What it needs itself.
        shown: Whether that was shown before, and is not again.
    """

    package: Package
    asked: str = ""
    extras: tuple[str, ...] = ()
    branches: tuple[Branch, ...] = ()
    shown: bool = False


def wanted(given: Given) -> dict[str, frozenset[str]]:
    """Return the extras that files ask for by name, normalised; of what they name, all are there.

    Raises:
        RequirementsError: See ``given.Given.read``.
    """
    from packaging.requirements import Requirement  # noqa: PLC0415 - 20 ms that an environment does not pay
    from packaging.utils import canonicalize_name  # noqa: PLC0415

    found: dict[str, frozenset[str]] = {}
    for item in given.read(lambda _: None).items:
        extras = Requirement(item.text.partition(" --hash")[0]).extras
        found[item.name] = found.get(item.name, frozenset()) | {
            str(canonicalize_name(each)) for each in extras
        }
    return found


def packages(found: Found, asked: Mapping[str, Collection[str]] | None = None) -> dict[str, Package]:
    """Return all that an environment sees, by normalised name.

    Args:
        found: The environment.
        asked: The extras that somebody asked for when it was linked, by name.

    Raises:
        InterpreterError: Its interpreter is not there.
        StoreDamagedError: A METADATA of it cannot be read.
    """
    record = found.record
    with found.store.session() as session:
        base, _ = interpreters.known(found.store.layout, session, record.executable)
    site = f"{found.place}/lib/{record.library}/site-packages"
    own = [
        _described(f"{site}/{each.directory}/METADATA", each.name, each.version)
        for each in distributions(site)
    ]
    below = [] if record.options.isolated else of_base.distributions(base)
    return _with_needs(own, below, base, asked or {})


def _described(path: str, name: str, version: str) -> Described:
    try:
        return described(fs.read_file(path, _LARGEST), name, version)
    except OSError as error:
        raise StoreDamagedError(f"it cannot be read: {error.strerror}", path=path) from error


def _with_needs(
    own: Iterable[Described],
    base: Iterable[Described],
    interpreter: Interpreter,
    extras_asked: Mapping[str, Collection[str]],
) -> dict[str, Package]:
    """Return packages with all that they need: what an extra brings counts where somebody asks for the extra."""
    variables = marker_environment(interpreter)
    there: dict[str, tuple[Described, Origin]] = {found.name: (found, "base") for found in base}
    there |= {found.name: (found, "environment") for found in own}
    extras: dict[str, set[str]] = {name: set(extras_asked.get(name, ())) for name in there}
    while True:
        asked = {
            name: tuple(needs(found, variables, sorted(extras[name]))) for name, (found, _) in there.items()
        }
        wanted = [(need.name, set(need.extras)) for several in asked.values() for need in several]
        new = [(name, more) for name, more in wanted if name in extras and not more <= extras[name]]
        if not new:
            break
        for name, more in new:
            extras[name] |= more
    return {
        name: Package(name=name, version=found.version, origin=origin, needs=asked[name])
        for name, (found, origin) in there.items()
    }


def grow(
    found: Mapping[str, Package],
    roots: Sequence[str] = (),
    *,
    inverted: bool = False,
    asked: Mapping[str, Collection[str]] | None = None,
) -> list[Branch]:
    """Return the tree.

    Args:
        found: As ``packages`` returns them.
        asked: As there: what extras stand behind names at the top.
        roots: What stands at the top, normalised; by default what is in the environment and nothing there needs.
        inverted: Below each stands what needs it, instead of what it needs.
    """
    edges = _edges(found, inverted=inverted)
    if not roots:
        needed = {
            need.name
            for package in found.values()
            if package.origin == "environment"
            for need in package.needs
        }
        own = sorted(name for name, package in found.items() if package.origin == "environment")
        tops = [name for name in own if name not in needed]
        # Where some need each other they have no top, and the first of them serves.
        rest = [name for name in own if name in needed]
    else:
        tops, rest = list(roots), []
    shown: set[str] = set()
    extras = {} if inverted else {name: tuple(sorted(each)) for name, each in (asked or {}).items()}
    branches = [_branch(found, edges, Edge(name, extras=extras.get(name, ())), shown) for name in tops]
    return branches + [_branch(found, edges, Edge(name), shown) for name in rest if name not in shown]


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge of the tree: to what, and in which versions and with which extras it is needed.

    Where the tree is inverted it leads to who needs it, whose own extras these are not: the specifier has them.
    """

    name: str
    specifier: str = ""
    extras: tuple[str, ...] = ()


def _edges(found: Mapping[str, Package], *, inverted: bool) -> dict[str, list[Edge]]:
    edges: dict[str, list[Edge]] = {}
    for package in found.values():
        for need in _unique(package.needs):
            if inverted:
                extras = f"[{','.join(need.extras)}]" if need.extras else ""
                edges.setdefault(need.name, []).append(Edge(package.name, f"{extras}{need.specifier}"))
            else:
                edges.setdefault(package.name, []).append(Edge(need.name, need.specifier, need.extras))
    return {name: sorted(several, key=lambda edge: edge.name) for name, several in edges.items()}


def _unique(several: Iterable[Need]) -> Iterator[Need]:
    seen: set[tuple[str, str, tuple[str, ...]]] = set()
    for need in several:
        key = (need.name, need.specifier, need.extras)
        if key not in seen:
            seen.add(key)
            yield need


def _branch(
    found: Mapping[str, Package], edges: Mapping[str, Sequence[Edge]], edge: Edge, shown: set[str]
) -> Branch:
    package = found.get(edge.name) or Package(name=edge.name, version="", origin="missing")
    below = edges.get(edge.name, ())
    again = edge.name in shown and bool(below)
    shown.add(edge.name)
    branches = () if again else tuple(_branch(found, edges, each, shown) for each in below)
    return Branch(package=package, asked=edge.specifier, extras=edge.extras, branches=branches, shown=again)
