"""What a failed resolver said, in our words: one row for each cause, asked of the real pip and of the real uv.

Both ask the loopback index, so that one with other words is noticed. What a loopback index cannot make is in
test_explain_words.py.
"""

import hashlib
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pip as installed_pip
import pytest

from support.index import Index
from support.interpreters import INTERPRETER
from support.wheels import WheelSpec, build_wheel, wheel_bytes, wheel_filename
from vrfstore.errors import PackageIndexError, RequirementsError, ResolutionError, VrfstoreError, WheelError
from vrfstore.model import Requirement, Requirements
from vrfstore.requirements import pip
from vrfstore.requirements.explain import resolution_error, uv_error
from vrfstore.requirements.parse import parse

FILE = "project/requirements.vrf"
RUNNER = os.path.join(os.path.dirname(installed_pip.__file__), "__pip-runner__.py")
UV = os.path.join(os.path.dirname(sys.executable), "uv")
ZEROS, ONES = "0" * 64, "1" * 64
SPELLING = "check the spelling of the name"
WHEELS_ONLY = "choose another version or package; vrfstore installs wheels only"
BUILDS = "choose another version or package, or have an operator allow builds with --allow-builds"

Ask = Callable[[Requirements], VrfstoreError]


def ask_pip(directory: Path, requirements: Requirements) -> VrfstoreError:
    """Ask the real pip for what cannot be had, as resolve.py does, and sort what it says."""
    asked, limits, log = (directory / name for name in ("requirements.txt", "constraints.txt", "pip.log"))
    asked.write_text(requirements.canonical)
    limits.write_text(requirements.canonical_constraints)
    done = pip.run(
        sys.executable,
        RUNNER,
        ["install", "--dry-run", "--quiet", "--only-binary", ":all:", "--report", os.devnull,
         "--log", str(log), "--requirement", str(asked), "--constraint", str(limits)],
    )  # fmt: skip
    assert done.returncode != 0
    return resolution_error(done.stderr, log.read_text(), requirements, INTERPRETER)


