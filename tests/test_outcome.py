"""What a link answers: every field, and variables with which a command really runs there."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from support.bases import base_with
from support.commands import Command, check_link, commands
from support.index import Index
from support.wheels import WheelSpec
from vrfstore.errors import ResolutionError, WheelError
from vrfstore.runner import outcome
from vrfstore.runner.outcome import Outcome
from vrfstore.runner.run import base_variables
from vrfstore.store.store import Store


@pytest.fixture
def command(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands(store, capsys)


@pytest.fixture
def requirements(index: Index, tmp_path: Path) -> Path:
    index.add(WheelSpec(name="pear", files={"pear.py": "ripe = True\n"}))
    index.add(WheelSpec(name="plum"))
    path = tmp_path / "requirements.vrf"
    path.write_text("pear\n")
    return path


def link(command: Command, requirements: Path, *options: str) -> dict[str, Any]:
    ended = command("link", requirements, "--json", *options)
    assert ended.code == 0, ended.err
    return ended.document


def test_bytes_are_what_came_what_is_new_and_what_was_there(command: Command, requirements: Path) -> None:
    built = link(command, requirements)["bytes"]
    assert built["downloaded"] > 0
    assert built["unpacked"] > 0
    assert built["shared"] == 0
    assert link(command, requirements)["bytes"] == {
        "downloaded": 0,
        "unpacked": 0,
        "shared": built["unpacked"],
    }
    requirements.write_text("pear\nplum\n")
    both = link(command, requirements)["bytes"]
    assert both["shared"] == built["unpacked"]
    assert both["unpacked"] > 0
    linked = link(command, requirements, "--prompt", "x")["bytes"]
    assert linked == {"downloaded": 0, "unpacked": 0, "shared": both["shared"] + both["unpacked"]}


def test_resolved_at_is_when_it_was_found_out_and_stays_so(
    command: Command, requirements: Path, tmp_path: Path
) -> None:
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    first = link(command, requirements)["resolved_at"]
    assert before <= first <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    time.sleep(1.1)
    assert link(command, requirements)["resolved_at"] == first
    assert link(command, requirements, "--prompt", "x")["resolved_at"] == first
    assert link(command, requirements, "--refresh")["resolved_at"] > first


def test_what_has_not_been_resolved_was_resolved_at_no_time(command: Command, requirements: Path) -> None:
    requirements.write_text("")
    assert link(command, requirements)["resolved_at"] is None


def test_with_the_variables_a_command_runs_in_the_environment(
    command: Command, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = link(command, requirements)
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    document["env"] = link(command, requirements)["env"]
    code = "import os, pear, sys; print(sys.prefix, os.environ['VIRTUAL_ENV'], os.environ['QUARTO_PYTHON'], sep='\\n')"
    done = subprocess.run(
        ["python", "-c", code], env=os.environ | document["env"], capture_output=True, text=True, check=True
    )
    place = document["environment"]
    assert done.stdout.splitlines() == [place, place, document["python"]]
    assert document["env"]["PATH"] == f"{place}/bin:{os.environ['PATH']}"
    assert document["env"]["JUPYTER_PREFER_ENV_PATH"] == "1"
    assert document["env"]["PYTHONNOUSERSITE"] == "1"
    assert "PYTHONNOUSERSITE" not in link(command, requirements, "--user-site")["env"]


def test_run_sets_the_same_and_takes_pythonhome_away(
    command: Command, requirements: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.commands import in_process_of_its_own

    monkeypatch.setenv("JUPYTERCACHE", "/cache")
    document = link(command, requirements)
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = json.loads(in_process_of_its_own(store, "run", requirements, "--", "python", "-c", code).out)
    assert {name: seen.get(name) for name in document["env"]} == document["env"]
    assert "PYTHONHOME" not in seen


def test_a_cache_of_documents_is_one_for_each_environment(
    command: Command, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "JUPYTERCACHE" not in link(command, requirements)["env"]
    monkeypatch.setenv("JUPYTERCACHE", "/cache")
    document = link(command, requirements)
    name = Path(document["environment"]).name
    assert document["env"]["JUPYTERCACHE"] == f"/cache/{name}"
    monkeypatch.setenv("JUPYTERCACHE", f"/cache/{name}")
    assert "JUPYTERCACHE" not in link(command, requirements)["env"]


@pytest.mark.parametrize("user", [0, 1000])
def test_root_writes_no_bytecode_while_it_is_being_compiled(
    command: Command, requirements: Path, monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    if os.geteuid() != 0:
        pytest.skip("who is not root cannot write any")
    monkeypatch.setattr("vrfstore.runner.run.os.geteuid", lambda: user)
    wanted = {} if user else {"PYTHONDONTWRITEBYTECODE": "1"}

    def set_now(*options: str) -> dict[str, str]:
        variables = link(command, requirements, *options)["env"]
        return {name: value for name, value in variables.items() if name == "PYTHONDONTWRITEBYTECODE"}

    assert set_now() == wanted  # not compiled yet
    assert set_now() == wanted  # nor at a hit
    assert set_now("--prompt", "other") == wanted
    assert command("compile").code == 0
    assert set_now() == {}
    assert set_now("--prompt", "another") == {}
    assert set_now("--isolated", "--compile", "eager") == {}


def test_the_variables_of_a_base_are_its_own(tmp_path: Path) -> None:
    python = base_with(tmp_path / "base")
    there = {"PATH": "/usr/bin", "VIRTUAL_ENV": "/other", "PYTHONHOME": "/other"}
    assert base_variables(python, there) == {
        "PATH": f"{tmp_path}/base/bin:/usr/bin", "QUARTO_PYTHON": python, "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONHOME": "", "VIRTUAL_ENV": f"{tmp_path}/base",
    }  # fmt: skip
    assert base_variables("/opt/bin/python3", there)["VIRTUAL_ENV"] == ""
    assert base_variables("/opt/bin/python3", {}) == {
        "PATH": "/opt/bin", "QUARTO_PYTHON": "/opt/bin/python3", "JUPYTER_PREFER_ENV_PATH": "1",
    }  # fmt: skip


def test_an_error_has_all_fields_and_what_it_is_about() -> None:
    error = WheelError("odd", kind="wheel-record", path="a.whl", member="a/b.py", hint="do not")
    document = outcome.failed(error).to_json()
    check_link(document)
    assert document["error"] == {
        "code": 18, "kind": "wheel-record", "message": "odd", "path": "a.whl", "line": None, "member": "a/b.py",
        "hint": "do not", "log": None,
    }  # fmt: skip
    fallen = outcome.fallen_back(
        ResolutionError("no"), "/bin/sh", base_variables("/bin/sh", {}), ("w",)
    ).to_json()
    check_link(fallen)
    assert fallen["warnings"] == ["w"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "fine"}, {"python": None}, {"python": "bin/python"}, {"env": {}}, {"schema_version": 2},
        {"error": {}}, {"resolved_at": "today"}, {"packages": [{"name": "x"}]}, {"bytes": {"downloaded": -1}},
    ],
    ids=str,
)  # fmt: skip
def test_the_schema_would_notice(command: Command, requirements: Path, wrong: dict[str, Any]) -> None:
    document = link(command, requirements)
    with pytest.raises(jsonschema.ValidationError):
        check_link(document | wrong)
    with pytest.raises(jsonschema.ValidationError):
        check_link({name: value for name, value in document.items() if name not in wrong})


def test_every_field_of_an_outcome_is_in_the_schema() -> None:
    schema = json.loads((Path(__file__).parents[1] / "docs/link.schema.json").read_text())
    assert list(Outcome(status="error").to_json()) == schema["required"] == list(schema["properties"])
