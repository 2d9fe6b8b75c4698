"""What to write instead of a name that is no package: from a table that people have reviewed, never from a network."""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from vrfstore.model import Interpreter

__all__ = ["Names", "advice", "known"]

_LIKENESS = 0.75
"""The ratio of difflib below which names are not alike."""

_SHORTEST = 4
"""Letters. Of shorter names each is like many others."""

_SHORT = 5
"""Letters up to which a name may differ in one only, and not in two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What is known of names, all of them normalised.

    Attributes:
        modules: The distribution that provides a module, by the module's name.
        distributions: Well-known distributions, by their normalised names, as they are written.
        removed: The first Python (3, y) without a module that Python once had.
    """

    modules: dict[str, str]
    distributions: dict[str, str]
    removed: dict[str, tuple[int, int]]


@functools.cache
def known() -> Names:
    """Return what ``names.toml`` has."""
    import tomllib  # noqa: PLC0415 - only a failure needs it
    from importlib.resources import files  # noqa: PLC0415 - only a failure needs it

    table = tomllib.loads(files("vrfstore.requirements").joinpath("names.toml").read_text(encoding="utf-8"))
    modules: dict[str, str] = {canonicalize_name(module): name for module, name in table["modules"].items()}
    names = [*table["distributions"]["names"], *modules.values()]
    return Names(
        modules=modules,
        distributions={canonicalize_name(name): name for name in names},
        removed={
            canonicalize_name(module): (3, int(minor))
            for minor, removed in table["removed"].items()
            for module in removed
        },
    )


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
    version = tuple(int(part) for part in re.findall(r"\d+", interpreter.version)[:2])
    removed = known().removed.get(name)
    if removed is not None:
        return version < removed
    # Of our own Python; what others lack or have is in the table, or is young.
    return name.replace("-", "_") in sys.stdlib_module_names


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
