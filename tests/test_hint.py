"""``vrfstore hint``: who provides a module, told by whoever knows first, and never by installing anything."""

from __future__ import annotations

import subprocess
import sys
import time
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from support.bases import base_with
from support.commands import Command, commands, in_process_of_its_own
from support.crash import tree
from support.index import Index
from support.wheels import WheelSpec, build_wheel
from vrfstore.gc.policy import Policy
from vrfstore.gc.sweep import collect
from vrfstore.requirements import names
from vrfstore.runner.hint import Known, Surroundings, decide
from vrfstore.runner.import_failure import ImportFailure
from vrfstore.store.store import Store

LIBRARIES = tomllib.loads(files("vrfstore.runner").joinpath("libraries.toml").read_text(encoding="utf-8"))


@pytest.fixture
def vrfstore(store: Store, capsys: pytest.CaptureFixture[str]) -> Command:
    return commands(store, capsys)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a project, where we are."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def missing(module: str, wanted: str = "") -> ImportFailure:
    return ImportFailure(kind="module", module=module, wanted=wanted)


# --- deciding


@pytest.mark.parametrize(
    ("module", "distribution"),
    [
        ("bs4", "beautifulsoup4"), ("Crypto.Cipher", "pycryptodome"), ("cv2", "opencv-python"),
        ("dateutil.parser", "python-dateutil"), ("docx", "python-docx"), ("dotenv", "python-dotenv"),
        ("fitz", "PyMuPDF"), ("git", "GitPython"), ("google.cloud.storage", "google-cloud-storage"),
        ("google.protobuf.message", "protobuf"), ("jwt", "PyJWT"), ("magic", "python-magic"),
        ("mpl_toolkits.mplot3d", "matplotlib"), ("mpl_toolkits.basemap", "basemap"), ("OpenSSL", "pyOpenSSL"),
        ("pil", "Pillow"), ("PIL.Image", "Pillow"), ("pptx", "python-pptx"), ("ruamel.yaml", "ruamel.yaml"),
        ("serial", "pyserial"), ("skimage", "scikit-image"), ("sklearn.svm", "scikit-learn"), ("usb", "pyusb"),
        ("yaml", "PyYAML"),
    ],
)  # fmt: skip
def test_a_well_known_module_is_told_with_its_distribution(module: str, distribution: str) -> None:
    found = decide(missing(module), Surroundings(python="3.12.1", requirements="/p/requirements.vrf"))
    assert (found.source, found.distributions, found.line) == ("table", (distribution,), distribution)
    assert found.advice == f"add a line to /p/requirements.vrf: {distribution}"


def test_the_first_that_knows_decides() -> None:
    seen = Surroundings(
        local=("/p/cv2.py",), python="3.12.1", base=Known("base-cv", "1"), indexed=("store-cv",)
    )
    assert decide(missing("cv2"), seen).source == "project"
    seen = Surroundings(python="3.12.1", base=Known("base-cv", "1"), indexed=("store-cv",))
    assert decide(missing("cv2"), seen).distributions == ("base-cv",)
    seen = Surroundings(python="3.12.1", indexed=("store-cv",))
    assert (decide(missing("cv2"), seen).source, decide(missing("cv2"), seen).distributions) == (
        "store",
        ("store-cv",),
    )
    assert decide(missing("cv2"), Surroundings()).source == "table"
    assert decide(missing("acme_reports"), Surroundings()).distributions == ("acme-reports",)


def test_of_several_in_the_store_the_usual_one_comes_first() -> None:
    seen = Surroundings(indexed=("a-cv", "opencv-python", "opencv-python-headless"))
    found = decide(missing("cv2"), seen)
    assert found.distributions == ("opencv-python", "a-cv", "opencv-python-headless")
    assert decide(missing("pear"), Surroundings(indexed=("apple", "pear"))).distributions == ("pear", "apple")


def test_a_local_module_is_no_package() -> None:
    found = decide(
        missing("helpers"), Surroundings(local=("/p/helpers.py",), requirements="/p/requirements.vrf")
    )
    assert (found.source, found.distributions, found.line) == ("project", (), "")
    assert "no package" in found.message
    assert "PYTHONPATH=/p" in found.advice
    assert "check the spelling" in decide(missing("helpers.a"), Surroundings(local=("/p/helpers",))).advice


