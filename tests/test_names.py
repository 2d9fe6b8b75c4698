"""What to write instead of a name that is no package."""

import sys
import tomllib
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name, is_normalized_name

from support.interpreters import INTERPRETER
from vrfstore.requirements.names import advice, known

SPELLING = "check the spelling of the name"
TABLE = tomllib.loads(files("vrfstore.requirements").joinpath("names.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("bs4", "beautifulsoup4"),
        ("cv2", "opencv-python"),
        ("dateutil", "python-dateutil"),
        ("dotenv", "python-dotenv"),
        ("pil", "Pillow"),
        ("skimage", "scikit-image"),
        ("sklearn", "scikit-learn"),
        ("yaml", "PyYAML"),
    ],
)
def test_a_module_is_told_with_the_distribution_that_provides_it(name: str, distribution: str) -> None:
    assert advice(name, INTERPRETER) == f"write {distribution}, which is what provides {name}"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pnadas", "pandas"),
        ("numppy", "numpy"),
        ("nump", "numpy"),
        ("reqeusts", "requests"),
        ("matplotib", "matplotlib"),
        ("scikitlearn", "scikit-learn"),
        ("scikit-lern", "scikit-learn"),
        ("pyyml", "PyYAML"),
        ("jupiterlab", "jupyterlab"),
        ("our-tolos", "our-tools"),
    ],
)
def test_a_slip_of_the_keyboard_is_told_with_what_was_meant(name: str, meant: str) -> None:
    interpreter = replace(INTERPRETER, base=(("our-tools", "1.0"),))
    assert advice(name, interpreter) == f"did you mean {meant}?"


@pytest.mark.parametrize(
    "name",
    [
        "ghost", "papaya", "np", "pd", "tf", "foo", "acme-reports", "google-cloud-nothing", "jupyter-of-our-own",
        "scikit-something", "data", "utils", "xx", "my-package",
    ],
)  # fmt: skip
def test_nothing_is_proposed_that_is_too_far(name: str) -> None:
    assert advice(name, INTERPRETER) == SPELLING


@pytest.mark.parametrize("name", ["json", "sqlite3", "tkinter", "os", "importlib"])
def test_a_module_of_the_standard_library_needs_no_line(name: str) -> None:
    assert advice(name, INTERPRETER) == f"{name} comes with Python; remove the line"


@pytest.mark.parametrize(
    ("name", "version", "comes"),
    [
        ("distutils", "3.11.9", True),
        ("distutils", "3.12.0", False),
        ("cgi", "3.12.4", True),
        ("cgi", "3.13.0rc1", False),
        ("telnetlib", "3.9.18", True),
    ],
)
def test_a_module_that_python_no_longer_has_does_not_come_with_it(
    name: str, version: str, comes: bool
) -> None:
    told = advice(name, replace(INTERPRETER, version=version))
    assert told == (f"{name} comes with Python; remove the line" if comes else SPELLING)


@pytest.mark.parametrize("name", ["pandas", "scikit-learn", "ruamel-yaml"])
def test_a_known_name_is_not_called_a_slip(name: str) -> None:
    assert (
        advice(name, INTERPRETER)
        == "the name is right; an operator can say whether this index should have it"
    )


@given(name=st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True))
def test_no_name_is_proposed_for_itself_or_against_its_length(name: str) -> None:
    told = advice(name, INTERPRETER)
    meant = told.removeprefix("did you mean ").removesuffix("?") if told.startswith("did you mean ") else None
    assert meant is None or (canonicalize_name(meant) != name and abs(len(meant) - len(name)) <= 2)


# --- the table


def test_there_are_about_a_hundred_modules_and_hundreds_of_distributions() -> None:
    assert len(TABLE["modules"]) > 100
    assert len(TABLE["distributions"]["names"]) > 400


def test_the_lists_of_the_table_are_sorted_and_name_nothing_twice() -> None:
    modules, names = list(TABLE["modules"]), TABLE["distributions"]["names"]
    assert modules == sorted(modules, key=lambda module: (module.lower(), module))
    assert names == sorted(names, key=canonicalize_name)
    for listed in (modules, names, *TABLE["removed"].values()):
        assert len({canonicalize_name(name) for name in listed}) == len(listed)


def test_every_name_of_the_table_is_one_that_a_file_may_have() -> None:
    table = known()
    for name in (*table.modules, *map(canonicalize_name, table.modules.values()), *table.distributions):
        assert is_normalized_name(name)


def test_no_module_of_the_table_is_provided_under_its_own_name_or_by_python() -> None:
    table = known()
    assert [name for name, by in table.modules.items() if canonicalize_name(by) == name] == []
    assert [name for name in table.modules if name.replace("-", "_") in sys.stdlib_module_names] == []


def test_what_was_removed_is_in_no_later_standard_library() -> None:
    names = known().removed
    gone = {name for name, since in names.items() if since <= sys.version_info[:2]}
    assert gone.isdisjoint(sys.stdlib_module_names)
    assert set(names) - gone <= sys.stdlib_module_names
