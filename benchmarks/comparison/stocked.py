"""Fill a store with so many entries, nine tenths of them of environments that nobody has used for long.

usage: python stocked.py STORE SCRATCH ENTRIES
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from collecting import Maker
from vrfstore.store.store import Store


def main() -> None:
    """Fill it."""
    directory, scratch, entries = sys.argv[1:]
    Maker(Store.open(directory, durable=False), Path(scratch)).fill(int(entries))


if __name__ == "__main__":
    main()
