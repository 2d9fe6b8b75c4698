"""What the base has: seen, enough, not installed again, protected where that is wanted, and shadowed with a warning."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from support.bases import base_with, site_packages
from support.commands import Command
from support.index import Index
from support.wheels import WheelSpec
from vrfstore import interpreter
from vrfstore.model import Lock, LockedWheel, Requirements, parse_digest
from vrfstore.requirements import base as of_base
from vrfstore.requirements.request import Request

PEARS = [WheelSpec(name="pear", version=version) for version in ("1.0", "1.5", "2.0")]
APPLE = WheelSpec(name="apple", requires=["pear"])


@pytest.fixture
def orchard(index: Index) -> Index:
    """An index with several versions of a package, and one that needs it."""
    for spec in (*PEARS, APPLE):
        index.add(spec)
    return index


Asked = Callable[..., Path]


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Give a function that writes a file of requirements."""

    def write(*lines: str, name: str = "requirements.vrf") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write


def link(
    command: Command, path: Path, python: str, resolver: str, *options: str
) -> tuple[dict[str, str], list[str]]:
    """Link as somebody does who wants JSON; return versions by name, and warnings."""
    ended = command("link", path, "--python", python, "--resolver", resolver, "--json", *options)
    return ended.versions, ended.warnings


# --- what the base has is enough


@pytest.mark.parametrize("lines", [("pear",), ("pear>=1", "pear<2"), ("apple",), ("Pear==1.0.0",)])
def test_what_the_base_has_is_not_installed_again(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str, lines: tuple[str, ...]
) -> None:
    python = base_with(tmp_path / "base", PEARS[0])
    versions, warnings = link(command, asked(*lines), python, resolver)
    assert "pear" not in versions
    assert (set(versions), warnings) == ({"apple"} if "apple" in lines else set(), [])


