"""uv as a resolver: told of the base, of what to keep and of pip's configuration, and of nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.bases import base_with, sdist
from support.commands import Command, commands
from support.index import Index
from support.wheels import WheelSpec, build_wheel
from vrfstore.errors import UsageError
from vrfstore.requirements import by_uv
from vrfstore.store.store import Store

PEARS = [WheelSpec(name="pear", version=version) for version in ("1.0", "2.0", "3.0")]

Asked = Callable[..., Path]


@pytest.fixture
def command(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    made = commands(store, capsys)

    def by_uv(*arguments: str | Path) -> object:
        return made(*arguments, "--resolver", "uv", "--json")

    return by_uv  # type: ignore[return-value]


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Give a function that writes a file of requirements."""

    def write(*lines: str) -> Path:
        path = tmp_path / "requirements.vrf"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


@pytest.fixture
def second() -> Iterator[Index]:
    """Another index, which has a newer pear."""
    with Index([WheelSpec(name="pear", version="9.0")]) as served:
        yield served


def publish(index: Index, *specs: WheelSpec) -> None:
    for spec in specs:
        index.add(spec)


# --- what the base has, and what is kept


def test_a_source_does_not_shadow_what_the_base_has(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    """The base's version is on no index, and what is has no wheel."""
    index.add(*sdist("pear", "2.0"))
    python = base_with(tmp_path / "base", WheelSpec(name="pear", version="1.0+house"))
    assert command("link", asked("pear"), "--python", python, "--allow-builds").versions == {}


def test_what_shadows_the_base_is_kept_as_well(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    publish(index, *PEARS[:2])
    path, python = asked("pear>=2"), base_with(tmp_path / "base", PEARS[0])
    assert command("link", path, "--python", python).versions == {"pear": "2.0"}
    publish(index, PEARS[2])
    assert command("link", path, "--python", python, "--refresh").versions == {"pear": "2.0"}
    assert command("link", path, "--python", python, "--upgrade").versions == {"pear": "3.0"}


def test_what_the_base_has_comes_before_what_is_kept(
    index: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    publish(index, *PEARS)
    python, lock = base_with(tmp_path / "base", PEARS[0]), tmp_path / "pylock.toml"
    assert command("lock", asked("pear==2.0"), "-o", lock, "--python", python).versions == {"pear": "2.0"}
    assert command("lock", asked("pear"), "-o", lock, "--python", python).versions == {}


def test_pages_that_uv_remembers_do_not_count_where_they_lack_something(
    index: Index, asked: Asked, command: Command
) -> None:
    publish(index, PEARS[0])
    assert command("link", asked("pear")).versions == {"pear": "1.0"}
    publish(index, PEARS[1])
    assert command("link", asked("pear>=2")).versions == {"pear": "2.0"}


# --- its own configuration is out of the way


@pytest.mark.parametrize(
    "name", ["UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_FIND_LINKS"]
)
def test_variables_of_uv_have_no_say(
    index: Index, second: Index, asked: Asked, command: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    publish(index, PEARS[0])
    monkeypatch.setenv(name, second.url)
    assert command("link", asked("pear")).versions == {"pear": "1.0"}
    assert second.requests == []


def test_files_of_uv_have_no_say(
    index: Index,
    second: Index,
    asked: Asked,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(index, PEARS[0])
    monkeypatch.delenv("UV_NO_CONFIG")
    text = f'extra-index-url = ["{second.url}"]\nprerelease = "allow"\n'
    own = tmp_path / "home/.config/uv"
    own.mkdir(parents=True)
    for place in (tmp_path, own):
        (place / "uv.toml").write_text(text)
    (tmp_path / "pyproject.toml").write_text(f"[tool.uv]\n{text}")
    monkeypatch.chdir(tmp_path)
    assert command("link", asked("pear")).versions == {"pear": "1.0"}
    assert second.requests == []


def test_variables_that_would_change_the_answer_have_no_say(
    index: Index, asked: Asked, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    publish(index, *PEARS)
    (tmp_path / "limits.txt").write_text("pear<2\n")
    for name, value in {
        "UV_RESOLUTION": "lowest",
        "UV_CONSTRAINT": str(tmp_path / "limits.txt"),
        "UV_OVERRIDE": str(tmp_path / "limits.txt"),
        "UV_EXCLUDE_NEWER": "2001-01-01T00:00:00Z",
        "UV_OFFLINE": "1",
        "UV_NO_INDEX": "1",
        "UV_PYTHON": "3.99",
        "UV_CUSTOM_COMPILE_COMMAND": "make",
    }.items():
        monkeypatch.setenv(name, value)
    assert command("link", asked("pear")).versions == {"pear": "3.0"}


# --- pip's has the say that it has in pip


def test_the_best_version_wins_wherever_it_is(
    index: Index, second: Index, asked: Asked, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(index, PEARS[0])
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", second.url)
    assert command("link", asked("pear")).versions == {"pear": "9.0"}


def test_a_directory_of_wheels_is_looked_into_without_an_index(
    index: Index, asked: Asked, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").mkdir()
    build_wheel(PEARS[1], tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    assert command("link", asked("pear")).versions == {"pear": "2.0"}
    assert index.requests == []


def test_relative_paths_are_relative_to_where_the_command_runs(
    index: Index, asked: Asked, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(index, PEARS[0])
    (tmp_path / "wheels").mkdir()
    for spec in PEARS[1:]:
        build_wheel(spec, tmp_path / "wheels")
    (tmp_path / "limits.txt").write_text("pear<3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", "./wheels")
    monkeypatch.setenv("PIP_CONSTRAINT", "limits.txt")
    assert command("link", asked("pear")).versions == {"pear": "2.0"}


def test_pre_releases_count_where_pip_is_told_so(
    index: Index, asked: Asked, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(index, PEARS[0], WheelSpec(name="pear", version="2.0rc1"))
    assert command("link", asked("pear")).versions == {"pear": "1.0"}
    configuration = tmp_path / "pip.conf"
    configuration.write_text("[install]\npre = yes\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    assert command("link", asked("pear")).versions == {"pear": "2.0rc1"}


@pytest.mark.parametrize("retries", [0, 1])
def test_an_index_that_fails_is_asked_as_often_as_pip_is_told(
    index: Index, asked: Asked, command: Command, monkeypatch: pytest.MonkeyPatch, retries: int
) -> None:
    index.status["/simple/"] = 503
    monkeypatch.setenv("PIP_RETRIES", str(retries))
    monkeypatch.setenv("UV_HTTP_RETRIES", "5")
    assert command("link", asked("pear")).code == 14
    # Once, or once more without what uv remembers.
    assert len(index.requests) in {1 + retries, 2 * (1 + retries)}


def test_an_index_that_refuses_us_is_not_one_without_the_package(
    asked: Asked, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index([PEARS[0]], credentials=("gardener", "hunter2")) as private:
        monkeypatch.setenv("PIP_INDEX_URL", private.url)
        ended = command("link", asked("pear"))
    assert (ended.code, ended.kind) == (14, "index-unreachable")
    assert "401" in ended.document["error"]["message"]


# --- and the rest


def test_a_lock_says_what_the_index_said(index: Index, asked: Asked, command: Command) -> None:
    publish(index, WheelSpec(name="pear", version="1.0", requires_python=">=3.8"))
    (found,) = command("lock", asked("pear")).document["packages"]
    wheel = index._files["pear-1.0-py3-none-any.whl"].content
    assert found["url"] == index.file_url("pear-1.0-py3-none-any.whl")
    assert found["size"] == len(wheel)
    assert found["filename"] == "pear-1.0-py3-none-any.whl"


def test_of_the_wheels_of_a_version_the_one_for_this_python_is_chosen(
    index: Index, asked: Asked, command: Command
) -> None:
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    publish(index, PEARS[0], WheelSpec(name="pear", version="1.0", tag=f"{tag}-none-any"))
    publish(index, WheelSpec(name="pear", version="1.0", tag="py3-none-win_amd64"))
    (found,) = command("lock", asked("pear")).document["packages"]
    assert found["filename"] == f"pear-1.0-{tag}-none-any.whl"


def test_what_is_not_installed_is_refused_by_name(
    index: Index, asked: Asked, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(index, PEARS[0])
    monkeypatch.setattr(by_uv, "is_installed", lambda: False)
    ended = command("link", asked("pear"))
    assert (ended.code, ended.kind) == (2, "resolver-missing")
    with pytest.raises(UsageError, match="not installed"):
        by_uv._program()


def test_it_leaves_nothing_behind(index: Index, asked: Asked, command: Command, store: Store) -> None:
    publish(index, *PEARS)
    command("link", asked("pear"))
    command("link", asked("pear>=77"))
    assert os.listdir(store.layout.of("tmp")) == []
