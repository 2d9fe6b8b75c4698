"""The base in the place of an environment that cannot be had: a document may do without, a service must not stop.

What is handed out is looked at first: a python that does not start, or has no kernel, only moves the failure to where
nobody expects it.
"""

from __future__ import annotations

from vrfstore import interpreter as probing
from vrfstore.errors import InterpreterError
from vrfstore.starting import start
from vrfstore.values import dataclass

__all__ = ["Fallback", "find"]

_KERNEL = "import ipykernel.kernelapp"
"""What a kernel begins with: that it is there does not say that it can be imported."""

_PATIENCE = 10.0
"""Seconds for one look; it comes on top of a time limit that has been hit."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """A base that starts.

    Attributes:
        python: Its absolute path.
        warnings: What it lacks.
    """

    python: str
    warnings: tuple[str, ...] = ()


def find(asked: str | None) -> Fallback | None:
    """Return the base that is asked for, or where that does not start the usual one; None where neither does.

    Args:
        asked: The interpreter as the caller named it; None for the usual one.
    """
    warnings: list[str] = []
    for candidate in dict.fromkeys((asked, None)):
        try:
            python = probing.find(candidate)
            start(python, "", seconds=_PATIENCE)
        except InterpreterError as error:
            warnings.append(f"it cannot be fallen back on {candidate or 'the usual Python'}: {error}")
            continue
        try:
            start(python, _KERNEL, seconds=_PATIENCE)
        except InterpreterError as error:
            warnings.append(f"{python} cannot run a kernel: {error}; install ipykernel there")
        return Fallback(python, tuple(warnings))
    return None