def ask_uv(directory: Path, url: str, requirements: Requirements) -> VrfstoreError:
    """Ask the real uv for it, and sort what that says."""
    asked, limits = directory / "requirements.txt", directory / "constraints.txt"
    asked.write_text(requirements.canonical)
    limits.write_text(requirements.canonical_constraints)
    done = subprocess.run(
        [UV, "pip", "compile", "--no-config", "--default-index", url, "--only-binary", ":all:",
         "--python", sys.executable, "--format", "pylock.toml", "--cache-dir", str(directory / "cache"),
         "--constraints", str(limits), str(asked)],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0, done.stdout
    return uv_error(done.stderr, requirements, INTERPRETER)


@pytest.fixture(params=["pip", "uv"])
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which resolver is asked. Neither tries again what fails."""
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    return str(request.param)


@pytest.fixture
def ask(resolver: str, index: Index, tmp_path: Path) -> Ask:
    """Give a function that asks one of them for what cannot be had."""
    return partial(ask_pip, tmp_path) if resolver == "pip" else partial(ask_uv, tmp_path, index.url)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cause, and what is said of it.

    Attributes:
        cause: In few words.
        index: What the index has: wheels, and file names of sdists.
        text: The requirements file.
        constraints: What limits, as (text, line, path); with neither line nor path it is the base's.
        kind: The kind of the error.
        message: Its message.
        line: The line that is to blame.
        hint: What to do.
        path: The file that is to blame.
        uv: Where uv says another message, that.
        uv_earlier: What an earlier uv says, if that is something else again.
        uv_hint: Where another hint follows, that.
        why: Why they cannot say the same.
    """

    cause: str
    index: tuple[WheelSpec | str, ...] = ()
    text: str
    constraints: tuple[tuple[str, int | None, str], ...] = ()
    kind: str
    message: str
    line: int | None
    hint: str
    path: str = FILE
    uv: str | None = None
    uv_earlier: str | None = None
    uv_hint: str | None = None
    why: str = ""

    @property
    def requirements(self) -> Requirements:
        limits = tuple(
            Requirement(name=re.split("[<>=]", text)[0], text=text, line=line, path=path)
            for text, line, path in self.constraints
        )
        return replace(parse(self.text.encode(), FILE), constraints=limits)

    def publish(self, index: Index) -> None:
        for source in self.index:
            index.add(source) if isinstance(source, WheelSpec) else index.add(b"not looked into", source)


def wheel(
    name: str, version: str = "1.0", *requires: str, tag: str = "py3-none-any", python: str = ""
) -> WheelSpec:
    return WheelSpec(name=name, version=version, requires=requires, tag=tag, requires_python=python or None)


ALPHA = tuple(wheel("alpha", version) for version in ("0.1", "0.2", "0.9", "1.0", "1.5", "2.0"))
BETA, GAMMA = wheel("beta", "1.0", "alpha<2"), wheel("gamma", "1.0", "alpha>=2")
ONLY_NEWEST = "uv tells only the newest version that there is"
NO_VERSIONS = "uv does not tell which versions there are"
NO_NEEDER = "uv names no version where all that there are need the same"
FUTURE = ">=3.99"

MISSING = [
    Row(
        cause="no such package",
        text="# names\n\nghost\n",
        kind="package-missing",
        message="there is no package ghost on the index",
        line=3,
        hint=SPELLING,
    ),
    Row(
        cause="no such package, in a spelling of its own",
        text="Ghost.Writer\n",
        kind="package-missing",
        message="there is no package ghost-writer on the index",
        line=1,
        hint=SPELLING,
    ),
    Row(
        cause="no such package, with extras and a version",
        text="ghost_writer[ink]>=1\n",
        kind="package-missing",
        message="there is no package ghost-writer on the index",
        line=1,
        hint=SPELLING,
    ),
    Row(
        cause="the name of a module",
        index=(wheel("alpha"),),
        text="alpha\nsklearn\n",
        kind="package-missing",
        message="there is no package sklearn on the index",
        line=2,
        hint="write scikit-learn, which is what provides sklearn",
    ),
    Row(
        cause="a slip of the keyboard",
        text="pnadas>=2\n",
        kind="package-missing",
        message="there is no package pnadas on the index",
        line=1,
        hint="did you mean pandas?",
    ),
    Row(
        cause="a module of the standard library",
        text="sqlite3\n",
        kind="package-missing",
        message="there is no package sqlite3 on the index",
        line=1,
        hint="sqlite3 comes with Python; remove the line",
    ),
    Row(
        cause="a package that another needs does not exist",
        index=(wheel("needs-ghost", "1.0", "ghost>=1"),),
        text="\nneeds-ghost\n",
        kind="package-missing",
        message="there is no package ghost on the index, which needs-ghost needs",
        line=2,
        hint="ask for another version of needs-ghost",
    ),
    Row(
        cause="a package that all versions of another need does not exist",
        index=(wheel("beta", "1.0", "ghost"), wheel("beta", "2.0", "ghost>=1")),
        text="beta\n",
        kind="package-missing",
        message="there is no package ghost on the index, which beta needs",
        line=1,
        hint="ask for another version of beta",
    ),
    Row(
        cause="a package that is needed in three steps does not exist",
        index=(wheel("top", "1.0", "mid"), wheel("mid", "1.0", "low"), wheel("low", "1.0", "ghost[x]>=1")),
        text="top\n",
        kind="package-missing",
        message="there is no package ghost on the index, which low needs (for top)",
        line=1,
        hint="ask for another version of top",
    ),
]

NO_VERSION = [
    Row(
        cause="no such version",
        index=ALPHA,
        text="# numbers\nalpha==3.9\n",
        kind="no-version",
        message="no version 3.9 of alpha; newest is 2.0",
        line=2,
        hint="ask for one that exists, as in: alpha==2.0 (there are also 0.2, 0.9, 1.0, 1.5)",
        uv="no version 3.9 of alpha",
        uv_hint="ask for one that exists; alpha without a version gets the newest",
        why=NO_VERSIONS,
    ),
    Row(
        cause="no version so new",
        index=ALPHA,
        text="# numbers\nalpha>=3\n",
        kind="no-version",
        message="no version of alpha satisfies alpha>=3; the newest for this Python are: 0.2, 0.9, 1.0, 1.5, 2.0",
        line=2,
        hint="ask for one that exists, as in: alpha==2.0",
        uv="no version of alpha satisfies alpha>=3; the newest for this Python are: 2.0",
        why=ONLY_NEWEST,
    ),
    Row(
        cause="no version so new, with extras, and pre-releases that are newer",
        index=(*ALPHA[-2:], wheel("alpha", "2.1rc1")),
        text="alpha[x]~=3.1\n",
        kind="no-version",
        message="no version of alpha satisfies alpha~=3.1; the newest for this Python are: 1.5, 2.0, 2.1rc1",
        line=1,
        hint="ask for one that exists, as in: alpha==2.0",
        uv="no version of alpha satisfies alpha~=3.1; the newest for this Python are: 2.1rc1",
        uv_hint="ask for one that exists, as in: alpha==2.1rc1",
        why=ONLY_NEWEST,
    ),
    Row(
        cause="no version between others",
        index=ALPHA,
        text="alpha>1.0,<1.5\n",
        kind="no-version",
        message="no version of alpha satisfies alpha<1.5,>1.0; the newest for this Python are: "
        "0.2, 0.9, 1.0, 1.5, 2.0",
        line=1,
        hint="ask for one that exists, as in: alpha==2.0",
        uv="no version of alpha satisfies alpha<1.5,>1.0",
        uv_hint="ask for one that exists; alpha without a version gets the newest",
        why=NO_VERSIONS,
    ),
    Row(
        cause="what no version can satisfy",
        index=ALPHA[-1:],
        text="alpha>3,<2\n",
        kind="no-version",
        message="no version of alpha satisfies alpha<2,>3; the newest for this Python are: 2.0",
        line=1,
        hint="ask for one that exists, as in: alpha==2.0",
        uv="no version of alpha satisfies alpha<2,>3",
        uv_hint="ask for one that exists; alpha without a version gets the newest",
        why=NO_VERSIONS,
    ),
    Row(
        cause="a version that another needs does not exist",
        index=(ALPHA[-1], wheel("needs-alpha", "1.0", "alpha>=3")),
        text="needs-alpha\n",
        kind="no-version",
        message="no version of alpha, which needs-alpha needs, satisfies alpha>=3; "
        "the newest for this Python are: 2.0",
        line=1,
        hint="ask for one that exists, as in: alpha==2.0",
    ),
    Row(
        cause="versions that all versions of another need do not exist",
        index=(ALPHA[-1], wheel("beta", "1.0", "alpha>=3"), wheel("beta", "2.0", "alpha>=4")),
        text="beta\n",
        kind="no-version",
        message="no version of alpha, which beta needs, satisfies alpha>=4; the newest for this Python are: 2.0",
        line=1,
        hint="ask for one that exists, as in: alpha==2.0",
    ),
    Row(
        cause="what is asked for needs another version of itself",
        index=(wheel("alpha", "1.0", "beta>=2"), wheel("beta", "2.0", "alpha>=2")),
        text="alpha\n",
        kind="no-version",
        message="no version of alpha, which beta needs (for alpha), satisfies alpha>=2; "
        "the newest for this Python are: 1.0",
        line=1,
        hint="ask for one that exists, as in: alpha==1.0",
        uv="no version of alpha, which beta needs (for alpha), satisfies alpha>=2",
        uv_hint="ask for another version of alpha",
        why=NO_VERSIONS,
    ),
    Row(
        cause="a constraint that nothing satisfies",
        index=ALPHA[-1:],
        text="alpha\n",
        constraints=(("alpha>=7", 4, "limits.txt"),),
        kind="no-version",
        message="no version of alpha satisfies alpha>=7; the newest for this Python are: 2.0",
        path="limits.txt",
        line=4,
        hint="ask for one that exists, as in: alpha==2.0",
    ),
]

PYTHON = [
    Row(
        cause="the version is for another Python",
        index=(wheel("alpha", "2.0", python=FUTURE), wheel("alpha", "1.0")),
        text="\nalpha==2.0\n",
        kind="requires-python",
        message="alpha 2.0 needs Python >=3.99, this is 3.11.9",
        line=2,
        hint="ask for one that this Python can have, as in: alpha==1.0",
        uv_hint="ask for another version of alpha, or use such a Python",
        why=NO_VERSIONS,
    ),
    Row(
        cause="all versions so new are for another Python",
        index=(wheel("alpha", "2.0", python=">=3.98"), wheel("alpha", "3.0", python=FUTURE), wheel("alpha")),
        text="alpha>=2\n",
        kind="requires-python",
        message="alpha 3.0 needs Python >=3.99, this is 3.11.9",
        line=1,
        hint="ask for one that this Python can have, as in: alpha==1.0",
        uv_hint="ask for another version of alpha, or use such a Python",
        why=NO_VERSIONS,
    ),
    Row(
        cause="all versions are for another Python",
        index=(wheel("alpha", "2.0", python=FUTURE), wheel("alpha", "1.0", python=FUTURE)),
        text="alpha\n",
        kind="requires-python",
        message="alpha needs Python >=3.99, this is 3.11.9",
        line=1,
        hint="ask for another version of alpha, or use such a Python",
    ),
    Row(
        cause="what another needs is for another Python",
        index=(wheel("alpha", "2.0", python=FUTURE), wheel("alpha"), wheel("beta", "1.0", "alpha>=2")),
        text="beta\n",
        kind="requires-python",
        message="alpha 2.0, which beta needs, needs Python >=3.99, this is 3.11.9",
        line=1,
        hint="ask for one that this Python can have, as in: alpha==1.0",
        uv_hint="ask for another version of beta, or use such a Python",
        why=NO_VERSIONS,
    ),
    Row(
        cause="what all versions of another need is for another Python",
        index=(wheel("alpha", python=FUTURE), wheel("beta", "1.0", "alpha"), wheel("beta", "2.0", "alpha")),
        text="beta\n",
        kind="requires-python",
        message="alpha, which beta needs, needs Python >=3.99, this is 3.11.9",
        line=1,
        hint="ask for another version of beta, or use such a Python",
    ),
]


def lacking(name: str) -> str:
    return f"{name} has no wheel for Python 3.11.9 on linux-x86_64"


NO_WHEEL = [
    Row(
        cause="wheels for another platform only",
        index=(wheel("elsewhere", tag="py3-none-win_amd64"),),
        text="elsewhere\n",
        kind="no-wheel",
        message=lacking("elsewhere"),
        line=1,
        hint=WHEELS_ONLY,
    ),
    Row(
        cause="wheels for a newer C library only",
        index=(wheel("alpha", tag="py3-none-manylinux_2_99_x86_64"),),
        text="alpha\n",
        kind="no-wheel",
        message=lacking("alpha"),
        line=1,
        hint=WHEELS_ONLY,
    ),
    Row(
        cause="wheels for another Python only",
        index=(wheel("Other_Python", tag="cp27-cp27m-manylinux1_x86_64"),),
        text="other.python\n",
        kind="no-wheel",
        message=lacking("other-python"),
        line=1,
        hint=WHEELS_ONLY,
    ),
    Row(
        cause="wheels for another ABI only",
        index=(wheel("alpha", tag="cp37-cp37m-manylinux_2_17_x86_64"),),
        text="alpha\n",
        kind="no-wheel",
        message=lacking("alpha"),
        line=1,
        hint=WHEELS_ONLY,
    ),
    Row(
        cause="this version has none",
        index=(wheel("alpha", "2.0", tag="py3-none-win_amd64"), wheel("alpha", "1.0")),
        text="alpha==2.0\n",
        kind="no-wheel",
        message=lacking("alpha 2.0"),
        line=1,
        hint=f"ask for one that has, as in: alpha==1.0; or {WHEELS_ONLY}",
        uv_hint=WHEELS_ONLY,
        why=NO_VERSIONS,
    ),
    Row(
        cause="source only",
        index=("source-only-1.0.tar.gz",),
        text="\nsource-only\n",
        kind="no-wheel",
        message=f"{lacking('source-only')}, only its source",
        line=2,
        hint=BUILDS,
    ),
    Row(
        cause="source only of what is new enough",
        index=("alpha-2.0.tar.gz", wheel("alpha", "1.0")),
        text="alpha>=2\n",
        kind="no-wheel",
        message=f"{lacking('alpha 2.0')}, only its source",
        line=1,
        hint=f"ask for one that has, as in: alpha==1.0; or {BUILDS}",
        uv_hint=BUILDS,
        why=NO_VERSIONS,
    ),
    Row(
        cause="what another needs has none",
        index=(wheel("elsewhere", tag="py3-none-win_amd64"), wheel("needs-elsewhere", "1.0", "elsewhere")),
        text="needs-elsewhere\n",
        kind="no-wheel",
        message=lacking("elsewhere, which needs-elsewhere needs,"),
        line=1,
        hint=WHEELS_ONLY,
    ),
    Row(
        cause="what all versions of another need has none",
        index=(
            wheel("elsewhere", tag="py3-none-win_amd64"),
            wheel("beta", "1.0", "elsewhere"),
            wheel("beta", "2.0", "elsewhere>=1"),
        ),
        text="beta\n",
        kind="no-wheel",
        message=lacking("elsewhere 1.0, which beta needs,"),
        line=1,
        hint=WHEELS_ONLY,
    ),
]

CONTRADICTING = "the requirements contradict each other: "
LOOSEN = "loosen or remove one of them"
CONFLICT = [
    Row(
        cause="the file contradicts itself",
        index=ALPHA,
        text="alpha==2.0\nalpha<2\n",
        kind="conflict",
        message=f"{CONTRADICTING}the file asks for alpha==2.0 (line 1); the file asks for alpha<2 (line 2)",
        line=1,
        hint=LOOSEN,
    ),
    Row(
        cause="the file contradicts itself, with extras and exceptions",
        index=ALPHA,
        text="alpha==1.0\nalpha[x]!=1.0\n",
        kind="conflict",
        message=f"{CONTRADICTING}the file asks for alpha==1.0 (line 1); the file asks for alpha!=1.0 (line 2)",
        line=1,
        hint=LOOSEN,
    ),
    Row(
        cause="the file contradicts what it asks for",
        index=(*ALPHA, BETA),
        text="# pin\nalpha==2.0\nbeta\n",
        kind="conflict",
        message=f"{CONTRADICTING}the file asks for alpha==2.0 (line 2); "
        "beta 1.0, which the file asks for (line 3), needs alpha<2",
        line=2,
        hint=LOOSEN,
        why=NO_NEEDER,
    ),
    Row(
        cause="two packages contradict each other",
        index=(*ALPHA, BETA, GAMMA),
        text="\nbeta\ngamma\n",
        kind="conflict",
        message=f"{CONTRADICTING}beta 1.0, which the file asks for (line 2), needs alpha<2; "
        "gamma 1.0, which the file asks for (line 3), needs alpha>=2",
        line=2,
        hint=LOOSEN,
        why=NO_NEEDER,
    ),
    Row(
        cause="packages that others bring contradict each other",
        index=(
            *ALPHA,
            wheel("top", "1.0", "mid"),
            wheel("mid", "1.0", "alpha<2"),
            wheel("other", "1.0", "inner"),
            wheel("inner", "1.0", "innermost"),
            wheel("innermost", "1.0", "alpha>=2"),
        ),
        text="top\nother\n",
        kind="conflict",
        message=f"{CONTRADICTING}mid 1.0, which top (line 1) brings, needs alpha<2; "
        "innermost 1.0, which other (line 2) brings through inner, needs alpha>=2",
        line=1,
        hint=LOOSEN,
        why=NO_NEEDER,
    ),
    Row(
        cause="all versions of a package contradict another",
        index=(*ALPHA, BETA, wheel("beta", "2.0", "alpha<1.5"), wheel("beta", "0.5", "alpha<1"), GAMMA),
        text="beta\ngamma\n",
        kind="conflict",
        message=f"{CONTRADICTING}beta 2.0, which the file asks for (line 1), needs alpha<1.5; "
        "gamma 1.0, which the file asks for (line 2), needs alpha>=2",
        uv_earlier=f"{CONTRADICTING}beta, which the file asks for (line 1), needs alpha<1.5; "
        "beta, which the file asks for (line 1), needs alpha<2; "
        "gamma, which the file asks for (line 2), needs alpha>=2",
        line=1,
        hint=LOOSEN,
        why=NO_NEEDER,
    ),
    Row(
        cause="an extra contradicts the file",
        index=(*ALPHA, WheelSpec(name="top", extras={"x": ["alpha<2"]})),
        text="alpha>=2\ntop[x]\n",
        kind="conflict",
        message=f"{CONTRADICTING}the file asks for alpha>=2 (line 1); "
        "top 1.0, which the file asks for (line 2), needs alpha<2",
        line=1,
        hint=LOOSEN,
        why=NO_NEEDER,
    ),
    Row(
        cause="a constraint contradicts a package",
        index=(*ALPHA, GAMMA),
        text="alpha\ngamma\n",
        constraints=(("alpha<2", 7, "limits.txt"),),
        kind="conflict",
        message=f"{CONTRADICTING}gamma 1.0, which the file asks for (line 2), needs alpha>=2; "
        "a constraint asks for alpha<2 (line 7 of limits.txt)",
        line=2,
        hint=LOOSEN,
        why=NO_NEEDER,
    ),
]

BASE = (("numpy==1.26", None, ""),)
NUMPY = (wheel("numpy", "1.26"), wheel("numpy", "2.1"))
PROTECTED = [
    Row(
        cause="a package clashes with the base",
        index=(*NUMPY, wheel("scipy", "1.0", "numpy>=2")),
        text="\nscipy\n",
        constraints=BASE,
        kind="protected",
        message="scipy needs numpy>=2, and the base's numpy 1.26 may not be shadowed",
        line=2,
        hint="ask for a version of scipy that goes with numpy 1.26",
    ),
    Row(
        cause="the file clashes with the base",
        index=NUMPY,
        text="numpy>=2\n",
        constraints=BASE,
        kind="protected",
        message="the file asks for numpy>=2, and the base's numpy 1.26 may not be shadowed",
        line=1,
        hint="ask for what includes numpy 1.26, or leave numpy out",
    ),
    Row(
        cause="what another brings clashes with the base",
        index=(*NUMPY, wheel("scipy", "1.0", "numpy>=2"), wheel("top", "1.0", "scipy")),
        text="top\n",
        constraints=(*BASE, ("zlib-ng==1.0", None, "")),
        kind="protected",
        message="scipy, which top brings, needs numpy>=2, and the base's numpy 1.26 may not be shadowed",
        line=1,
        hint="ask for a version of top that goes with numpy 1.26",
    ),
]

ROWS = [*MISSING, *NO_VERSION, *PYTHON, *NO_WHEEL, *CONFLICT, *PROTECTED]


def unversioned(message: str) -> str:
    """Take the versions of those who need something out of a message."""
    return re.sub(r"(; |: )([a-z]+) [\d.]+, which", r"\1\2, which", message)


@pytest.mark.parametrize("row", ROWS, ids=[row.cause for row in ROWS])
def test_each_cause_is_told_with_its_line_and_what_to_do(
    index: Index, resolver: str, ask: Ask, row: Row
) -> None:
    row.publish(index)
    error = ask(row.requirements)
    message, hint = row.message, row.hint
    if resolver == "uv":
        message, hint = row.uv or row.message, row.uv_hint or row.hint
    said = error.message
    if resolver == "uv" and row.why == NO_NEEDER:
        message, said = unversioned(message), unversioned(said)
    assert (type(error), error.kind, error.path, error.line) == (
        ResolutionError,
        row.kind,
        row.path,
        row.line,
    )
    assert said in {message, row.uv_earlier if resolver == "uv" else None}
    assert error.hint == hint
    assert "\n" not in error.message


def test_what_cannot_be_had_is_told_apart_from_who_is_to_blame(index: Index, ask: Ask) -> None:
    MISSING[-1].publish(index)
    error = ask(MISSING[-1].requirements)
    assert isinstance(error, ResolutionError)
    assert (error.package, pickle.loads(pickle.dumps(error)).package) == ("ghost", "ghost")  # noqa: S301
    CONFLICT[0].publish(index)
    error = ask(CONFLICT[0].requirements)
    assert isinstance(error, ResolutionError)
    assert error.package is None


def test_the_rows_say_why_where_uv_has_other_words() -> None:
    assert [row.cause for row in ROWS if (row.uv or row.uv_hint) and not row.why] == []


# --- what only one of them refuses


def publish(index: Index, *specs: WheelSpec) -> None:
    for spec in specs:
        index.add(spec)


@pytest.fixture
def ask_only_pip(
    index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], VrfstoreError]:
    """Give a function that asks pip for what uv would take."""
    monkeypatch.setenv("PIP_RETRIES", "0")
    return lambda text: ask_pip(tmp_path, parse(text.encode(), FILE))


