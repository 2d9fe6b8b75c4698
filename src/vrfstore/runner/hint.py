"""What to do about an import that failed: decided purely, from what was seen. Nothing is ever installed.

::

    traceback ──import_failure.find──▶ ImportFailure ─┐
                                                      ├─ decide ─▶ Hint
    project, base, store, table, index ─▶ Surroundings ┘

``hinting`` does the looking. The first that knows the module decides: a file of the project, Python itself, the base,
the store's index of every wheel it has had, the reviewed table (``requirements.names``), and at last the same name.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Literal

from vrfstore.requirements import names
from vrfstore.runner.import_failure import ImportFailure
from vrfstore.values import dataclass, field, replace

__all__ = ["Hint", "Known", "Surroundings", "candidates", "decide", "libraries"]

Source = Literal["project", "python", "base", "environment", "store", "table", "name", "system", ""]

_MOST = 5
"""Distributions that are told."""


@dataclass(frozen=True, slots=True)
class Known:
    """A distribution that is installed somewhere; the version is empty where nobody could tell which it is."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What was seen around a failed import.

    Attributes:
        local: Paths of files and directories of the project that have the module's name.
        python: The version of the interpreter; empty where none was looked at.
        base: What provides the module in the base.
        installed: What provides it where the traceback found it, or in the environment.
        indexed: Distributions that the store has seen bring it, sorted.
        exists: What an index said of names, where it was asked.
        requirements: The requirements file to edit; empty where there is none.
        asked: The lines of it (0 where that has no meaning) that ask for a distribution, by normalised name.
    """

    local: tuple[str, ...] = ()
    python: str = ""
    base: Known | None = None
    installed: Known | None = None
    indexed: tuple[str, ...] = ()
    exists: Mapping[str, bool] = field(default_factory=dict)
    requirements: str = ""
    asked: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hint:
    """What there is to say.

    Attributes:
        kind: As of the ``ImportFailure``.
        module: The module, or the library.
        source: Who knew.
        message: What is the matter, in one sentence.
        advice: What to do about it; empty where nobody knows.
        distributions: Who may provide the module, the likeliest first.
        exists: Whether an index has the first of them; None where none was asked, or none knew.
        requirements: The file to edit; empty where none is to be.
        line: What to add to it.
        debian: The system package of Debian and its like.
        fedora: The same of Fedora.
    """

    kind: str
    module: str
    source: Source
    message: str
    advice: str = ""
    distributions: tuple[str, ...] = ()
    exists: bool | None = None
    requirements: str = ""
    line: str = ""
    debian: str = ""
    fedora: str = ""


def candidates(failure: ImportFailure, indexed: tuple[str, ...]) -> tuple[Source, tuple[str, ...]]:
    """Return who may provide a module, the likeliest first, and who says so.

    Args:
        failure: The import.
        indexed: What the store has seen bring the module, sorted.
    """
    wanted = failure.wanted or failure.module
    top = wanted.partition(".")[0]
    listed = names.provider(wanted)
    if indexed:
        # Of several, the one that is meant usually; else the one that is called like the module.
        likely = [names.normalised(name) for name in (listed or "", top)]
        ranked = sorted(
            indexed, key=lambda name: (likely.index(name) if name in likely else len(likely), name)
        )
        return "store", tuple(map(names.spelled, ranked[:_MOST]))
    if listed is not None:
        return "table", (listed,)
    return "name", (names.spelled(top.replace("_", "-")),)


def decide(failure: ImportFailure, seen: Surroundings) -> Hint:
    """Return what there is to say about a failed import."""
    match failure.kind:
        case "library" | "symbol":
            return _of_library(failure)
        case "shadowed":
            return _of_shadow(failure, seen)
        case "name":
            return _of_name(failure, seen)
        case _:
            return _of_module(failure, seen)


def _of_module(failure: ImportFailure, seen: Surroundings) -> Hint:
    module, top = failure.module, failure.module.partition(".")[0]
    hint = Hint(kind="module", module=module, source="", message="")
    if seen.local:
        return _of_local(hint, seen.local[0])
    standing = names.standing(module, seen.python) if seen.python else ""
    if standing == "standard":
        return _of_standard(hint)
    below = seen.installed or seen.base
    if below is not None and "." in module:
        advice = "check the spelling, or ask for a version that has it"
        message = f"{_versioned(below)} is there and has no module {module}"
        return replace(
            hint, source="environment" if seen.installed else "base", message=message, advice=advice
        )
    if seen.installed is not None:
        message = f"{_versioned(seen.installed)} is in the environment and provides {module}"
        advice = "the command was run by another python; see which one: python -c 'import sys; print(sys.executable)'"
        return replace(hint, source="environment", message=message, advice=advice)
    if standing == "removed":
        return _of_removed(hint, seen)
    if seen.base is not None:
        message = f"{_versioned(seen.base)} is in the base interpreter and provides {top}"
        added = _to_add(replace(hint, source="base", message=message), (names.spelled(seen.base.name),), seen)
        others = "environments see it unless they were linked with --isolated, and other pythons do not"
        return replace(added, advice=f"{others}; to have it in any case, {added.advice}")
    source, providers = candidates(failure, seen.indexed)
    hint = replace(hint, source=source)
    if source == "name":
        return _of_same_name(hint, providers[0], seen)
    others = f"; so do {', '.join(providers[1:])}" if providers[1:] else ""
    said = {"store": "as wheels say that this store has had", "table": "as is well known"}[source]
    message = f"{providers[0]} provides {failure.wanted or module}, {said}{others}"
    if seen.exists.get(providers[0]) is False:
        message += "; but the index does not have it"
    return _to_add(replace(hint, message=message), providers, seen)


def _of_local(hint: Hint, path: str) -> Hint:
    module, top = hint.module, hint.module.partition(".")[0]
    if "." in module:
        message = f"{top} is of the project itself ({path}), and has no module {module}"
        return replace(hint, source="project", message=message, advice="check the spelling, or add the file")
    directory = path.rpartition("/")[0] or "/"
    return replace(
        hint,
        source="project",
        message=f"{module} is of the project itself ({path}) and no package",
        advice=f"let Python look there: run the command in {directory}, or with PYTHONPATH={directory}",
    )


def _of_standard(hint: Hint) -> Hint:
    top = hint.module.partition(".")[0]
    system = {name: libraries()[f"{name}-modules"].get(top, "") for name in ("debian", "fedora")}
    if "." in hint.module and not any(system.values()):
        message = f"{top} comes with Python and has no module {hint.module}"
        return replace(hint, source="python", message=message, advice="check the spelling")
    return replace(
        hint,
        source="python",
        message=f"{top} comes with Python, and no package provides it",
        advice=f"where it cannot be imported, {_install(system) or 'use a Python that was built with it'}",
        debian=system["debian"],
        fedora=system["fedora"],
    )


def _of_removed(hint: Hint, seen: Surroundings) -> Hint:
    top = hint.module.partition(".")[0]
    message = f"{top} is no longer a part of Python (this is {seen.python})"
    provider = names.known().replacements.get(names.normalised(top))
    hint = replace(hint, source="python", message=message)
    if provider is None:
        return replace(hint, advice="use what the documentation of Python names instead, or an older Python")
    return _to_add(replace(hint, message=f"{message}; {provider} provides it"), (provider,), seen)


def _of_same_name(hint: Hint, name: str, seen: Surroundings) -> Hint:
    top, exists = hint.module.partition(".")[0], seen.exists.get(name)
    meant = names.meant(top)
    if names.normalised(name) not in names.known().distributions:
        if meant is not None:
            message = f"nothing known here provides {top}"
            return replace(hint, message=message, advice=f"did you mean {meant}?", exists=exists)
        if exists is False:
            message = f"nothing known here provides {top}, and the index has no package of that name"
            return replace(hint, message=message, advice="check the spelling of the import", exists=exists)
        message = (
            f"nothing known here provides {top}; often the package has the same name, but look at its page before you "
            "add it: anybody may have taken the name"
        )
        return _to_add(replace(hint, message=message), (name,), seen)
    return _to_add(replace(hint, message=f"{name} is a package of that name"), (name,), seen)


def _to_add(hint: Hint, providers: tuple[str, ...], seen: Surroundings) -> Hint:
    """Say which line to add where, or that it is there already."""
    hint = replace(hint, distributions=providers, exists=seen.exists.get(providers[0]))
    path = seen.requirements
    # Any of them would do, if it is asked for.
    asked = next((name for name in providers if names.normalised(name) in seen.asked), None)
    if asked is not None:
        line = seen.asked[names.normalised(asked)]
        where = f"{path}:{line}" if line else path
        advice = f"{where} asks for {asked} already: link it again, and use the python that this prints"
        return replace(hint, advice=f"{advice}: vrfstore link {path}", requirements=path)
    line_to_add = f'"{providers[0]}"' if path.endswith((".toml", ".py")) else providers[0]
    if not path:
        advice = f"add a line to the requirements file: {providers[0]}"
    elif path.endswith(".toml") and path.rpartition("/")[2].startswith("pylock."):
        return replace(hint, advice=f"add {providers[0]} to what {path} was locked from, and lock it again")
    elif path.endswith((".toml", ".py")):
        advice = f"add to the dependencies in {path}: {line_to_add}"
    else:
        advice = f"add a line to {path}: {line_to_add}"
    return replace(hint, advice=advice, requirements=path, line=line_to_add)


def _of_name(failure: ImportFailure, seen: Surroundings) -> Hint:
    module = failure.module
    hint = Hint(kind="name", module=module, source="", message=f"{module} has no {failure.name}")
    if seen.local:
        message = (
            f"{module} is the project's own {failure.path or seen.local[0]}, which has no {failure.name}"
        )
        stands = _stands_for(module, seen)
        if stands:
            return _renamed(hint, failure.path or seen.local[0], stands)
        return replace(hint, source="project", message=message, advice="check the spelling")
    if seen.python and names.standing(module, seen.python) == "standard":
        message = f"{module} of Python {seen.python} has no {failure.name}"
        return replace(
            hint, source="python", message=message, advice="check the spelling, or use another Python"
        )
    there = seen.installed or seen.base
    if there is None:
        advice = "the version that is installed may be too old or too new, or the name is misspelt"
        return replace(hint, advice=advice)
    spelled, version = names.spelled(there.name), there.version
    where = seen.requirements or "the requirements file"
    return replace(
        hint,
        source="environment" if seen.installed else "base",
        message=f"{_versioned(there)} has no {failure.name} in {module}",
        advice=f"it may be too old or too new: look up which versions have it, and ask for them in {where}, as in: "
        f"{spelled}>{version} (or <{version})",
        distributions=(spelled,),
        requirements=seen.requirements,
    )


def _of_shadow(failure: ImportFailure, seen: Surroundings) -> Hint:
    module = failure.module
    hint = Hint(kind="shadowed", module=module, source="", message=f"{module} is no package")
    path = failure.path or next(iter(seen.local), "")
    stands = _stands_for(module, seen)
    if not path or (seen.installed is not None and not seen.local):
        what = f"{module}.{failure.name}" if failure.name else "what was imported"
        return replace(hint, message=f"there is no {what}", advice="check the spelling of the import")
    if stands:
        return _renamed(hint, path, stands)
    return replace(
        hint,
        source="project",
        message=f"{path} is imported while it is still being imported: by what it imports itself",
        advice="move what both need into a module of its own, or import it where it is used",
    )


def _stands_for(module: str, seen: Surroundings) -> str:
    """Return what a file of the project with the module's name keeps Python from finding; empty for nothing known."""
    top = module.partition(".")[0]
    if seen.python and names.standing(top, seen.python) == "standard":
        return f"Python's own {top}"
    if seen.base is not None or seen.installed is not None or seen.indexed or names.provider(top):
        return f"the package {top}"
    return f"the package {top}" if names.normalised(top) in names.known().distributions else ""


