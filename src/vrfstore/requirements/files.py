"""Files that ask for something, before anything of them is parsed: what they are by their names, and their bytes."""

from __future__ import annotations

import os
import re

from vrfstore.errors import RequirementsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, TypeAlias

__all__ = ["LARGEST", "Kind", "is_trusted", "kind_of", "read"]

Kind: TypeAlias = "Literal['lock', 'project', 'script', 'text']"

LARGEST = 1 << 20
"""Bytes of a requirements text or a project, which people read; more than this is something else."""


def kind_of(path: str, service: str = "") -> Kind:
    """Return what a file is by its name.

    Args:
        path: The file.
        service: The NAME of the ``pylock.NAME.toml`` that is meant for us.

    Raises:
        RequirementsError: It is a lock for somebody else.
    """
    name = os.path.basename(path)
    if name != "pylock.toml" and _is_lock(name):
        whose = re.fullmatch(r"pylock\.([^.]+)\.toml", name)
        if whose is None or whose[1] != service:
            raise RequirementsError(
                f"{name} is not a lock for here: "
                + (f"the name that is configured is {service}" if service else "no name is configured"),
                kind="lock-name",
                path=path,
                hint=f"use pylock.toml{f' or pylock.{service}.toml' if service else ''}",
            )
    if _is_lock(name):
        return "lock"
    if name == "pyproject.toml":
        return "project"
    return "script" if name.endswith(".py") else "text"


def _is_lock(name: str) -> bool:
    return name.startswith("pylock.") and name.endswith(".toml")


def is_trusted(path: str) -> bool:
    """Whether a file may say where code comes from, by its name."""
    name = os.path.basename(path)
    return name.endswith((".txt", ".in")) or name == "pyproject.toml" or _is_lock(name)


def read(path: str, limit: int = LARGEST) -> bytes:
    """Return the bytes of a file that says what is wanted.

    Args:
        path: The file.
        limit: Bytes; a larger file is refused.

    Raises:
        RequirementsError: It is missing, is not a file, cannot be read, or is larger than the limit.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(limit + 1)
    except FileNotFoundError as error:
        raise RequirementsError(
            "there is no such file", kind="requirements-missing", path=path, hint="check the path"
        ) from error
    except OSError as error:
        raise RequirementsError(
            f"the file cannot be read: {error.strerror}", kind="requirements-unreadable", path=path
        ) from error
    if len(data) > limit:
        raise RequirementsError(
            f"the file has more than {limit >> 20} MiB; that is no requirements file",
            kind="requirements-too-large",
            path=path,
        )
    return data