def test_versions_for_older_pythons_are_told_by_pip_and_taken_by_uv(
    index: Index, ask_only_pip: Callable[[str], VrfstoreError]
) -> None:
    """Uv takes no notice of an upper bound; the link is refused later (exit 18)."""
    publish(index, WheelSpec(name="old.only", requires_python="<3"))
    error = ask_only_pip("old.only\n")
    assert (error.kind, error.path, error.line) == ("requires-python", FILE, 1)
    assert error.message == "old-only needs Python <3, this is 3.11.9"
    assert error.hint == "ask for another version of old-only, or use such a Python"


def test_other_bytes_than_the_file_pins_are_told_with_both_hashes(
    index: Index, ask_only_pip: Callable[[str], VrfstoreError]
) -> None:
    """``uv pip compile`` looks at no hash of a requirement."""
    publish(index, ALPHA[-1])
    error = ask_only_pip(f"# pins\nalpha==2.0 --hash=sha256:{ZEROS} --hash=sha256:{ONES}\n")
    assert (type(error), error.kind, error.path, error.line) == (WheelError, "hash-mismatch", FILE, 2)
    assert error.message.startswith("the wheel of alpha has another hash (")
    assert error.message.endswith(f") than the file asks for ({ZEROS[:12]}…, {ONES[:12]}…)")
    assert error.hint == "if the version was changed on purpose, write its own hash"


