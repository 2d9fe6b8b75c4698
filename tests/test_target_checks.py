"""Environments of targets are sound although their python leads nowhere here."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import vrfstore
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.cli.running import run
from vrfstore.store.store import Store

DESCRIPTION = {"version": "3.12.3", "platform": "linux-aarch64"}


@pytest.fixture(params=["gone", "there"])
def place(request: pytest.FixtureRequest, index: Index, store: Store, tmp_path: Path) -> Path:
    """Return an environment of one's own; there is a managed one of the same too."""
    python = tmp_path / "image/bin/python3.12"
    if request.param == "there":
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
        python.chmod(0o755)
    index.add(WheelSpec(name="alpha", requires=["beta"]))
    requirements, file = tmp_path / "requirements.vrf", tmp_path / "target.json"
    requirements.write_text("alpha\n")
    file.write_text(json.dumps(DESCRIPTION | {"executable": str(python), "base": {"beta": "1"}}))
    vrfstore.link(requirements, store=store, target=file)
    return Path(vrfstore.link(requirements, store=store, target=file, into=tmp_path / "own").environment)


def vrf(store: Store, *arguments: object) -> int:
    return run(["--store", store.root, *(str(argument) for argument in arguments)])


def test_nothing_is_wrong_with_the_environment_of_a_target(
    place: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vrf(store, "env", "check", place) == 0
    assert vrf(store, "env", "check", "--all") == 0
    assert vrf(store, "env", "heal", place) == 0
    assert vrf(store, "verify") == 0
    capsys.readouterr()
    vrf(store, "doctor")
    assert "stands on" not in capsys.readouterr().out
    assert vrf(store, "run", place, "--", "python") == 2
    assert not (tmp_path / "started").exists()


def test_what_has_drifted_there_is_found_and_mended(place: Path, store: Store) -> None:
    link = place / "bin/python"
    for elsewhere in (False, True):
        link.unlink()
        if elsewhere:
            link.symlink_to("/elsewhere")
        (place / "lib/python3.12/site-packages/alpha").unlink()
        assert vrf(store, "env", "check", place) == 23
        assert vrf(store, "env", "heal", place) == 0
        assert vrf(store, "env", "check", place) == 0
        assert os.readlink(link).endswith("image/bin/python3.12")
    record = json.loads((place / "vrfstore.json").read_text())
    assert record["interpreter"]["target"] is True


def test_a_repointed_python_of_a_managed_one_is_damage(place: Path, store: Store) -> None:
    (name,) = store.environments()
    link = Path(store.layout.of("environments", name), "bin/python")
    link.unlink()
    link.symlink_to("/elsewhere")
    assert vrf(store, "verify") == 17
    assert vrf(store, "verify", "--repair") == 0
    assert vrf(store, "verify") == 0
