"""Deciding, once per wheel, what its shared libraries ask of other wheels and offer them. Pure.

A library that looks for another through ``$ORIGIN`` looks beside the path that it was opened by, and the kernel then
takes every ``..`` of that from where the symlinks on the way lead: out of the environment, into the entry. There it
finds what its own wheel ships, and nothing of any other wheel. See ld.so(8) and path_resolution(7).
"""

from __future__ import annotations

import posixpath
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice

from vrfstore.model import Libraries
from vrfstore.store.elf import DynamicSection
from vrfstore.store.entry_plan import INSTALLED
from vrfstore.store.layout import SITE_PACKAGES
from vrfstore.values import dataclass

__all__ = ["libraries_of"]

MOST_FACTS = 1 << 14
"""Of needs, and of escapes, how many are kept of one wheel; the largest real ones come to hundreds."""

MOST_STEPS = 1 << 20
"""How often a directory is looked at for one wheel; the largest real ones come to some tens of thousands."""

_PREFIX = "../../.."
"""From site-packages to the environment."""

_ORIGIN = re.compile(r"\$(?:ORIGIN|\{ORIGIN\})")
_PYTHON_DIRECTORY = re.compile(r"python(?:X\.Y|\d+\.\d+t?)")
_EXTENSION_MODULE = re.compile(r".+\.(?:cpython-[^.]+|abi3)\.so", re.DOTALL)
_LOADER_OR_LIBC = re.compile(
    r"ld-linux.*|ld64\.so.*|ld-musl-.*|libc\.musl-.*"
    r"|lib(?:c|m|mvec|pthread|dl|rt|util|resolv|anl)\.so(?:\..*)?",
    re.DOTALL,
)
"""What is never looked for, because the program has it already: the parts of glibc and musl."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A file as installed: its directory is relative to site-packages.

    In an entry each scheme is a tree of its own: two files find each other there only within one scheme.
    """

    scheme: str
    directory: str
    name: str


@dataclass(frozen=True, slots=True)
class _Seeker:
    """An ELF file and where it looks.

    Attributes:
        needed: The file names that are looked for.
        direct: (directory, file name) where a DT_NEEDED is itself an ``$ORIGIN`` path.
        own: The directories of its own ``$ORIGIN`` paths.
        reach: Those, and those of every file of the wheel that may load it. Of a loader DT_RPATH is inherited,
            with musl DT_RUNPATH as well.
    """

    needed: tuple[str, ...]
    direct: tuple[tuple[str, str], ...]
    own: dict[str, None]
    reach: dict[str, None]


class _Steps:
    """Counts what a wheel costs, so that a hostile one cannot cost more than any honest one."""

    def __init__(self) -> None:
        self._left = MOST_STEPS

    def take(self, count: int) -> bool:
        """Whether so many more may be taken."""
        self._left -= count
        return self._left >= 0


def libraries_of(sections: Mapping[str, DynamicSection], files: Iterable[str]) -> Libraries:
    """Decide what coupling will need to know of a wheel.

    A need is left out where its directory is one of the escapes, which say more; where the file also looks in a
    directory in which its own wheel ships the library, in the same scheme; and for the C library itself. What
    goes beyond the limits of this module is left out too, always the same.

    Args:
        sections: For each ELF file that has one its dynamic section, by ``<scheme>/<path>`` in the entry.
        files: All files of the entry, in the same form.
    """
    elves = [(place, section) for key, section in sorted(sections.items()) if (place := _place(key))]
    if not elves:
        return Libraries({})
    shipped: dict[str, list[str]] = {}
    for place, section in elves:
        if _is_library(place.name, section):
            shipped.setdefault(place.directory, []).append(place.name)
    places = {place for key in files if (place := _place(key))} | {place for place, _ in elves}
    steps = _Steps()
    seekers = _seekers(elves, steps)
    _inherit(seekers, steps)
    searched = {directory for seeker in seekers.values() for directory in seeker.own}
    escapes = searched - _occupied({place.directory for place in places})
    needs = (need for need in _needs(seekers, places, steps) if need[0] not in escapes)
    return Libraries(
        shipped={directory: tuple(sorted(set(names))) for directory, names in sorted(shipped.items())},
        needs=tuple(sorted(set(islice(needs, MOST_FACTS)))),
        escapes=tuple(sorted(escapes)[:MOST_FACTS]),
    )