def test_an_environment_sees_what_it_has_of_the_base(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    python = base_with(tmp_path / "base", PEARS[0])
    ended = command("link", asked("apple"), "--python", python, "--resolver", resolver)
    code = "import apple, pear; print(pear.__version__)"
    done = subprocess.run([ended.out.strip(), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1.0\n"


@pytest.mark.parametrize("version", ["1.0+house", "9.9", "1.0.dev3", "2!1.0"])
def test_a_version_that_no_index_has_is_enough_if_the_base_has_it(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str, version: str
) -> None:
    python = base_with(tmp_path / "base", WheelSpec(name="pear", version=version))
    versions, warnings = link(command, asked(f"pear=={version}", "apple"), python, resolver)
    assert (versions, warnings) == ({"apple": "1.0"}, [])


def test_a_package_that_only_the_base_has_is_enough(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    orchard.add(WheelSpec(name="needs-house", requires=["house>=3"]))
    python = base_with(tmp_path / "base", WheelSpec(name="house", version="3.1"))
    versions, _ = link(command, asked("needs-house", "house"), python, resolver)
    assert versions == {"needs-house": "1.0"}


def test_what_a_package_of_the_base_lacks_is_brought(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    python = base_with(tmp_path / "base", WheelSpec(name="house", version="3.1+here", requires=["pear<2"]))
    versions, _ = link(command, asked("house"), python, resolver)
    assert versions == {"pear": "1.5"}


def test_what_an_extra_of_the_base_lacks_is_brought(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    house = WheelSpec(name="house", version="3.1+here", extras={"garden": ["pear<2"]})
    versions, _ = link(command, asked("house[garden]"), base_with(tmp_path / "base", house), resolver)
    assert versions == {"pear": "1.5"}


def test_the_older_version_of_the_base_is_kept_where_a_newer_one_is_on_the_index(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    python = base_with(tmp_path / "base", PEARS[0])
    for options in ([], ["--refresh"], ["--upgrade"]):
        assert link(command, asked("pear"), python, resolver, *options)[0] == {}


def test_isolated_environments_have_it_themselves(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    python = base_with(tmp_path / "base", PEARS[0])
    versions, warnings = link(command, asked("pear"), python, resolver, "--isolated")
    assert (versions, warnings) == ({"pear": "2.0"}, [])


def test_another_base_resolves_anew(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    python = base_with(tmp_path / "base", PEARS[0])
    assert link(command, asked("pear"), python, resolver)[0] == {}
    for place in site_packages(tmp_path / "base").glob("pear-*.dist-info"):
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    assert link(command, asked("pear"), python, resolver)[0] == {"pear": "2.0"}


# --- odd bases


def test_a_base_that_says_what_nobody_can_read_is_no_hindrance(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    """pip itself stumbles over such a base where the package is asked for; to uv it is shown without that line."""
    house = WheelSpec(
        name="house",
        version="3.1+here",
        metadata_extra="Requires-Dist: pear (>=1.0.* or so\nRequires-Dist: pear<2\n",
    )
    python = base_with(tmp_path / "base", house)
    assert link(command, asked("house"), python, "uv")[0] == {"pear": "1.5"}


def test_a_requirement_of_the_base_that_goes_on_in_the_next_line_is_read(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path
) -> None:
    """By pip it is not."""
    house = WheelSpec(
        name="house",
        version="3.1+here",
        metadata_extra="Requires-Dist: pear<2 ;\n        python_version >= '3'\n",
    )
    assert link(command, asked("house"), base_with(tmp_path / "base", house), "uv")[0] == {"pear": "1.5"}


def test_distributions_are_read_as_the_base_sees_them(tmp_path: Path) -> None:
    python = base_with(tmp_path / "base", WheelSpec(name="Some.House", version="3.1", requires=["pear<2"]))
    site = site_packages(tmp_path / "base")
    (site / "empty-1.0.dist-info").mkdir()
    (site / "nameless-1.0.dist-info").mkdir()
    (site / "nameless-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nVersion: 1.0\n")
    found = of_base.distributions(interpreter.probe(python))
    assert [(each.name, each.version, each.requires) for each in found] == [
        ("some-house", "3.1", ("pear<2",))
    ]


def test_stand_ins_are_wheels_that_hold_nothing(tmp_path: Path) -> None:
    specs = [WheelSpec(name="house", version="3.1+here", requires=["pear<2"]), PEARS[0]]
    base = interpreter.probe(base_with(tmp_path / "base", *specs))
    of_base.write_stand_ins(base, {"house": "3.1+here"}, str(tmp_path / "links"))
    (path,) = (tmp_path / "links").iterdir()
    assert path.name == "house-3.1+here-py3-none-any.whl"
    with zipfile.ZipFile(path) as wheel:
        assert b"Requires-Dist: pear<2\n" in wheel.read("house-3.1+here.dist-info/METADATA")
        assert all(name.startswith("house-3.1+here.dist-info/") for name in wheel.namelist())


# --- what may not be shadowed


def test_a_protected_package_that_fits_is_left_alone(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    python = base_with(tmp_path / "base", PEARS[0])
    versions, warnings = link(command, asked("apple"), python, resolver, "--protect", "pear")
    assert (versions, warnings) == ({"apple": "1.0"}, [])


@pytest.mark.parametrize("lines", [("pear>=2",), ("needs-pear",), ("middle",)])
def test_who_would_shadow_a_protected_package_is_refused(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str, lines: tuple[str, ...]
) -> None:
    orchard.add(WheelSpec(name="needs-pear", requires=["pear>=2"]))
    orchard.add(WheelSpec(name="middle", requires=["needs-pear"]))
    python = base_with(tmp_path / "base", PEARS[0])
    ended = command(
        "link", asked(*lines), "--python", python, "--resolver", resolver, "--protect", "Pear", "--json"
    )
    assert ended.code == 11, ended
    # Without it, it is shadowed.
    assert link(command, asked(*lines), python, resolver)[0]["pear"] == "2.0"


def test_an_older_version_that_does_not_need_the_newer_base_is_chosen(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    orchard.add(WheelSpec(name="apple", version="2.0", requires=["pear>=2"]))
    python = base_with(tmp_path / "base", PEARS[0])
    assert link(command, asked("apple"), python, resolver, "--protect", "pear")[0] == {"apple": "1.0"}


def test_what_is_protected_and_not_in_the_base_may_come(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    python = base_with(tmp_path / "base")
    versions, _ = link(command, asked("pear"), python, resolver, "--protect", "pear")
    assert versions == {"pear": "2.0"}


def test_what_is_configured_to_be_protected_is(
    orchard: Index,
    asked: Asked,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resolver: str,
) -> None:
    configuration = tmp_path / "vrfstore.toml"
    configuration.write_text('[resolve]\nprotect = ["pear"]\n')
    python = base_with(tmp_path / "base", PEARS[0])
    path = asked("pear>=2")
    assert command("link", path, "--python", python, "--resolver", resolver).code == 0
    monkeypatch.setenv("VRFSTORE_CONFIG", str(configuration))
    assert command("link", path, "--python", python, "--resolver", resolver).code == 11
    assert command("link", path, "--python", python, "--resolver", resolver, "--isolated").code == 0


def test_a_lock_that_would_shadow_is_refused_with_both_versions(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    python, lock = base_with(tmp_path / "base", PEARS[0]), tmp_path / "pylock.toml"
    assert command("lock", asked("pear>=2"), "-o", lock, "--isolated", "--python", python).code == 0
    ended = command("link", lock, "--python", python, "--resolver", resolver, "--protect", "pear", "--json")
    assert (ended.code, ended.kind) == (11, "protected")
    assert "pear 2.0" in ended.document["error"]["message"]
    assert "1.0" in ended.document["error"]["message"]


def test_a_lock_that_names_the_version_of_the_base_in_other_words_does_not_shadow(
    orchard: Index, command: Command, tmp_path: Path
) -> None:
    orchard.add(WheelSpec(name="plum", version="1.0.0"))
    python, lock = (
        base_with(tmp_path / "base", WheelSpec(name="plum", version="1.0")),
        tmp_path / "pylock.toml",
    )
    asked = tmp_path / "requirements.vrf"
    asked.write_text("plum\n")
    assert command("lock", asked, "-o", lock, "--isolated", "--python", python).code == 0
    versions, _ = link(command, lock, python, "pip", "--protect", "plum")
    assert versions == {}


# --- what is shadowed is said


def test_whatever_in_the_base_finds_another_version_than_it_needs_is_named_every_time(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    python = base_with(
        tmp_path / "base",
        PEARS[0],
        WheelSpec(name="house", version="3.1", requires=["Pear<2"]),
        WheelSpec(name="barn", requires=["pear>=1"]),
        WheelSpec(name="ruin", requires=["pear>=7"]),
    )
    path = asked("pear>=2")
    for _ in range(2):
        versions, warnings = link(command, path, python, resolver)
        assert versions == {"pear": "2.0"}
        assert warnings == [
            "house 3.1 of the base needs Pear<2, and will find 2.0: the environment's comes before the base's 1.0"
        ]
    ended = command("link", path, "--python", python)
    assert ended.err.count("house 3.1 of the base needs") == 1


def test_what_is_resolved_again_counts_even_if_there_is_something_to_say_of_it_now(
    index: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    index.add(PEARS[1])
    house = WheelSpec(name="house", version="3.1", requires=["pear<2"])
    python = base_with(tmp_path / "base", PEARS[0], house)
    path = asked("pear>=1.2")
    assert link(command, path, python, resolver) == ({"pear": "1.5"}, [])
    index.add(PEARS[2])
    upgraded = link(command, path, python, resolver, "--upgrade")
    assert (upgraded[0], len(upgraded[1])) == ({"pear": "2.0"}, 1)
    assert link(command, path, python, resolver) == upgraded


def test_what_is_shadowed_together_with_what_needs_it_is_not_named(
    orchard: Index, asked: Asked, command: Command, tmp_path: Path, resolver: str
) -> None:
    orchard.add(WheelSpec(name="house", version="4.0", requires=["pear>=2"]))
    house = WheelSpec(name="house", version="3.1", requires=["pear<2"])
    python = base_with(tmp_path / "base", PEARS[0], house)
    versions, warnings = link(command, asked("pear>=2", "house>=4"), python, resolver)
    assert (versions, warnings) == ({"house": "4.0", "pear": "2.0"}, [])


def test_needs_under_a_marker_that_does_not_hold_are_not_named(tmp_path: Path) -> None:
    python = base_with(
        tmp_path / "base", PEARS[0], WheelSpec(name="house", requires=["pear<2 ; sys_platform == 'win32'"])
    )
    wheel = LockedWheel(
        name="pear",
        version="2.0",
        filename="pear-2.0-py3-none-any.whl",
        digest=parse_digest("0" * 64),
        url="",
    )
    request = Request(requirements=Requirements(path="x", items=()), interpreter=interpreter.probe(python))
    assert list(of_base.shadowed(request, Lock(wheels=(wheel,), python="3.11"))) == []
