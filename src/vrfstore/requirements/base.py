"""What the base has, as a resolver has to know it: what it says of itself, and stand-ins for it on no index."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from vrfstore import fs
from vrfstore.model import Interpreter, Lock
from vrfstore.needs import Described, needs
from vrfstore.target import marker_environment

if TYPE_CHECKING:
    from vrfstore.requirements.request import Request

__all__ = ["distributions", "is_same_version", "shadowed", "write_stand_ins"]


def distributions(interpreter: Interpreter) -> list[Described]:
    """Return what the packages of a base say of themselves, each name once, as the base sees it; read from their files.

    What cannot be read says nothing.
    """
    import importlib.metadata  # noqa: PLC0415 - as below; it loads email and zipfile

    from packaging.utils import canonicalize_name  # noqa: PLC0415 - 20 ms that most calls do not pay

    found: dict[str, Described] = {}
    for each in importlib.metadata.distributions(path=list(interpreter.site_directories)):
        try:
            name, version, requires = each.metadata["Name"], each.version, each.requires
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if name and version:
            normalised = str(canonicalize_name(name))
            found.setdefault(normalised, Described(normalised, version, tuple(requires or ())))
    return list(found.values())


def shadowed(request: Request, lock: Lock) -> Iterator[str]:
    """Yield a warning for whatever in the base needs another version than the one that comes before it now."""
    base = request.base
    new = {wheel.name: wheel.version for wheel in lock.wheels if wheel.name in base}
    if not new:
        return
    variables = marker_environment(request.interpreter)
    for found in distributions(request.interpreter):
        if found.name in new:
            continue
        for need in needs(found, variables, among=new.keys()):
            version = new[need.name]
            # What the base did not have in order before is not this environment's doing.
            if not need.accepts(version) and need.accepts(base[need.name]):
                yield (
                    f"{found.name} {found.version} of the base needs {need.written}{need.specifier}, and will find "
                    f"{version}: the environment's comes before the base's {base[need.name]}"
                )


def write_stand_ins(interpreter: Interpreter, versions: Mapping[str, str], directory: str) -> None:
    """Make a directory of wheels that say what packages of a base say, and hold nothing else.

    A resolver that does not see the base can choose those where no index has that version; what it then chose is there.

    Args:
        interpreter: The base.
        versions: What is to be there: versions by normalised name.
        directory: Is made.
    """
    from zipfile import ZipFile  # noqa: PLC0415 - 5 ms that hardly anybody pays

    from packaging.version import InvalidVersion, Version  # noqa: PLC0415 - as above

    fs.make_directory(directory)
    for found in distributions(interpreter):
        if versions.get(found.name) != found.version:
            continue
        try:
            version = str(Version(found.version))
        except InvalidVersion:
            continue
        stem = f"{found.name.replace('-', '_')}-{version}"
        metadata = [
            "Metadata-Version: 2.1",
            f"Name: {found.name}",
            f"Version: {version}",
            *(f"Requires-Dist: {text}" for text in _readable(found.requires)),
            "",
        ]
        members = {
            "METADATA": "\n".join(metadata),
            "WHEEL": "Wheel-Version: 1.0\nGenerator: vrfstore\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        with ZipFile(os.path.join(directory, f"{stem}-py3-none-any.whl"), "w") as wheel:
            for name, text in members.items():
                wheel.writestr(f"{stem}.dist-info/{name}", text)


def _readable(requires: Iterable[str]) -> Iterator[str]:
    """Yield requirements, each in one line; not what nobody can read, for which a resolver would refuse all of it."""
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415 - as above

    for text in requires:
        try:
            yield str(Requirement(" ".join(text.split())))
        except (InvalidRequirement, RecursionError):
            continue


def is_same_version(one: str | None, other: str | None) -> bool:
    """Whether two texts are one version (PEP 440), in whatever words; False where one is None."""
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415 - as above

    try:
        return one is not None and other is not None and Version(one) == Version(other)
    except InvalidVersion:
        return one == other