@pytest.mark.parametrize(
    ("module", "version", "words"),
    [
        ("json", "3.12.1", "comes with Python"),
        ("tkinter", "3.12.1", "apt-get install python3-tk"),
        ("_tkinter", "3.12.1", "dnf install python3-tkinter"),
        ("xml.absent", "3.12.1", "has no module xml.absent"),
        ("distutils", "3.11.9", "comes with Python"),
        ("distutils", "3.12.1", "setuptools"),
        ("cgi", "3.13.0", "legacy-cgi"),
        ("imp", "3.12.0", "no longer a part of Python"),
    ],
)
def test_what_is_python_itself_is_no_package(module: str, version: str, words: str) -> None:
    found = decide(missing(module), Surroundings(python=version))
    assert found.source == "python"
    assert words in f"{found.message} {found.advice}"


def test_what_is_asked_for_already_is_to_be_linked_and_not_added() -> None:
    seen = Surroundings(requirements="/p/requirements.vrf", asked={"opencv-python": 3})
    found = decide(missing("cv2"), seen)
    assert found.line == ""
    assert "/p/requirements.vrf:3 asks for opencv-python already" in found.advice
    seen = Surroundings(
        indexed=("opencv-python", "opencv-python-headless"),
        requirements="/p/requirements.vrf",
        asked={"opencv-python-headless": 1},
    )
    assert "asks for opencv-python-headless already" in decide(missing("cv2"), seen).advice


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "add a line to the requirements file: PyYAML"),
        ("/p/pyproject.toml", 'add to the dependencies in /p/pyproject.toml: "PyYAML"'),
        ("/p/report.py", 'add to the dependencies in /p/report.py: "PyYAML"'),
        ("/p/pylock.toml", "add PyYAML to what /p/pylock.toml was locked from, and lock it again"),
    ],
)
def test_the_line_is_for_the_kind_of_file(path: str, words: str) -> None:
    assert decide(missing("yaml"), Surroundings(requirements=path)).advice == words


def test_a_slip_of_the_keyboard_is_told_and_a_strange_name_warned_of() -> None:
    assert decide(missing("pnadas"), Surroundings()).advice == "did you mean pandas?"
    assert "anybody may have taken the name" in decide(missing("acme_reports"), Surroundings()).message
    found = decide(missing("acme_reports"), Surroundings(exists={"acme-reports": False}))
    assert (found.exists, found.line) == (False, "")
    assert "the index has no package of that name" in found.message
    found = decide(missing("acme_reports"), Surroundings(exists={"acme-reports": True}))
    assert (found.exists, found.distributions) == (True, ("acme-reports",))


def test_a_name_that_a_version_does_not_have_is_told_with_the_version() -> None:
    failure = ImportFailure(
        kind="name", module="sklearn.utils", name="Interval", path="/e/site-packages/sklearn/x.py"
    )
    found = decide(failure, Surroundings(python="3.12.1", installed=Known("scikit-learn", "1.0")))
    assert found.message == "scikit-learn 1.0 has no Interval in sklearn.utils"
    assert "too old or too new" in found.advice
    found = decide(ImportFailure(kind="name", module="random", name="x"), Surroundings(python="3.12.1"))
    assert "Python 3.12.1 has no x" in found.message


@pytest.mark.parametrize(
    ("module", "seen", "words"),
    [
        ("random", Surroundings(python="3.12.1", local=("/p/random.py",)), "the name of Python's own random"),
        ("yaml", Surroundings(python="3.12.1", local=("/p/yaml.py",)), "the name of the package yaml"),
        (
            "fruit",
            Surroundings(python="3.12.1", local=("/p/fruit.py",), indexed=("fruit",)),
            "the package fruit",
        ),
        ("plan", Surroundings(python="3.12.1", local=("/p/plan.py",)), "while it is still being imported"),
    ],
)
def test_a_file_in_the_place_of_a_module_is_told(module: str, seen: Surroundings, words: str) -> None:
    found = decide(ImportFailure(kind="shadowed", module=module, name="x", path=seen.local[0]), seen)
    assert found.source == "project"
    assert words in found.message
    assert seen.local[0] in found.message


