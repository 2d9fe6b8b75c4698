"""Resolving for an interpreter that is not here: what sets it apart, and what pip is shown of it.

pip's options choose files for another Python, but it evaluates environment markers as the Python that it runs on,
and leaves out what is installed there. So ``pip_starter.py`` lends it the markers and the packages of the target;
that it took them is checked in its report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrfstore import fs
from vrfstore.errors import ResolutionError
from vrfstore.model import Interpreter
from vrfstore.target import describe, marker_environment
from vrfstore.values import fields

__all__ = ["Target", "check_environment", "read", "unknown_pip", "write_installed"]


class Target(Interpreter):
    """An interpreter that a file describes, and that is never started.

    Its environments are not those of an interpreter at the same path here: nobody looks whether their ``python``
    leads anywhere. Two targets that differ only in their C library and packages share those with the same wheels.
    """

    __slots__ = ()

    @property
    def identity(self) -> dict[str, object]:
        """What an environment key covers, with the key ``target``, which no other interpreter has."""
        return {**super().identity, "target": True}


def read(path: str) -> Target:
    """Return the interpreter that a file describes; see ``target.describe``.

    Raises:
        InterpreterError: It cannot be read, or describes nothing that can be linked for.
    """
    described = describe(path)
    return Target(**{field.name: getattr(described, field.name) for field in fields(described)})


def write_installed(target: Target, directory: str) -> None:
    """Make a directory in which pip finds the packages of a target, as far as their names and versions go."""
    fs.make_directory(directory)
    for name, version in target.base:
        place = f"{directory}/{name.replace('-', '_')}-{version}.dist-info"
        fs.make_directory(place)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        fs.write_file(f"{place}/METADATA", metadata.encode())


def check_environment(report: Mapping[str, Any], target: Target) -> None:
    """Make sure that pip has evaluated markers for a target: a later one may have other ways to.

    Args:
        report: pip's installation report (version 1).
        target: For whom it was to resolve.

    Raises:
        ResolutionError: It has not, ``resolver-target``.
    """
    found = report.get("environment")
    wanted = marker_environment(target)
    if found == wanted:
        return
    said = found if isinstance(found, dict) else {}
    name = min(name for name in {*wanted, *said} if said.get(name) != wanted.get(name))
    raise unknown_pip(f"{name} was {said.get(name)!r}, and is {wanted.get(name)!r}")


def unknown_pip(reason: str) -> ResolutionError:
    """Return the error for a pip that cannot be made to resolve for a target."""
    return ResolutionError(
        f"pip did not resolve for the target: {reason}",
        kind="resolver-target",
        hint="install an older pip beside vrfstore, or link where the interpreter is",
    )
