"""What other programs may read and write: the rule of docs/on-disk-contract.md, as the vectors have it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vectors.generate import VECTORS, vectors
from vrfstore import codec, fs
from vrfstore.model import LinkOptions
from vrfstore.requirements.budget import Caps
from vrfstore.requirements.policy import Policy
from vrfstore.runner import hit, sharing
from vrfstore.store import condemned, leases
from vrfstore.store.layout import FORMAT, MEMO_SCHEMA
from vrfstore.store.machine import Machine
from vrfstore.store.store import Store

CASES: dict[str, Any] = json.loads(VECTORS.read_text(encoding="ascii"))
DOCUMENT = (Path(__file__).parent.parent / "docs/on-disk-contract.md").read_text()


def named(case: dict[str, Any]) -> str:
    return str(case["name"])


def test_the_vectors_are_what_the_rule_says() -> None:
    assert VECTORS.read_text(encoding="ascii") == vectors()
    assert CASES["format"] == FORMAT


def test_the_document_names_the_versions_that_this_code_writes() -> None:
    assert f"format {FORMAT}" in DOCUMENT
    assert f'"schema": {MEMO_SCHEMA}' in DOCUMENT


@pytest.mark.parametrize("case", CASES["inputs"], ids=named)
def test_an_input_digest_is_that_of_the_vectors(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["data"])
    found = hit.input_digest(data, case["python"], case["variables"], case["options"], case["given"])
    assert found == case["digest"]
    assert codec.hexdigest(case["line"].encode("ascii") + data) == found


def test_options_have_the_names_that_the_vectors_have() -> None:
    cases = {case["name"]: case["options"] for case in CASES["inputs"]}
    linking = LinkOptions(
        isolated=True,
        user_site=True,
        allow_collisions=True,
        materialize=("jupyterlab", "torch"),
        prompt="r\xe9sum\xe9 \u2713",
    )
    assert linking.identity == cases["options of linking"]
    policy = Policy(
        index_url="https://index.example/simple",
        allow_builds=True,
        protect=("jupyter-client", "ipykernel"),
        caps=Caps(packages=0),
    )
    assert policy.identity == cases["options of policy"]
    assert Policy(stale_after=604800.0).identity == cases["seconds that are whole"]
    assert sharing.identity("/srv/vrfstore") == cases["a shared store"]
    assert sharing.identity("") == cases["no shared store, whatever is configured"]
    assert sharing.identity(None) == {}


def test_a_stat_token_is_that_of_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CASES["tokens"]:
        names = {"device": "st_dev", "inode": "st_ino", "size": "st_size"}
        names |= {"mtime": "st_mtime_ns", "ctime": "st_ctime_ns"}
        found = type("Stat", (), {names[name]: int(case[name]) for name in names})
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", lambda _path, found=found: found)
            assert fs.stat_token("/") == case["token"]


def test_a_path_has_the_bytes_of_the_vectors() -> None:
    for case in CASES["paths"]:
        assert os.fsencode(case["text"]).hex() == case["bytes"]


def test_a_list_of_condemned_names_is_read_as_the_vectors_say(store: Store) -> None:
    for case in CASES["condemned"]:
        Path(store.layout.condemned).write_bytes(bytes.fromhex(case["list"]))
        found = {os.fsencode(name).decode("latin-1") for name in condemned.names(store.layout)}
        assert found == set(case["names"])


def test_a_lease_until_a_time_has_the_name_of_the_vectors(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for case in CASES["leases"]:
        machine = Machine()
        monkeypatch.setattr(machine, "since_boot", lambda case=case: case["since_boot"])
        monkeypatch.setattr(machine, "wall", lambda case=case: case["wall"])
        monkeypatch.setattr(machine, "boot", lambda case=case: case["boot"])
        monkeypatch.setattr(fs, "unique_name", lambda case=case: case["id"])
        lease = leases.take_until(store.layout, case["seconds"], environment=case["key"], machine=machine)
        assert os.path.basename(lease.path) == case["lease"]
        (record,) = leases.read(store.layout, machine)
        assert (record.alive, record.environment, record.kind) == (True, case["key"], "until")
        lease.release()
