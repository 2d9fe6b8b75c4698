"""Starts pip with the environment markers and the packages of another Python; run as a program, by its path.

::

    python -I -S -B pip_starter.py RUNNER PREFIX VARIABLES INSTALLED [ARGUMENT]...

RUNNER is the ``__pip-runner__.py`` of the pip to run, PREFIX the ``sys.prefix`` of the Python that it runs on,
VARIABLES the markers as JSON, and INSTALLED the directory with what counts as installed. Without ``site`` (-S) nothing
else does, and a venv does not find its prefix, where it has its ``pip.conf``.
"""

from __future__ import annotations

import json
import runpy
import sys
from importlib.machinery import ModuleSpec, PathFinder
from os.path import dirname

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any

_FAILED = 64
"""The exit code where pip could not be lent anything; pip itself has none so high. ``pip.py`` knows it."""


class _PipFinder:
    """Finds pip where it is, and nothing else beside it."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path
        return PathFinder.find_spec(name, [self._directory], target) if name == "pip" else None


def main(runner: str, prefix: str, variables: str, installed: str, *arguments: str) -> None:
    """Run pip, which ends the process."""
    sys.prefix = sys.exec_prefix = prefix
    sys.meta_path.insert(0, _PipFinder(dirname(dirname(runner))))
    sys.path.append(installed)

    def lent() -> Any:
        return json.loads(variables)

    try:
        # Before anything of pip takes hold of the function.
        from pip._vendor.packaging import markers  # noqa: PLC0415

        known = callable(markers.default_environment)
    except (ImportError, AttributeError):
        known = False
    if not known:
        sys.stderr.write("nothing is known of how it evaluates environment markers\n")
        sys.exit(_FAILED)
    markers.default_environment = lent
    sys.argv = [runner, *arguments]
    runpy.run_path(runner, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