def test_hashes_for_some_requirements_only_are_told_with_what_lacks_one(
    index: Index, ask_only_pip: Callable[[str], VrfstoreError], tmp_path: Path
) -> None:
    publish(index, *ALPHA, BETA, GAMMA)
    digest = hashlib.sha256(wheel_bytes(ALPHA[-1])).hexdigest()
    error = ask_only_pip(f"alpha==2.0 --hash=sha256:{digest}\ngamma\n")
    assert (type(error), error.kind) == (RequirementsError, "requirement-hash")
    assert (error.path, error.line) == (FILE, 2)
    assert error.message == "gamma has no --hash, but others have"
    assert "hash" in str(error.hint)
    assert str(tmp_path) not in error.message


def uv_install(index: Index, directory: Path, text: str) -> VrfstoreError:
    """Have uv install, which does look at hashes."""
    asked = directory / "requirements.txt"
    requirements = parse(text.encode(), FILE)
    asked.write_text(requirements.canonical)
    done = subprocess.run(
        [UV, "pip", "install", "--no-config", "--default-index", index.url, "--require-hashes",
         "--python", sys.executable, "--target", str(directory / "target"),
         "--cache-dir", str(directory / "cache"), "--requirement", str(asked)],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    return uv_error(done.stderr, requirements, INTERPRETER)


def test_uv_s_words_for_other_bytes_mean_the_same(index: Index, tmp_path: Path) -> None:
    index.add(ALPHA[-1])
    digest = hashlib.sha256(wheel_bytes(ALPHA[-1])).hexdigest()
    error = uv_install(index, tmp_path, f"\nalpha==2.0 --hash=sha256:{ZEROS} --hash=sha256:{ONES}\n")
    assert (type(error), error.kind, error.path, error.line) == (WheelError, "hash-mismatch", FILE, 2)
    assert error.message == (
        f"the wheel of alpha has another hash ({digest[:12]}…) than the file asks for "
        f"({ZEROS[:12]}…, {ONES[:12]}…)"
    )


def test_uv_s_words_for_a_missing_hash_mean_the_same(index: Index, tmp_path: Path) -> None:
    publish(index, *ALPHA, GAMMA)
    digest = hashlib.sha256(wheel_bytes(GAMMA)).hexdigest()
    error = uv_install(index, tmp_path, f"gamma==1.0 --hash=sha256:{digest}\n")
    assert (type(error), error.kind, error.line) == (RequirementsError, "requirement-hash", None)
    assert error.message == "alpha, which another requirement brings, has no --hash, but others have"
    error = uv_install(index, tmp_path, f"gamma==1.0 --hash=sha256:{digest}\n\nalpha\n")
    assert (error.kind, error.line) == ("requirement-hash", 3)
    assert error.message == "alpha has no --hash, but others have"


def test_what_the_base_has_and_the_index_lacks_is_told_where_uv_looks_for_it(
    index: Index, tmp_path: Path
) -> None:
    """Pip finds it in the base itself."""
    publish(index, wheel("numpy", "2.1"), wheel("top", "1.0", "numpy"))
    row = replace(PROTECTED[0], text="\ntop\n")
    error = ask_uv(tmp_path, index.url, row.requirements)
    assert (error.kind, error.path, error.line) == ("protected", FILE, 2)
    assert (
        error.message
        == "top needs numpy, and the base's numpy 1.26 is not on the index, where uv looks for it"
    )
    assert error.hint == "let pip resolve, which looks at the base"


# --- what the loopback index does not publish: plain pages do


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[WheelSpec, str], str]]:
    """Give a function that publishes a wheel with attributes of its own, and returns the URL of the index."""
    root = tmp_path / "pages"
    (root / "files").mkdir(parents=True)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/simple/"
    monkeypatch.setenv("PIP_INDEX_URL", url)

    def publish_with(spec: WheelSpec, attributes: str) -> str:
        build_wheel(spec, root / "files")
        page = root / "simple" / spec.name / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        with page.open("a") as stream:
            name = wheel_filename(spec)
            stream.write(f'<a href="/files/{name}" {attributes}>{name}</a><br>\n')
        return url

    yield publish_with
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("text", "rest"), [("alpha>=2\n", ("1.5",)), ("alpha\n", ())])
def test_a_version_that_was_yanked_is_told_as_that(
    resolver: str,
    pages: Callable[[WheelSpec, str], str],
    tmp_path: Path,
    text: str,
    rest: tuple[str, ...],
) -> None:
    for version in rest:
        pages(wheel("alpha", version), "")
    url = pages(ALPHA[-1], 'data-yanked="broken"')
    requirements = parse(text.encode(), FILE)
    error = ask_pip(tmp_path, requirements) if resolver == "pip" else ask_uv(tmp_path, url, requirements)
    assert (error.kind, error.path, error.line) == ("no-version", FILE, 1)
    assert error.message == f"nothing satisfies {text.strip()} but alpha 2.0, which was yanked"
    assert error.hint == "ask for another version; exactly alpha==2.0 is still given to who insists"


