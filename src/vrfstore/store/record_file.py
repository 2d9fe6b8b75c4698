"""RECORD as environments have it: prepared in an entry, or put together where entries are merged. Pure: values only.

After the specification "Recording installed projects". Apart from plans, since those are on the way of every link and
the modules for such rows take 2 ms to load.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

from vrfstore.model import Tree
from vrfstore.store.entry_plan import INSTALLED, installed_path
from vrfstore.store.manifest import StoredFile

__all__ = ["ready_record", "record_bytes"]


def ready_record(
    files: Iterable[StoredFile],
    trees: Mapping[str, Tree],
    *,
    ready: Mapping[str, str],
    record: str,
) -> tuple[bytes, int]:
    """Make the RECORD of an environment in which this entry is folded in the usual way.

    First come the paths of the directory links, then the wheel's own files, then INSTALLER and scripts. An
    uninstaller that works through it removes each link, finds nothing behind it, and so never reaches the store.

    Args:
        files: All files of the entry, the prepared ones (``links/…``) among them.
        trees: What is folded, and what is not.
        ready: For ``<scheme>/<path>`` the prepared file that takes its place.
        record: The path of RECORD itself below site-packages.

    Returns:
        The bytes, and how many of the rows name directory links.
    """
    stored = {file.path: file for file in files}
    folded = sorted(
        installed_path(place) for scheme, tree in trees.items() for place in _folded(tree, f"{scheme}/")
    )
    own = [
        _row(file.path, file)
        for file in stored.values()
        if file.path.partition("/")[0] in INSTALLED and file.path not in ready
    ]
    generated = [_row(place, stored[source]) for place, source in ready.items() if source in stored]
    rows = [(path, "", "") for path in folded] + sorted(own) + sorted(generated) + [(record, "", "")]
    return record_bytes(rows), len(folded)


def _folded(tree: Tree, prefix: str) -> Iterator[str]:
    for name, node in tree.items():
        if isinstance(node, int) or (isinstance(node, dict) and "" in node):
            yield f"{prefix}{name}"
        elif isinstance(node, dict):
            yield from _folded(node, f"{prefix}{name}/")


def _row(place: str, file: StoredFile) -> tuple[str, str, str]:
    encoded = base64.urlsafe_b64encode(bytes.fromhex(file.sha256)).decode().rstrip("=")
    return installed_path(place), f"sha256={encoded}", str(file.size)


def record_bytes(rows: Iterable[Sequence[str]]) -> bytes:
    """Return rows of (path, hash, size) as the bytes of a RECORD."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
