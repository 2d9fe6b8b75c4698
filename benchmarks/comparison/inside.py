"""Environments made in this process, of wheels that are in the store: what linking takes without starting Python.

usage: python inside.py STORE ENVIRONMENT     prints milliseconds as JSON

The first environment is not counted: what is imported on first use is not what linking takes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

sys.path.append(str(Path(__file__).parent.parent))

from linking import Ours
from vrfstore.store.store import Store


def main() -> None:
    """Make a few, and print."""
    directory, environment = sys.argv[1:]
    ours = Ours(Store.open(directory), cast("Any", SimpleNamespace(environment=environment)))
    for _ in range(4):
        ours.whole()
    print(json.dumps(ours.parts["whole"][1:]))


if __name__ == "__main__":
    main()
