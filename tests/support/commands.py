"""vrfstore as its users meet it: a command line in, and an exit code, stdout and stderr out."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vrfstore.cli import render, running
from vrfstore.cli.running import run
from vrfstore.store.store import Store

__all__ = [
    "Command",
    "Ended",
    "check_link",
    "check_links",
    "commands",
    "in_process_of_its_own",
    "secrets_in",
    "with_resolver",
]

_SCHEMA = Path(__file__).parents[2] / "docs/link.schema.json"


@functools.cache
def _validator() -> Any:
    schema = json.loads(_SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def check_link(document: Any) -> None:
    """Hold what ``link --json`` has printed against the contract: docs/link.schema.json, and what that cannot say."""
    _validator().validate(document)
    python = document["python"]
    assert python is None or os.path.lexists(python)
    assert document["environment"] is None or python == f"{document['environment']}/bin/python"


def check_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold everything that ``link`` prints for machines in this process against the contract."""
    of_link, print_json = running._is_link, render.print_json
    now: list[bool] = []

    def noticed(arguments: Sequence[str]) -> bool:
        found = of_link(arguments)
        now[:] = [found]
        return found

    def checked(document: dict[str, object]) -> None:
        if now == [True]:
            check_link({"schema_version": render.SCHEMA_VERSION, **document})
        print_json(document)

    monkeypatch.setattr(running, "_is_link", noticed)
    monkeypatch.setattr(render, "print_json", checked)


def _checked(arguments: Sequence[str], ended: Ended) -> Ended:
    """Return how a command ended in another process, held against the contract if it is a ``link --json``."""
    own = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    if "--json" in own and running._is_link(own):
        check_link(ended.document)
    return ended


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What it printed for machines."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    @property
    def kind(self) -> str:
        """The kind of the error that it printed for machines."""
        return str(self.document["error"]["kind"])

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the packages that it printed for machines, by name."""
        assert self.code == 0, self
        return {package["name"]: package["version"] for package in self.document["packages"]}

    @property
    def warnings(self) -> list[str]:
        """The warnings that it printed for machines."""
        assert self.code == 0, self
        return list(self.document["warnings"])


Command = Callable[..., Ended]


def commands(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs a command on a store in this process."""

    def command(*arguments: str | Path) -> Ended:
        capsys.readouterr()
        code = run(["--store", store.root, *map(str, arguments)])
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return command


def with_resolver(command: Command, resolver: str) -> Command:
    """Return a function that runs a command which asks a resolver, and prints for machines."""

    def chosen(*arguments: str | Path) -> Ended:
        return command(*arguments, "--resolver", resolver, "--json")

    return chosen


def in_process_of_its_own(store: Store, *arguments: str | Path, **options: Any) -> Ended:
    """Run a command on a store in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "vrfstore", "--store", store.root, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    return _checked([*map(str, arguments)], Ended(done.returncode, done.stdout, done.stderr))


def secrets_in(root: str | Path, secret: str) -> list[str]:
    """Return the paths at and below a directory that have a text in their name or their bytes."""
    found = []
    for parent, names, files in os.walk(root):
        for name in (*names, *files):
            path = os.path.join(parent, name)
            target = os.readlink(path) if os.path.islink(path) else ""
            data = Path(path).read_bytes() if os.path.isfile(path) else b""
            if secret in name or secret in target or secret.encode() in data:
                found.append(path)
    return found