def test_a_python_that_only_the_wheel_itself_names_is_told_as_that(
    resolver: str, pages: Callable[[WheelSpec, str], str], tmp_path: Path
) -> None:
    pages(wheel("beta", "1.0", "alpha"), "")
    url = pages(wheel("alpha", "2.0", python=FUTURE), "")
    requirements = parse(b"beta\n", FILE)
    error = ask_pip(tmp_path, requirements) if resolver == "pip" else ask_uv(tmp_path, url, requirements)
    assert (error.kind, error.path, error.line) == ("requires-python", FILE, 1)
    assert error.message == "alpha, which beta needs, needs Python >=3.99, this is 3.11.9"


# --- the way to the index


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "401 Client Error: Unauthorized"),
        (403, "403 Client Error: Forbidden"),
        (429, "429 Client Error: Too Many Requests"),
        (500, "500 Server Error: Internal Server Error"),
        (503, "503 Server Error: Service Unavailable"),
    ],
)
def test_an_index_that_fails_is_not_a_package_that_is_missing(
    index: Index, resolver: str, ask: Ask, status: int, reason: str
) -> None:
    publish(index, *ALPHA)
    index.status["/simple/"] = status
    error = ask(parse(b"alpha\n", FILE))
    assert (type(error), error.kind) == (PackageIndexError, "index-unreachable")
    assert error.message.startswith("the package index did not answer")
    if status in {429, 500, 503} and resolver == "pip":
        # Of a status after which it would try again, pip says that, or what it is, as it likes.
        assert error.message in {
            "the package index did not answer",
            f"the package index did not answer: {reason}",
        }
    else:
        assert error.message == f"the package index did not answer: {reason}"
    wants = (
        "the index wants credentials, or other ones: in its URL in pip's configuration, in ~/.netrc, or in a keyring, "
        "which is asked only where pip's keyring-provider is import or subprocess"
    )
    usual = "check the network, the proxy and pip's configuration (pip config list)"
    assert error.hint == (wants if status in {401, 403} else usual)


