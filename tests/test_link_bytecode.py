"""Bytecode of what is linked: before the answer, after it, or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

import vrfstore
from support.index import Index
from support.wheels import WheelSpec
from vrfstore import interpreter
from vrfstore.cli.running import run
from vrfstore.errors import UsageError
from vrfstore.store import bytecode
from vrfstore.store.store import Store

# A package that is one link, a module beside it, and two halves of a namespace.
APPLE = WheelSpec(
    name="apple",
    requires=["pear", "plum"],
    files={"apple/__init__.py": "import pear\n", "orchard/apple.py": "red = True\n"},
)
PEAR = WheelSpec(name="pear", files={"pear.py": "ripe = True\n", "broken.py": "def\n"})
PLUM = WheelSpec(name="plum", files={"orchard/plum.py": "stones = 1\n"})

SHOW = """
import importlib, json, sys
names = ["apple", "pear", "orchard.apple", "orchard.plum"]
modules = [importlib.import_module(name) for name in names]
print(json.dumps({name: module.__cached__ for name, module in zip(names, modules)}))
"""


@pytest.fixture
def requirements(index: Index, tmp_path: Path) -> Path:
    for spec in (APPLE, PEAR, PLUM):
        index.add(spec)
    path = tmp_path / "requirements.vrf"
    path.write_text("apple\n")
    return path


def cached(python: str) -> dict[str, str]:
    """Return where each module's pyc is, having imported all of them without writing any."""
    done = subprocess.run([python, "-B", "-c", SHOW], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def compiled(store: Store) -> list[str]:
    """Return the entries that have been compiled for the default interpreter."""
    base = interpreter.probe(interpreter.default_executable())
    return [name for name in store.entries() if bytecode.is_compiled(store.layout, name, base)]


def test_eager_has_the_bytecode_of_every_module_before_the_answer(store: Store, requirements: Path) -> None:
    result = vrfstore.link(requirements, store=store, compile_mode="eager")
    assert compiled(store) == store.entries()
    assert "compile" in result.timings
    for module, path in cached(result.python).items():
        assert os.stat(path).st_mode & 0o777 == 0o444, module
        # Bits of PEP 552: hash-based, and not to be checked.
        assert Path(path).read_bytes()[4:8] == b"\1\0\0\0", module


def test_what_does_not_compile_is_no_obstacle(store: Store, requirements: Path) -> None:
    result = vrfstore.link(requirements, store=store, compile_mode="eager")
    (pear,) = (name for name in store.entries() if "pear" in name)
    record = bytecode.read_records(store.layout, pear)[0]
    assert [path for path, _ in record.failed] == ["site-packages/broken.py"]
    assert not list(Path(result.environment).rglob("broken*.pyc"))


def test_eager_compiles_for_an_environment_that_stands(store: Store, requirements: Path) -> None:
    first = vrfstore.link(requirements, store=store, compile_mode="off")
    assert compiled(store) == []
    second = vrfstore.link(requirements, store=store, compile_mode="eager")
    assert (second.status, second.environment) == ("hit", first.environment)
    assert compiled(store) == store.entries()
    # What is linked as a whole has profited.
    assert os.path.exists(cached(first.python)["apple"])


def test_background_answers_first_and_compiles_after(store: Store, requirements: Path) -> None:
    result = vrfstore.link(requirements, store=store, compile_mode="background")
    assert "compile" not in result.timings
    deadline = time.monotonic() + 120
    while compiled(store) != store.entries():
        assert time.monotonic() < deadline, "nobody compiles"
        time.sleep(0.05)
    assert os.path.exists(cached(result.python)["apple"])


def test_off_leaves_it_to_whoever_imports(store: Store, requirements: Path) -> None:
    vrfstore.link(requirements, store=store, compile_mode="off")
    assert compiled(store) == []
    assert os.listdir(store.layout.of("logs")) == []


def test_a_variable_says_when(
    store: Store, requirements: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VRFSTORE_COMPILE", "eager")
    assert run(["--store", store.root, "link", str(requirements), "--quiet"]) == 0
    assert compiled(store) == store.entries()
    monkeypatch.setenv("VRFSTORE_COMPILE", "sometimes")
    assert run(["--store", store.root, "link", str(requirements), "--json"]) == 2
    assert "sometimes" in capsys.readouterr().err
    with pytest.raises(UsageError):
        vrfstore.link(requirements, store=store)


def test_the_option_comes_before_the_variable(
    store: Store, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRFSTORE_COMPILE", "eager")
    assert run(["--store", store.root, "link", str(requirements), "--compile", "off", "--quiet"]) == 0
    assert compiled(store) == []


def test_uninstalling_takes_the_pyc_of_a_module_and_leaves_the_entry_its_own(
    store: Store, requirements: Path
) -> None:
    result = vrfstore.link(requirements, store=store, compile_mode="eager")
    pyc = cached(result.python)["pear"]
    (pear,) = (name for name in store.entries() if "pear" in name)
    subprocess.run([result.python, "-m", "pip", "uninstall", "-qy", "pear"], check=True)
    assert not os.path.exists(pyc)
    kept = bytecode.read_records(store.layout, pear)[0].files[0].path
    assert os.path.exists(f"{store.layout.of('entries', pear)}/{kept}")
