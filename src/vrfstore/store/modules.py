"""Which distribution brought which module, of every wheel that has been in this store: ``modules.jsonl``.

::

    a wheel becomes an entry ──append a line──▶ modules.jsonl ──▶ hint
    entries of which there is no line ──when somebody asks──┘ └── beyond 8 MiB: written anew, the newest 4 MiB stay

A line is ``[distribution, [module, …], [digits of an entry, …]]``. It is written once its entry is published, and stays
when that is collected; a gc neither reads nor writes here, since a full disk has no room for it. The file is a memo:
a line that is lost, to a kill or a full disk, is written again by whoever asks while the entry is there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping

from vrfstore import codec, fs
from vrfstore.errors import BusyError, StoreDamagedError
from vrfstore.model import EntryPlan, Node
from vrfstore.store import composites, leases
from vrfstore.store.entry_plan import is_module
from vrfstore.store.holds import hold
from vrfstore.store.layout import SITE_PACKAGES, Layout
from vrfstore.store.memos import replace
from vrfstore.store.store import Store
from vrfstore.values import dataclass

__all__ = ["Modules", "look", "modules_of", "note", "prefixes"]

_LARGEST = 8 << 20
"""Bytes of the file beyond which it is written anew. A wheel takes about a hundred."""

_KEPT = 4 << 20
"""Bytes that are kept then: what was read last, some 50,000 distributions."""

_MOST_MODULES = 200
"""Of one distribution. The most that was seen of a sound one is some 90, of pywin32."""

_LONGEST = 100
"""Characters of a dotted name that are kept."""

_MOST_READ = 1 << 26
"""Bytes. Where the file is larger all the same, nothing is known."""

_CARELESS = frozenset(
    ["benchmark", "benchmarks", "doc", "docs", "example", "examples", "script", "scripts", "setup", "test", "tests"]
)  # fmt: skip
"""What wheels bring by mistake, and projects call their own files. Nobody means another's by these names."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A distribution by its normalised name, its modules, and which entries of it have been read."""

    name: str
    modules: tuple[str, ...]
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Modules:
    """What is known: the modules of each distribution by its normalised name."""

    distributions: Mapping[str, tuple[str, ...]]

    def providers(self, module: str) -> tuple[str, ...]:
        """Return the distributions that bring a module, sorted; nothing for a namespace that several share.

        Args:
            module: A dotted name. What is not known itself may be so by the package that it is in.
        """
        for name in prefixes(module):
            found = sorted(by for by, modules in self.distributions.items() if name in modules)
            if found and name not in _CARELESS:
                return tuple(found)
        return ()


def prefixes(module: str) -> Iterator[str]:
    """Yield a dotted name, then the packages that it is in, the innermost first."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def modules_of(plan: EntryPlan) -> tuple[str, ...]:
    """Return what can be imported from a wheel: what is at its top, and what is within namespaces, dotted."""
    tree = plan.trees.get(SITE_PACKAGES, {})
    found = {name for name in _importable(tree, "") if len(name) <= _LONGEST}
    return tuple(sorted(found)[:_MOST_MODULES])


def _importable(tree: Mapping[str, Node], above: str) -> Iterator[str]:
    for name, node in tree.items():
        if isinstance(node, str):
            stem = name.partition(".")[0]
            if is_module(name) and stem.isidentifier() and stem != "__init__":
                yield f"{above}{stem}"
        elif name.isidentifier():
            if isinstance(node, int):
                yield f"{above}{name}"
            elif "" not in node:  # else a directory without modules
                yield from _importable(node, f"{above}{name}.")


def note(layout: Layout, plan: EntryPlan) -> None:
    """Write down what an entry brings that has just been published. Never an error: the entry is there."""
    with contextlib.suppress(OSError, BusyError):
        if not plan.claimed:
            _append(layout, [_line_of(plan)])


def look(store: Store, *, keep: bool) -> Modules:
    """Return what is known, with all entries that are there.

    Args:
        store: The store.
        keep: Write down what had to be read of entries. Never an error: it is for the next time.
    """
    lines = _read(store.layout)
    known = {digits for line in lines for digits in line.entries}
    learned = list(_learned(store, (name for name in store.entries() if _digits(name) not in known)))
    if keep and learned:
        with contextlib.suppress(OSError, BusyError):
            _append(store.layout, learned)
    return Modules({line.name: line.modules for line in _merged([*lines, *learned])})


def _learned(store: Store, directories: Iterable[str]) -> Iterator[_Line]:
    """Yield what entries bring; composites, mere claims of archives and what cannot be read bring nothing."""
    for directory in directories:
        if not composites.is_called_so(directory):
            with contextlib.suppress(OSError, StoreDamagedError, AttributeError):
                plan = store.plan(directory, even_marked=True)
                if not plan.claimed:
                    yield _line_of(plan)


def _line_of(plan: EntryPlan) -> _Line:
    return _Line(plan.reference.name, modules_of(plan), (_digits(plan.reference.directory),))


def _digits(directory: str) -> str:
    """Return what of the name of an entry is of its digest."""
    return directory.partition("-")[0]


def _merged(lines: Iterable[_Line]) -> list[_Line]:
    """Return one line for each distribution, what was read last at the end. Pure."""
    found: dict[str, _Line] = {}
    for line in lines:
        # Versions differ in what they bring, and any of them may be meant.
        before = found.pop(line.name, _Line(line.name, (), ()))
        modules = sorted({*before.modules, *line.modules})[:_MOST_MODULES]
        found[line.name] = _Line(
            line.name, tuple(modules), tuple(dict.fromkeys(before.entries + line.entries))
        )
    return list(found.values())


def _append(layout: Layout, lines: Iterable[_Line]) -> None:
    """Add lines at the end; two who do that at once have theirs one after the other (write(2), O_APPEND)."""
    # A line that was cut off by a full disk must not take the next one with it.
    size = fs.append(layout.modules, b"".join(b"\n" + _dumps(line) for line in lines))
    if size > _LARGEST:
        with hold(layout.of("holds", "modules"), timeout=0):
            _shorten(layout)


def _shorten(layout: Layout) -> None:
    """Write the file anew. What others append meanwhile is lost, and found again in their entries."""
    there = {_digits(name) for name in os.listdir(layout.of("entries"))}
    kept: list[bytes] = []
    room = _KEPT
    for line in reversed(_merged(_read(layout))):
        entries = tuple(digits for digits in line.entries if digits in there)
        data = _dumps(_Line(line.name, line.modules, entries))
        room -= len(data)
        if room < 0:
            break
        kept.append(data)
    with leases.take(layout) as lease:
        replace(layout, lease, layout.modules, b"".join(reversed(kept)))


def _dumps(line: _Line) -> bytes:
    return codec.dumps([line.name, list(line.modules), list(line.entries)])


def _read(layout: Layout) -> list[_Line]:
    """Return what was written down; lines that cannot be read are not there."""
    try:
        data = fs.read_file(layout.modules, _MOST_READ)
    except (OSError, ValueError):
        return []
    found = []
    for text in data.split(b"\n"):
        with contextlib.suppress(ValueError, TypeError):
            name, modules, entries = codec.loads(text)
            found.append(
                _Line(codec.text(name), tuple(map(codec.text, modules)), tuple(map(codec.text, entries)))
            )
    return found
