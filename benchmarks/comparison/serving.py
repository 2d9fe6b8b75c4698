"""An index on loopback, in a process of its own: what tools take of processors is not what it takes."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent.parent / "tests"))

from support.index import Index  # noqa: E402 - tests are no package that is installed
from support.wheels import WheelSpec  # noqa: E402

__all__ = ["served"]


@contextmanager
def served(sources: Sequence[Path | WheelSpec]) -> Iterator[str]:
    """Serve wheels, with hashes and metadata (PEP 503, 658, 691), and give the URL of the index."""
    here, there = multiprocessing.Pipe()
    # Not forked: the child would have all that this process has.
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(list(sources), there))
    process.start()
    there.close()
    try:
        yield here.recv()
    finally:
        here.close()
        process.join()


def _serve(sources: list[Path | WheelSpec], answer: multiprocessing.connection.Connection) -> None:
    """Serve until there is nobody any more who wants it."""
    with Index(sources) as index:
        index.warm()
        answer.send(index.url)
        try:
            answer.recv()
        except EOFError:
            return
