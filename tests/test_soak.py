"""A minute of linkers, collectors and readers on one store; ``make soak`` is ten."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support import figures

PROGRAM = Path(__file__).parent / "soak.py"


@pytest.mark.slow
def test_in_a_minute_of_links_beside_greedy_collectors_nothing_fails() -> None:
    command = [sys.executable, str(PROGRAM), "--seconds", "60", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    figures.note(
        "soak",
        f"{found['links']:,} links, {found['readers']:,} readers and {found['collections']:,} collections in 60 s, "
        f"{found['failures']} failures; a link took {found['link_p50_ms']} ms (p50), {found['link_p99_ms']} ms (p99), "
        f"{found['link_longest_ms']} ms (longest)",
    )
    assert found["failures"] == 0
    # They really were in each other's way.
    for each in (
        "links",
        "readers",
        "collections",
        "environments_collected",
        "entries_collected",
        "forgotten",
    ):
        assert found[each] > 10, each
