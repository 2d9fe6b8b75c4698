"""The usual words of ``link`` mean the same with click and without it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
import pytest

from vrfstore.cli import linking, running, usual
from vrfstore.cli.link_command import command

Understood = tuple[tuple[str, ...], str | None, dict[str, Any]]

LEFT_TO_CLICK = {
    "--allow-builds", "--extra", "--force", "--group", "--help", "--index-url", "--into", "--materialize",
    "--max-bytes", "--max-packages", "--max-unpacked", "--no-shared-store", "--protect", "--refresh", "--resolver",
    "--stale-after", "--stale-ok", "--target", "--timeout", "--trusted", "--untrusted", "--upgrade", "-h",
}  # fmt: skip

VALUES: dict[str, Sequence[str]] = {
    "--compile": ("eager", "background", "off"),
    "--lease-pid": ("1", "4711"),
    "--lease-ttl": ("90s", "15m", "12h", "7d", "2w", "1.5h", "3"),
    "--log": ("render.log", "/dev/null"),
    "--prompt": ("a", "grün und blau", "1"),
    "--python": ("3.12", "/usr/bin/python3", "python3"),
    "--root": ("report", "a/b"),
    "--shared-store": ("/srv/store", "relative"),
    "--store": ("/srv/own", "s"),
}


@pytest.fixture
def by_click(monkeypatch: pytest.MonkeyPatch) -> list[Understood]:
    """What click has handed on, in the place of linking it."""
    seen: list[Understood] = []

    def note(requirements: Sequence[str], store: str | None, **options: Any) -> None:
        seen.append((tuple(requirements), store, options))

    monkeypatch.setattr(linking, "answer", note)
    return seen


def with_click(seen: list[Understood], arguments: Sequence[str]) -> Understood:
    assert running._parsed(arguments, as_json=False, of_link=True) == 0
    return seen.pop()


def same(seen: list[Understood], *arguments: str) -> usual.Words:
    found = usual.parse(arguments, os.environ)
    assert found is not None, arguments
    assert (found.requirements, found.store, found.options) == with_click(seen, arguments), arguments
    return found


def test_nothing_but_a_file(by_click: list[Understood]) -> None:
    found = same(by_click, "link", "requirements.vrf")
    assert (found.requirements, found.store) == (("requirements.vrf",), None)


@pytest.mark.parametrize("flag", usual._FLAGS)
def test_each_flag_is_understood_alike(by_click: list[Understood], flag: str) -> None:
    same(by_click, "link", "a.vrf", flag)
    same(by_click, "link", flag, "a.vrf", "b.txt")


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option, values in VALUES.items() for value in values]
)
def test_each_value_is_understood_alike(by_click: list[Understood], option: str, value: str) -> None:
    same(by_click, "link", "a.vrf", option, value)
    same(by_click, "link", f"{option}={value}", "a.vrf")


def test_the_store_comes_before_the_command_too(by_click: list[Understood]) -> None:
    assert same(by_click, "--store", "s", "link", "a.vrf").store == "s"
    assert same(by_click, "--store=s", "link", "a.vrf").store == "s"


@pytest.mark.parametrize(
    "variables",
    [
        {"VRFSTORE_HOME": "/srv/store", "VRFSTORE_PYTHON": "3.12", "VRFSTORE_COMPILE": "eager"},
        {"VRFSTORE_HOME": "", "VRFSTORE_PYTHON": "", "VRFSTORE_COMPILE": ""},
        {"VRFSTORE_SHARED_STORE": "/srv/shared"},
    ],
    ids=["set", "empty", "shared"],
)
def test_variables_count_alike(
    by_click: list[Understood], monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    same(by_click, "link", "a.vrf")
    same(by_click, "link", "a.vrf", "--compile", "off", "--python", "3.11", "--store", "mine")


def test_many_together_are_understood_alike(by_click: list[Understood]) -> None:
    chance = random.Random(1)
    names = {name for name, _ in usual._FLAGS.values()}
    for _ in range(300):
        words = ["a.vrf", *(["b.txt"] if chance.random() < 0.3 else [])]
        words += [
            chance.choice([flag for flag, (of, _) in usual._FLAGS.items() if of == name])
            for name in chance.sample(sorted(names), 3)
        ]
        chance.shuffle(words)
        for option in chance.sample(sorted(VALUES), 3):
            value = chance.choice(VALUES[option])
            where = chance.randrange(len(words) + 1)
            words[where:where] = [f"{option}={value}"] if chance.random() < 0.5 else [option, value]
        # A value may have got in between another option and its value.
        if usual.parse(["link", *words], os.environ) is not None:
            same(by_click, "link", *words)


NOT_UNDERSTOOD = {
    "nothing": [],
    "no file": ["link"],
    "another command": ["gc", "link"],
    "help": ["link", "--help"],
    "an empty file": ["link", ""],
    "an unknown option": ["link", "a.vrf", "--colour"],
    "an abbreviation": ["link", "a.vrf", "--iso"],
    "no value": ["link", "a.vrf", "--python"],
    "an empty value": ["link", "a.vrf", "--python="],
    "a value that looks like an option": ["link", "a.vrf", "--python", "--isolated"],
    "an option twice": ["link", "a.vrf", "--isolated", "--isolated"],
    "contradicting options": ["link", "a.vrf", "--install", "--no-install"],
    "the store twice": ["--store", "a", "link", "a.vrf", "--store", "b"],
    "a flag with a value": ["link", "a.vrf", "--isolated=yes"],
    "the end of options": ["link", "--", "a.vrf"],
    "no length of time": ["link", "a.vrf", "--lease-ttl", "soon"],
    "no number": ["link", "a.vrf", "--lease-pid", "0"],
    "a number in other digits": ["link", "a.vrf", "--lease-pid", "\N{SUPERSCRIPT TWO}"],
    "an unknown mode": ["link", "a.vrf", "--compile", "now"],
    "a prompt that would do something": ["link", "a.vrf", "--prompt", "\x1b[2J"],
    "several short flags": ["link", "a.vrf", "-qq"],
    "an option before the command": ["--isolated", "link", "a.vrf"],
    "the version": ["--version"],
}


@pytest.mark.parametrize("arguments", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
def test_whatever_else_there_is_is_left_to_click(arguments: Sequence[str]) -> None:
    assert usual.parse(arguments, {}) is None


def test_a_mode_in_a_variable_that_there_is_not_is_left_to_click() -> None:
    assert usual.parse(["link", "a.vrf"], {"VRFSTORE_COMPILE": "now"}) is None


def test_every_option_of_the_command_is_understood_or_left_to_click_on_purpose() -> None:
    options = {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    understood = {*usual._FLAGS, *usual._VALUES}
    assert understood <= options
    assert options - understood == LEFT_TO_CLICK - {"--help", "-h"}


def test_click_is_not_loaded_for_them(tmp_path: Any) -> None:
    code = (
        # What measures coverage has loaded some of it already.
        "import sys\nheavy = {'click', 'packaging', 'filelock', 'dataclasses', 'inspect'}\n"
        "for name in [name for name in sys.modules if name.partition('.')[0] in heavy]:\n    del sys.modules[name]\n"
        "from vrfstore.cli.running import run\n"
        f"code = run(['--store', {str(tmp_path / 'store')!r}, 'link', {str(tmp_path / 'no.vrf')!r}])\n"
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "10 []\n"
    assert "there is no such file" in done.stderr
