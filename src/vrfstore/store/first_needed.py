"""Which of many modules an import is likely to need first, as their own imports tell. Pure: the caller reads sources.

::

    top-level packages and modules ──imports──▶ wave 1
    what lies directly below them  ──imports──▶ wave 2     what is left ──▶ wave 3     tests ──▶ wave 4

A source that is reached is looked through for lines that begin like an import: parsing it would cost as much as
compiling it. A line of a string that looks like one, or an import by a name that is computed, makes a module come too
early or too late, and nothing else. The time is linear in the length of the source, whatever it is.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TypeAlias

from vrfstore.store.layout import SITE_PACKAGES
from vrfstore.values import dataclass

__all__ = ["Import", "Read", "Wave", "imports", "waves"]

Read: TypeAlias = Callable[[str, str], bytes | None]
"""Gives the source of a module, by the directory name of its entry and its path there; None where there is none."""

Wave: TypeAlias = dict[str, list[str]]
"""Paths of modules by the directory name of their entry."""

_TESTS = frozenset({"conftest", "test", "testing", "tests"})
"""Names of what is imported by those who work on a package, and seldom by others."""

# A line that begins an import or a block, from the line break before it: its indentation, then
# - of `from`: dots, name, and the word `import`
# - or the word `import`
# - or what begins a block that importing does not run
# - or nothing, of any other block.
# No quantifier gives back what it has taken, so no byte is looked at more than a few times.
_BEGINNING = re.compile(
    rb"\n([ \t]*+)(?:"
    rb"from\b[ \t]*+(\.*+)[ \t]*+(?:(?!import\b)([\w.\x80-\xff]++))?+[ \t]*+(import)\b[ \t]*+"
    rb"|(import)\b"
    rb"|(def|class|async|if[ \t(]++(?:\w++\.)?+(?:TYPE_CHECKING|__name__))\b"
    rb"|(?:if|elif|else|try|except|finally|for|while|with|match)\b)"
)
_IN_PARENTHESES = re.compile(rb"\((?:[^)#]++|#[^\n]*+)*+")
_ON_THE_LINE = re.compile(rb"(?:[^\\\n#;]++|\\\r?\n)*+")
_COMMENT = re.compile(rb"#[^\n]*+")


@dataclass(frozen=True, slots=True)
class Import:
    """What one statement imports: a module, and names in it that may be modules as well."""

    module: str
    names: tuple[str, ...] = ()


def imports(source: bytes, package: str) -> list[Import]:
    """Return what a module imports when it is imported itself, in the order of its lines.

    What stands in a function or class is left out, and what is only for a type checker or for running the module as a
    script.

    Args:
        source: The module's, which need not be Python.
        package: What its relative imports begin at; empty for a top-level module.
    """
    text = b"\n" + source.removeprefix(BOM_UTF8)
    found: list[Import] = []
    skipping: int | None = None  # the indentation of a block that importing does not run
    at = 0
    while (line := _BEGINNING.search(text, at)) is not None:
        at = line.end()
        indentation, dots, name, from_, import_, skipped = line.groups()
        if skipping is not None and len(indentation) > skipping:
            continue
        skipping = len(indentation) if skipped else None
        if from_ or import_:
            names, at = _names(text, at, in_parentheses=bool(from_))
            if import_:
                found += map(Import, names)
            elif (module := _absolute(_text(name or b""), len(dots), package)) is not None:
                found.append(Import(module, names))
    return found


def _names(text: bytes, at: int, *, in_parentheses: bool) -> tuple[tuple[str, ...], int]:
    """Return the names that follow in an import, each once and without its alias, and where they end."""
    found = (_IN_PARENTHESES.match(text, at) if in_parentheses else None) or _ON_THE_LINE.match(text, at)
    if found is None:
        return (), at
    parts = _COMMENT.sub(b"", found[0]).replace(b"\\", b" ").lstrip(b"(").split(b",")
    names = dict.fromkeys(words[0] for part in parts if (words := part.split(None, 1)))
    return tuple(map(_text, names)), found.end()


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _absolute(name: str, dots: int, package: str) -> str | None:
    """Return the name of the module that a ``from`` means; None where it leads above the top."""
    if not dots:
        return name
    parts = package.split(".") if package else []
    if dots > len(parts):
        return None
    return ".".join([*parts[: len(parts) + 1 - dots], *filter(None, [name])])


@dataclass(frozen=True, slots=True)
class _Source:
    """One file that a module may be: where it is, and what its relative imports begin at."""

    directory: str
    path: str
    package: str


def waves(modules: Mapping[str, Iterable[str]], read: Read) -> Iterator[Wave]:
    """Put modules into an order, by waves: what is likely to be needed first is in the first.

    Each wave is found when it is asked for, so that the first need not wait for the sources of the second. Every
    module is in one of them, and none is empty. Namespaces and packages may be spread over several entries: of a
    name that several have, all are taken.

    Args:
        modules: The paths of the modules to order, such as ``site-packages/six.py``, by the directory name of their
            entry.
        read: Is asked at most once for each module.
    """
    known = _by_name(modules)
    left = {directory: dict.fromkeys(paths) for directory, paths in modules.items()}
    public = [name for name in known if known[name] and not any(map(_is_private_or_test, name.split(".")))]
    heights = {name: _height(name, known) for name in public}
    reached: set[str] = set()
    for height in (0, 1):
        wave: Wave = {}
        for source in _closure((name for name in public if heights[name] == height), known, reached, read):
            wave.setdefault(source.directory, []).append(source.path)
            del left[source.directory][source.path]
        if wave:
            yield wave
    for tests in (False, True):
        rest = {
            directory: [path for path in paths if _is_test(path) == tests]
            for directory, paths in left.items()
        }
        if wave := {directory: paths for directory, paths in rest.items() if paths}:
            yield wave


def _by_name(modules: Mapping[str, Iterable[str]]) -> dict[str, list[_Source]]:
    """Return what can be imported, by its dotted name: of a namespace, no source."""
    known: dict[str, list[_Source]] = {}
    for directory, paths in modules.items():
        for path in paths:
            parts = path.removeprefix(f"{SITE_PACKAGES}/").removesuffix(".py").split("/")
            package = parts[:-1]
            if parts[-1] == "__init__":
                parts = package
            if parts and all(map(str.isidentifier, parts)):
                for name in accumulate(parts, "{}.{}".format):
                    sources = known.setdefault(name, [])
                sources.append(_Source(directory, path, ".".join(package)))
    return known


def _is_private_or_test(part: str) -> bool:
    return part.startswith(("_", "test_")) or part in _TESTS


def _is_test(path: str) -> bool:
    return any(part.startswith("test_") or part in _TESTS for part in path.removesuffix(".py").split("/"))


def _height(name: str, known: Mapping[str, list[_Source]]) -> int:
    """Return in how many packages a module is; namespaces do not count."""
    return sum(bool(known[name[:end]]) for end, character in enumerate(name) if character == ".")


def _closure(
    roots: Iterable[str], known: Mapping[str, list[_Source]], reached: set[str], read: Read
) -> Iterator[_Source]:
    """Yield what is imported with some modules, as far as nothing has reached it before."""
    # The last one comes first, so that what a module imports comes before its neighbours.
    waiting = [Import(name) for name in roots][::-1]
    while waiting:
        wanted = waiting.pop()
        for name in _present(wanted, known):
            if name in reached:
                continue
            reached.add(name)
            for source in known[name]:
                yield source
                text = read(source.directory, source.path)
                if text is not None:
                    waiting += imports(text, source.package)[::-1]


def _present(wanted: Import, known: Mapping[str, object]) -> Iterator[str]:
    """Yield those packages and modules that an import means and that are there, outermost first.

    It goes from name to name as long as they are known: what a hostile source has for names may be long.
    """
    end = -1
    while end < len(wanted.module):
        end = wanted.module.find(".", end + 1)
        if end < 0:
            end = len(wanted.module)
        if wanted.module[:end] not in known:
            return
        yield wanted.module[:end]
    for name in wanted.names:
        if f"{wanted.module}.{name}" in known:
            yield f"{wanted.module}.{name}"
