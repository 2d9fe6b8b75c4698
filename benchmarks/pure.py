"""The pure parts, measured with pytest-benchmark, beside the last run that was kept.

usage: .venv/bin/python benchmarks/pure.py [--keep] [--limit FACTOR]     (or: make bench-micro [KEEP=1])

``results/micro.json`` is the run that was kept. What is compared are minima: other processes only ever add to a time.
Exits with 1 where something takes more than FACTOR times as long as then, and neither says much between machines.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from comparison.machine import commit
from comparison.micro import compared, kept_of

ROOT = Path(__file__).parent.parent
KEPT = Path(__file__).parent / "results/micro.json"
LIMIT = 1.5


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="keep this run, to compare later ones with")
    parser.add_argument("--limit", type=float, default=LIMIT)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch, "found.json")
        # Without the options of the tests, which leave the plugin out.
        options = ["-o", "addopts=", "-q", "--benchmark-quiet", f"--benchmark-json={found}"]
        options += [f"--benchmark-storage=file://{scratch}"]
        words = [sys.executable, "-m", "pytest", *options, "-p", "no:xdist", "benchmarks/micro"]
        subprocess.run(words, cwd=ROOT, check=True, stdout=sys.stderr)
        now = kept_of(json.loads(found.read_text()), commit())
    before = json.loads(KEPT.read_text()) if KEPT.exists() else None
    text, slower = compared(now, before, asked.limit)
    print(text)
    if asked.keep:
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(now, indent=1) + "\n")
    elif slower:
        sys.exit(f"slower than the run that was kept: {', '.join(slower)}")


if __name__ == "__main__":
    main()