def test_a_missing_shared_library_is_told_with_its_system_package() -> None:
    found = decide(ImportFailure(kind="library", library="libGL.so.1"), Surroundings())
    assert (found.debian, found.fedora) == ("libgl1", "libglvnd-glx")
    assert "apt-get install libgl1" in found.advice
    found = decide(ImportFailure(kind="library", library="libabsent.so.1"), Surroundings())
    assert (found.source, found.debian) == ("", "")
    found = decide(ImportFailure(kind="symbol", library="GLIBC_2.38", path="/lib/libc.so.6"), Surroundings())
    assert "older than GLIBC_2.38" in found.message


def test_the_table_of_libraries_is_sorted_and_of_proper_names() -> None:
    for name, table in LIBRARIES.items():
        assert list(table) == sorted(table), name
        for key, package in table.items():
            assert package.strip() == package != ""
            assert name.endswith("-modules") or ".so" in key
    assert set(LIBRARIES["fedora"]) <= set(LIBRARIES["debian"])


def test_the_tables_of_names_agree() -> None:
    table = names.known()
    assert set(table.replacements) <= set(table.removed)
    for module, distribution in table.imports.items():
        assert names.provider(module) == distribution
        assert canonicalize_name(distribution) in table.distributions


# --- looking


def test_a_wheel_that_the_store_has_had_is_known_after_it_was_collected(
    vrfstore: Command, store: Store, tmp_path: Path
) -> None:
    store.add(build_wheel(WheelSpec(name="acme-fruit", files={"fruitlib/__init__.py": ""}), tmp_path))
    time.sleep(0.01)
    assert collect(store, Policy(max_age=0, grace=0)).entries
    found = vrfstore("hint", "fruitlib.pear", "--json").document["hint"]
    assert (found["source"], found["distributions"]) == ("store", ["acme-fruit"])


def test_the_nearest_requirements_are_named_with_the_line(vrfstore: Command, project: Path) -> None:
    (project / "requirements.vrf").write_text("# ours\npyyaml>=6\n")
    below = project / "chapters/one"
    below.mkdir(parents=True)
    (below / "report.py").write_text("import sklearn\n")
    (project / "log").write_text(
        f'Traceback (most recent call last):\n  File "{below}/report.py", line 1, in <module>\n    import yaml\n'
        "ModuleNotFoundError: No module named 'yaml'\n"
    )
    found = vrfstore("hint", "--traceback", "log", "--python", sys.executable, "--json").document["hint"]
    assert found["requirements"] == f"{project}/requirements.vrf"
    (project / "log").write_text((project / "log").read_text().replace("yaml", "sklearn"))
    said = vrfstore("hint", "--traceback", "log")
    assert said.code == 0
    assert said.out.splitlines()[1] == f"  hint: add a line to {project}/requirements.vrf: scikit-learn"


def test_a_file_of_the_project_is_found_where_the_traceback_is(vrfstore: Command, project: Path) -> None:
    (project / "src").mkdir()
    (project / "src/helpers.py").write_text("")
    found = vrfstore("hint", "helpers", "--json").document["hint"]
    assert (found["source"], found["distributions"]) == ("project", [])
    assert f"{project}/src/helpers.py" in found["message"]


def test_what_the_base_has_is_told(vrfstore: Command, tmp_path: Path) -> None:
    python = base_with(
        tmp_path / "base", WheelSpec(name="acme-fruit", version="2.5", files={"fruitlib.py": ""})
    )
    found = vrfstore("hint", "fruitlib", "--python", python, "--json").document["hint"]
    assert (found["source"], found["distributions"]) == ("base", ["acme-fruit"])
    assert "acme-fruit 2.5 is in the base interpreter" in found["message"]


def test_the_version_of_what_lacks_a_name_is_found_beside_it(
    vrfstore: Command, project: Path, tmp_path: Path
) -> None:
    python = base_with(
        tmp_path / "base", WheelSpec(name="acme-fruit", version="2.5", files={"fruitlib.py": ""})
    )
    (project / "report.py").write_text("from fruitlib import durian\n")
    failed = subprocess.run([python, "report.py"], capture_output=True, check=False)
    (project / "log").write_bytes(failed.stderr)
    said = vrfstore("hint", "--traceback", "log", "--python", python)
    assert said.out.startswith("acme-fruit 2.5 has no durian in fruitlib\n")


