"""What may be wrong with a store, its file system, or the tools around it.

One half looks and decides nothing; its answer is ``Facts``. The other half, ``judge``, is pure::

    look ──Facts──▶ judge ──▶ Finding …

Works where a store cannot be opened, and never makes one. The one thing it writes is a directory of probes under
a random name, in the store's ``tmp/`` or, where there is no store yet, in the nearest directory above its place.
Nothing is written where the format is unknown, where something else has the place, or where one may only read.
No program that somebody else's store names is started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from vrfstore.runner.doctor.facts import Finding
from vrfstore.runner.doctor.judge import judge as _judge
from vrfstore.runner.doctor.look import look as _look
from vrfstore.store.store import default_root

__all__ = ["examine", "store_root"]


def examine(root: str | None, variables: Mapping[str, str]) -> tuple[Finding, ...]:
    """Look at everything that a store needs, and say what is good and what is not.

    Args:
        root: The store's directory; ``None`` for the usual one.
        variables: The environment variables that decide: ``VRFSTORE_HOME``, ``VRFSTORE_PYTHON``, ``PATH``.
    """
    return _judge(_look(store_root(root, variables), variables))


def store_root(root: str | None, variables: Mapping[str, str]) -> str:
    """Return the absolute path of the store that is meant."""
    asked = root or variables.get("VRFSTORE_HOME")
    return os.path.abspath(asked) if asked else default_root()