def test_an_index_that_fails_on_a_file_is_not_a_package_that_is_missing(index: Index, ask: Ask) -> None:
    publish(index, *ALPHA)
    index.status["/files/"] = 503
    error = ask(parse(b"alpha\n", FILE))
    assert (type(error), error.kind) == (PackageIndexError, "index-unreachable")


def test_an_index_that_refuses_to_say_more_names_its_answer(index: Index, ask: Ask) -> None:
    index.status["/simple/"] = 403
    error = ask(parse(b"alpha\n", FILE))
    assert error.message == "the package index did not answer: 403 Client Error: Forbidden"


def test_a_refused_connection_is_told_as_that_and_nothing_more(
    resolver: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Index() as closed:
        monkeypatch.setenv("PIP_INDEX_URL", closed.url)
    requirements = parse(b"alpha\n", FILE)
    error = (
        ask_pip(tmp_path, requirements) if resolver == "pip" else ask_uv(tmp_path, closed.url, requirements)
    )
    assert (type(error), error.kind) == (PackageIndexError, "index-unreachable")
    assert error.message.startswith("the package index did not answer: [Errno 111] Connection refused")
    assert "Skipping" not in error.message


@pytest.mark.parametrize("status", [None, 403, 404, 503])
def test_credentials_are_in_no_error(
    resolver: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int | None
) -> None:
    with Index(ALPHA, credentials=("somebody", "sEcret")) as index:
        url = index.url_with_credentials
        if status is None:
            url = url.replace("sEcret", "sEcret-but-wrong")
        else:
            index.status["/files/"] = status
        monkeypatch.setenv("PIP_INDEX_URL", url)
        requirements = parse(b"alpha\n", FILE)
        error = ask_pip(tmp_path, requirements) if resolver == "pip" else ask_uv(tmp_path, url, requirements)
    assert isinstance(error, PackageIndexError)
    assert not re.search(r"sEcret|somebody", f"{error} {error.hint} {error.args}")