def test_a_file_called_like_a_module_of_python_is_told(vrfstore: Command, project: Path) -> None:
    (project / "colorsys.py").write_text("import colorsys\ncolorsys.rgb_to_hsv(0, 0, 0)\n")
    failed = subprocess.run([sys.executable, "colorsys.py"], capture_output=True, check=False)
    (project / "log").write_bytes(failed.stderr)
    said = vrfstore("hint", "--traceback", "log")
    assert said.out.startswith(f"{project}/colorsys.py has the name of Python's own colorsys")


def test_stdin_is_read_and_nothing_is_found_in_nothing(store: Store) -> None:
    text = "ModuleNotFoundError: No module named 'cv2'\n"
    assert "opencv-python" in in_process_of_its_own(store, "hint", "--traceback", "-", input=text).out
    flood = "a\n" * (1 << 20) + text
    assert (
        "opencv-python" in in_process_of_its_own(store, "hint", "--traceback", "/dev/stdin", input=flood).out
    )
    ended = in_process_of_its_own(store, "hint", "--traceback", "-", input="all went well\n")
    assert (ended.code, ended.out) == (0, "no import has failed there\n")
    ended = in_process_of_its_own(store, "hint", "--traceback", "-", "--json", input="")
    assert (ended.code, ended.document["hint"]) == (0, None)


def test_the_names_of_a_text_do_nothing_to_a_terminal(vrfstore: Command, project: Path) -> None:
    (project / "log").write_text(
        "ImportError: cannot import name '\x07\x9b' from 'pear' (/a\x9b/site-packages/pear.py)\n"
    )
    said = vrfstore("hint", "--traceback", "log")
    assert "\x9b" not in said.out
    assert "\x07" not in said.out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["cv2", "--traceback", "log"], 2),
        (["not a module"], 2),
        (["a..b"], 2),
        (["cv2", "--index-url", "http://127.0.0.1/"], 2),
        (["--traceback", "absent"], 2),
        (["--traceback", "."], 2),
        (["cv2", "--requirements", "absent"], 10),
        (["cv2", "--python", "/absent/python"], 22),
    ],
)
def test_what_makes_no_sense_is_refused(vrfstore: Command, arguments: list[str], code: int) -> None:
    ended = vrfstore("hint", *arguments, "--json")
    assert (ended.code, ended.document["status"], ended.document["error"]["code"]) == (code, "error", code)


def test_without_a_store_none_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent"
    from vrfstore.cli.running import run

    assert run(["--store", str(absent), "hint", "cv2"]) == 0
    assert "opencv-python" in capsys.readouterr().out
    assert not absent.exists()


# --- asking an index


def test_an_index_is_asked_only_where_that_is_allowed(vrfstore: Command, index: Index) -> None:
    index.add(WheelSpec(name="acme-fruit"))
    assert vrfstore("hint", "acme_fruit", "--json").document["hint"]["exists"] is None
    assert index.requests == []
    assert vrfstore("hint", "acme_fruit", "--online", "--json").document["hint"]["exists"] is True
    assert index.requests == [("HEAD", "/simple/acme-fruit/")]
    found = vrfstore("hint", "acme_pear", "--online", "--json").document["hint"]
    assert (found["exists"], found["line"]) == (False, None)


def test_an_index_that_is_given_is_the_only_one_that_is_asked(vrfstore: Command, index: Index) -> None:
    with Index() as other:
        other.add(WheelSpec(name="acme-fruit"))
        found = vrfstore("hint", "acme_fruit", "--online", "--index-url", other.url, "--json").document[
            "hint"
        ]
    assert found["exists"] is True
    assert index.requests == []


def test_an_index_that_does_not_say_is_no_answer(vrfstore: Command, index: Index) -> None:
    index.status["/simple/"] = 503
    found = vrfstore("hint", "acme_fruit", "--online", "--json").document["hint"]
    assert (found["exists"], found["distributions"]) == (None, ["acme-fruit"])


def test_nothing_is_installed_and_nothing_but_memos_is_written(
    vrfstore: Command, store: Store, index: Index, tmp_path: Path
) -> None:
    index.add(WheelSpec(name="acme-fruit"))
    store.add(build_wheel(WheelSpec(name="pear"), tmp_path))
    lasting = ("holds", "interpreters", "leases", "tmp")
    before = tree(store.root, without=lasting)
    assert vrfstore("hint", "acme_fruit", "--online").code == 0
    assert tree(store.root, without=lasting) == before
