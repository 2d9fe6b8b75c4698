"""The example of a runner: what it meets, and what its authors are told; with stand-ins, and with real kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.bases import base_with
from support.figures import note
from support.index import Index
from support.node import node
from support.wheels import WheelSpec
from vrfstore.interpreter import default_executable

EXAMPLE = Path(__file__).parent.parent / "examples/runner"

_NBFORMAT = """
import json

def read(path, as_version):
    with open(path) as stream:
        return json.load(stream)

def write(notebook, path):
    with open(path, "w") as stream:
        json.dump(notebook, stream)
"""
_NBCLIENT = """
import contextlib, io, traceback

from nbclient.exceptions import CellExecutionError

class NotebookClient:
    def __init__(self, notebook, kernel_name, config):
        self.notebook = notebook

    def execute(self):
        names = {}
        for cell in self.notebook["cells"]:
            if cell["cell_type"] == "code":
                try:
                    with contextlib.redirect_stdout(io.StringIO()) as printed:
                        exec("".join(cell["source"]), names)
                except Exception:
                    raise CellExecutionError(traceback.format_exc())
                cell["outputs"] = [{"output_type": "stream", "text": printed.getvalue()}]
"""
STAND_IN = WheelSpec(
    name="kernel-stand-in",
    files={
        "nbformat.py": _NBFORMAT,
        "nbclient/__init__.py": _NBCLIENT,
        "nbclient/exceptions.py": "class CellExecutionError(Exception):\n    pass\n",
        "traitlets/__init__.py": "",
        "traitlets/config.py": "Config = dict\n",
    },
)
"""As much of nbclient as the example uses, and no kernel."""

PROJECTS = {
    "report": ("pear", "import pear\n\nprint(pear.__version__)"),
    "eight": ("pear\nfig", "import fig\n\nprint(fig.__version__)"),
    "refused": ("pear\ngrape", "import grape"),
    "typo": ("pear=>1", "import pear"),
    "missing": ("pear", "import bs4"),
    "stopped": ("pear\nlemon\nmelon", "import melon\n\nprint(melon.__version__)"),
    "down": ("pear\nolive", "import olive"),
}
"""What each project requires, and its only cell."""


@dataclass(frozen=True)
class Shown:
    """What the demonstration found, by case, and the index that it asked."""

    cases: Mapping[str, list[dict[str, Any]]]
    index: Index

    def rendered(self, case: str) -> dict[str, Any]:
        """What the one compile of a case printed."""
        ((found),) = self.cases[case]
        assert found["rendered"] is not None
        return dict(found["rendered"])

    def log(self, case: str) -> str:
        """What its author can read."""
        return str(self.cases[case][0]["log"])


def notebook(source: str) -> str:
    """Return a notebook of one cell."""
    cell: dict[str, object] = {"cell_type": "code", "id": "cell-0", "metadata": {}, "source": source}
    cells = [cell | {"execution_count": None, "outputs": []}]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def demonstrate(*options: str, variables: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Run the demonstration and return what it found."""
    program = str(Path(sys.executable).with_name("vrfstore"))
    done = subprocess.run(
        [node(), str(EXAMPLE / "demo.js"), "--json", "--command", program, *options],
        capture_output=True,
        text=True,
        check=False,
        env=variables,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """All cases with a stand-in for the kernel, and wheels of loopback."""
    place = tmp_path_factory.mktemp("runner")
    for name, (requirements, source) in PROJECTS.items():
        (place / "projects" / name).mkdir(parents=True)
        (place / "projects" / name / "requirements.vrf").write_text(f"kernel-stand-in\n{requirements}\n")
        (place / "projects" / name / "report.ipynb").write_text(notebook(source))
    names = ["pear", "fig", "grape", "lemon", "melon", "olive"]
    with Index([STAND_IN, *(WheelSpec(name=name) for name in names)]) as index:
        index.delay["melon-1.0-py3-none-any.whl"] = 1.5
        index.delay["fig-1.0-py3-none-any.whl"] = 0.3
        (place / "home").mkdir()
        (place / "compiles").mkdir()
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(place / "home"),
            "TMPDIR": str(place / "compiles"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": index.url,
            "PIP_RETRIES": "0",
            "UV_NO_CONFIG": "1",
            "VRFSTORE_COMPILE": "off",
        }
        options = {
            "--store": str(place / "store"),
            "--python": base_with(place / "base", WheelSpec(name="plum")),
            "--projects": str(place / "projects"),
        }
        words = [word for option in options.items() for word in option]
        yield Shown(demonstrate(*words, variables=variables), index)
        assert list((place / "compiles").iterdir()) == [], "compile directories are swept"


def test_a_miss_builds_and_a_hit_needs_nothing(shown: Shown) -> None:
    miss, hit = shown.rendered("miss"), shown.rendered("hit")
    assert (miss["status"], miss["outputs"], miss["packages"]) == ("built", ["1.0"], 2)
    assert miss["downloaded"] > 0
    assert (hit["status"], hit["outputs"], hit["downloaded"]) == ("hit", ["1.0"], 0)
    assert hit["python"] == miss["python"]
    assert "using cached environment (2 packages)" in shown.log("hit")


def test_eight_at_once_are_one_build(shown: Shown) -> None:
    compiles = shown.cases["eight at once"]
    assert [found["code"] for found in compiles] == [0] * 8
    statuses = [found["rendered"]["status"] for found in compiles]
    assert statuses.count("built") == 1
    assert set(statuses) <= {"built", "linked", "hit"}
    assert len({found["rendered"]["python"] for found in compiles}) == 1
    assert shown.index.downloads("fig-1.0-py3-none-any.whl") == 1


def test_who_may_not_install_gets_what_is_there_and_nothing_else(shown: Shown) -> None:
    refused, served = shown.rendered("not permitted"), shown.rendered("permitted without")
    assert (refused["status"], refused["python"], refused["outputs"]) == ("error", None, [])
    assert "not permitted" in refused["problem"]
    assert not [path for _, path in shown.index.requests if "grape" in path]
    assert (served["status"], served["outputs"]) == ("hit", ["1.0"])


def test_a_typo_is_said_with_its_line(shown: Shown) -> None:
    assert shown.cases["typo"][0]["code"] == 2
    problem = shown.rendered("typo")["problem"]
    assert problem.startswith("requirements.vrf:2: ")
    assert "pear=>1" in problem
    assert "hint: " in problem
    assert "pear=>1" in shown.log("typo")


def test_a_missing_module_is_said_with_the_package_that_has_it(shown: Shown) -> None:
    found = shown.rendered("missing module")
    assert found["status"] == "hit"
    assert "No module named 'bs4'" in found["problem"]
    assert "beautifulsoup4" in found["problem"]
    assert "beautifulsoup4" in shown.log("missing module")


def test_a_compile_that_is_stopped_leaves_its_build_to_the_next(shown: Shown) -> None:
    (stopped,) = shown.cases["stop in mid-build"]
    assert (stopped["code"], stopped["rendered"]) == (None, None)
    following = shown.rendered("the next try")
    assert (following["problem"], following["outputs"]) == (None, ["1.0"])
    for name in ("lemon", "melon"):
        assert shown.index.downloads(f"{name}-1.0-py3-none-any.whl") == 1


def test_an_index_that_is_down_is_said_and_with_a_fallback_the_base_serves(shown: Shown) -> None:
    down, fallen = shown.rendered("index down"), shown.rendered("index down, fallback")
    assert (down["status"], down["python"]) == ("error", None)
    assert "index" in down["problem"]
    assert fallen["status"] == "fallback"
    assert fallen["python"].endswith("/base/bin/python")
    assert fallen["problem"].startswith(down["problem"].split(":")[0])
    assert "No module named 'nbformat'" in fallen["problem"]


def test_every_case_of_the_demonstration_is_told_of(shown: Shown) -> None:
    guide = (EXAMPLE / "README.md").read_text()
    for case in shown.cases:
        assert f"| {case} |" in guide, case


@pytest.mark.network
@pytest.mark.slow
def test_the_same_with_real_kernels(tmp_path: Path) -> None:
    variables = os.environ | {"VRFSTORE_COMPILE": "background"}
    for name in ("PIP_CONFIG_FILE", "UV_NO_CONFIG"):
        variables.pop(name)
    options = ["--store", str(tmp_path / "store"), "--python", default_executable()]
    found = demonstrate(*options, variables=variables)
    real = Shown(found, Index())
    assert real.rendered("miss")["status"] == "built"
    assert real.rendered("hit")["status"] == "hit"
    assert real.rendered("hit")["outputs"] == [
        "fruit      crates\n-------  --------\napples         12\npears           7"
    ]
    assert [each["code"] for each in found["eight at once"]] == [0] * 8
    assert real.rendered("not permitted")["status"] == "error"
    assert real.rendered("typo")["problem"].startswith("requirements.vrf:5: ")
    assert "beautifulsoup4" in real.rendered("missing module")["problem"]
    assert found["stop in mid-build"][0]["rendered"] is None
    assert real.rendered("the next try")["outputs"] == ["19"]
    assert real.rendered("index down, fallback")["status"] == "fallback"
    for case in ("miss", "hit", "the next try"):
        times = real.rendered(case)["milliseconds"]
        note(f"render, {case}", f"link {times['link']:.0f} ms, execute {times['execute']:.0f} ms")