def _renamed(hint: Hint, path: str, stands: str) -> Hint:
    return replace(
        hint,
        source="project",
        message=f"{path} has the name of {stands} and is imported instead of it",
        advice="rename the file, and remove what is called like it in __pycache__ beside it",
    )


def _of_library(failure: ImportFailure) -> Hint:
    library = failure.library
    if failure.kind == "symbol":
        return Hint(
            kind="symbol",
            module=library,
            source="system",
            message=f"{failure.path} is older than {library}, which a package was built for",
            advice="ask for an older version of the package, or use a newer system",
        )
    system = {name: libraries()[name].get(library, "") for name in ("debian", "fedora")}
    return Hint(
        kind="library",
        module=library,
        source="system" if any(system.values()) else "",
        message=f"the system lacks the shared library {library}, which a package needs",
        advice=_install(system) or "find which package of the system has it, and ask the operator for it",
        debian=system["debian"],
        fedora=system["fedora"],
    )


def _install(system: Mapping[str, str]) -> str:
    said = [
        f"{command} {system[name]} ({title})"
        for name, command, title in (
            ("debian", "apt-get install", "Debian, Ubuntu"),
            ("fedora", "dnf install", "Fedora"),
        )
        if system[name]
    ]
    return f"ask the operator for: {'; or '.join(said)}" if said else ""


def _versioned(known: Known) -> str:
    return f"{names.spelled(known.name)} {known.version}".rstrip()


@functools.cache
def libraries() -> dict[str, dict[str, str]]:
    """Return what ``libraries.toml`` has, by table."""
    import tomllib  # noqa: PLC0415 - only a missing library needs it
    from importlib.resources import files  # noqa: PLC0415 - as above

    text = files("vrfstore.runner").joinpath("libraries.toml").read_text(encoding="utf-8")
    tables: dict[str, dict[str, str]] = tomllib.loads(text)
    return tables