def _place(key: str) -> _Place | None:
    scheme, _, path = key.partition("/")
    if scheme not in INSTALLED:
        return None
    parent, _, name = path.rpartition("/")
    directory = _from_site_packages("/".join(filter(None, [INSTALLED[scheme], parent])))
    return None if directory is None else _Place(scheme, directory, name)


@lru_cache(maxsize=1024)  # the files of a directory come one after the other
def _from_site_packages(path: str) -> str | None:
    """Return a directory below an environment as seen from site-packages; None where it is not below.

    Each directory has one form only: ``$ORIGIN/../..`` of a package leads to ``../../../lib/pythonX.Y``.
    """
    parts = [part for part in posixpath.normpath(path).split("/") if part != "."]
    if parts[:1] == [".."]:
        return None
    if parts[:1] == ["lib64"]:  # a symlink, in every environment
        parts[0] = "lib"
    if parts[:1] == ["lib"] and parts[2:3] == [SITE_PACKAGES] and _PYTHON_DIRECTORY.fullmatch(parts[1]):
        return "/".join(parts[3:])
    return "/".join([_PREFIX, *parts])


def _below_origin(directory: str, text: str) -> str | None:
    """Return where an ``$ORIGIN`` path of a file in ``directory`` leads, both seen from site-packages."""
    match = _ORIGIN.match(text)
    if match is None:
        return None
    origin = "/".join(filter(None, [INSTALLED[SITE_PACKAGES], directory]))
    return _from_site_packages(posixpath.normpath(origin) + text[match.end() :])


def _is_library(name: str, section: DynamicSection) -> bool:
    """Whether other files might be linked against it, or load it by its name."""
    if _EXTENSION_MODULE.fullmatch(name):
        return name.startswith("lib") and section.soname is not None
    return section.soname is not None or ".so" in name


def _seekers(elves: Iterable[tuple[_Place, DynamicSection]], steps: _Steps) -> dict[_Place, _Seeker]:
    known: dict[tuple[str, tuple[str, ...]], dict[str, None]] = {}
    seekers: dict[_Place, _Seeker] = {}
    for place, section in elves:
        if not steps.take(len(section.search)):
            break
        asked = (place.directory, section.search)
        if asked not in known:
            found = (_below_origin(place.directory, text) for text in section.search)
            known[asked] = {directory: None for directory in found if directory is not None}
        seekers[place] = _Seeker(
            needed=tuple(
                name
                for name in dict.fromkeys(section.needed)
                if name and "/" not in name and not _LOADER_OR_LIBC.fullmatch(name)
            ),
            direct=tuple(_direct(place.directory, section.needed)),
            own=known[asked],
            reach=dict(known[asked]),
        )
    return seekers


def _direct(directory: str, needed: Iterable[str]) -> Iterator[tuple[str, str]]:
    for text in needed:
        parent, slash, name = text.rpartition("/")
        found = _below_origin(directory, parent) if slash else None
        if found is not None and name:
            yield found, name


def _inherit(seekers: Mapping[_Place, _Seeker], steps: _Steps) -> None:
    """Pass the directories of each file on to whatever it loads from its own wheel."""
    waiting = deque(seekers)
    while waiting:
        place = waiting.popleft()
        reach = seekers[place].reach
        for name in seekers[place].needed:
            if not steps.take(len(reach)):
                return
            for directory in tuple(reach):
                loaded = _Place(place.scheme, directory, name)
                if loaded not in seekers or loaded == place:
                    continue
                theirs = seekers[loaded].reach
                before = len(theirs)
                if not steps.take(len(reach)):
                    return
                theirs.update(reach)
                if len(theirs) > before:
                    waiting.append(loaded)


def _needs(
    seekers: Mapping[_Place, _Seeker], places: set[_Place], steps: _Steps
) -> Iterator[tuple[str, str]]:
    for place, seeker in seekers.items():
        for directory, name in seeker.direct:
            if _Place(place.scheme, directory, name) not in places:
                yield directory, name
        for name in seeker.needed:
            if not steps.take(len(seeker.reach)):
                return
            here = [
                directory for directory in seeker.reach if _Place(place.scheme, directory, name) in places
            ]
            if not here:
                yield from ((directory, name) for directory in seeker.reach)
            elif not any(directory in seeker.own for directory in here):
                yield from ((directory, name) for directory in seeker.own)


def _occupied(directories: Iterable[str]) -> set[str]:
    """Return directories and all above them, up to site-packages or, for the others, to the environment."""
    found: set[str] = set()
    for directory in directories:
        here = directory
        while here not in found:
            found.add(here)
            if here in {"", _PREFIX}:
                break
            here = here.rpartition("/")[0]
    return found
