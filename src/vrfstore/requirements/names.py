"""What to write instead of a name that is no package: from a table that people have reviewed, never from a network."""

from __future__ import annotations

import functools
import re
import sys
from typing import Literal

from packaging.utils import canonicalize_name

from vrfstore.model import Interpreter
from vrfstore.values import dataclass

__all__ = ["Names", "advice", "known", "meant", "normalised", "provider", "spelled", "standing"]

_LIKENESS = 0.75
"""The ratio of difflib below which names are not alike."""

_SHORTEST = 4
"""Letters. Of shorter names each is like many others."""

_SHORT = 5
"""Letters up to which a name may differ in one only, and not in two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What is known of names, normalised unless it is said otherwise.

    Attributes:
        modules: The distribution that provides a module, by the module's name.
        imports: The same by the name as it is imported, dotted where it is within a namespace.
        distributions: Well-known distributions, by their normalised names, as they are written.
        removed: The first Python (3, y) without a module that Python once had.
        replacements: The distribution that has such a module since.
    """

    modules: dict[str, str]
    imports: dict[str, str]
    distributions: dict[str, str]
    removed: dict[str, tuple[int, int]]
    replacements: dict[str, str]


@functools.cache
def known() -> Names:
    """Return what ``names.toml`` has."""
    import tomllib  # noqa: PLC0415 - only a failure needs it
    from importlib.resources import files  # noqa: PLC0415 - only a failure needs it

    table = tomllib.loads(files("vrfstore.requirements").joinpath("names.toml").read_text(encoding="utf-8"))
    modules: dict[str, str] = {canonicalize_name(module): name for module, name in table["modules"].items()}
    names = [*table["distributions"]["names"], *modules.values(), *table["namespaces"].values()]
    return Names(
        modules=modules,
        imports=table["modules"] | table["namespaces"],
        distributions={canonicalize_name(name): name for name in names},
        removed={
            canonicalize_name(module): (3, int(minor))
            for minor, removed in table["removed"].items()
            for module in removed
        },
        replacements={canonicalize_name(module): name for module, name in table["replacements"].items()},
    )


def provider(module: str) -> str | None:
    """Return the distribution that the table knows for a module, or for the innermost package that it is in.

    Args:
        module: A dotted name. Where letters differ in case only (``pil``), it is found as well.
    """
    imports = known().imports
    name = module
    while name:
        if name in imports:
            return imports[name]
        name = name.rpartition(".")[0]
    return known().modules.get(canonicalize_name(module.partition(".")[0]))


def normalised(name: str) -> str:
    """Return a name as indexes compare it (PEP 503)."""
    return str(canonicalize_name(name))


def spelled(name: str) -> str:
    """Return a distribution's name as its makers write it, where that is known."""
    return known().distributions.get(canonicalize_name(name), name)


def standing(module: str, version: str) -> Literal["standard", "removed", ""]:
    """Tell whether the standard library of a Python has a module, or had it once.

    Args:
        module: A dotted name, of which the first counts.
        version: ``X.Y.Z`` of that Python.
    """
    name = canonicalize_name(module.partition(".")[0].lstrip("_")) if module.strip("_.") else ""
    if name in known().removed and not _has(name, version):
        return "removed"
    return (
        "standard" if module.partition(".")[0] in sys.stdlib_module_names or name in known().removed else ""
    )


def meant(name: str) -> str | None:
    """Return the well-known distribution or module that a slip of the keyboard probably stands for."""
    table = known()
    normalised = str(canonicalize_name(name))
    if normalised in table.distributions:
        return None
    names = table.distributions | table.modules
    found = _nearest(normalised, names)
    return None if found is None else names[found]


def advice(name: str, interpreter: Interpreter) -> str:
    """Return what the author of a requirement can do about a package that the index does not have.

    Args:
        name: The normalised name that was asked for.
        interpreter: For whom; its base counts among the names that may have been meant.
    """
    table = known()
    if _comes_with(name, interpreter):
        return f"{name} comes with Python; remove the line"
    if name in table.modules and canonicalize_name(table.modules[name]) != name:
        return f"write {table.modules[name]}, which is what provides {name}"
    if name in table.distributions:
        return "the name is right; an operator can say whether this index should have it"
    names = table.distributions | {base: base for base, _ in interpreter.base}
    meant = _nearest(name, names)
    return f"did you mean {names[meant]}?" if meant is not None else "check the spelling of the name"


def _comes_with(name: str, interpreter: Interpreter) -> bool:
    """Tell whether a name is that of a module of the standard library of a Python."""
    if name in known().removed:
        return _has(name, interpreter.version)
    # Of our own Python; what others lack or have is in the table, or is young.
    return name.replace("-", "_") in sys.stdlib_module_names


def _has(name: str, version: str) -> bool:
    """Tell whether a Python of this version still has a module that later ones lack."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < known().removed[name]


def _nearest(name: str, names: dict[str, str]) -> str | None:
    """Return the one that was probably meant, if there is one that is near enough."""
    import difflib  # noqa: PLC0415 - only a failure needs it

    if len(name) < _SHORTEST:
        return None
    for found in difflib.get_close_matches(name, sorted(names), n=3, cutoff=_LIKENESS):
        matcher = difflib.SequenceMatcher(None, name, found)
        same = sum(block.size for block in matcher.get_matching_blocks())
        if max(len(name), len(found)) - same <= (1 if len(name) <= _SHORT else 2):
            return found
    return None
