"""An index on loopback, in a process of its own: what tools take of processors is not what it takes.

usage: python serving.py WHEEL...      serves until stdin ends, after it has printed the URL of the index
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

__all__ = ["served"]

_TESTS = Path(__file__).parent.parent.parent / "tests"


@contextmanager
def served(wheels: Sequence[Path]) -> Iterator[str]:
    """Serve wheels, with hashes and metadata (PEP 503, 658, 691), and give the URL of the index."""
    words = [sys.executable, __file__, *map(str, wheels)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        # What Popen says of pipes that were asked for.
        requests, answers = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
        url = answers.readline().strip()
        if not url:
            raise RuntimeError("the index did not start")
        yield url
        requests.close()


def _main() -> None:
    """Serve."""
    sys.path.append(str(_TESTS))
    from support.index import Index  # noqa: PLC0415 - tests are no package that is installed

    with Index(Path(name) for name in sys.argv[1:]) as index:
        # Else whoever comes first would wait for hashes of all.
        index.warm()
        print(index.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _main()
