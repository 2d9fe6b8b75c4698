"""An environment is what ``python -m venv --system-site-packages`` and pip make: the same answers, row by row."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import subprocess
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support import venvs
from support.crash import tree
from support.pythons import pythons
from support.venvs import AWKWARD, NAMESPACE_FILES, Pair, Side
from support.wheels import WheelSpec, build_wheel
from vrfstore.model import LinkOptions
from vrfstore.store.store import Store

# What runs inside, as expressions whose values have to be equal.
ROWS = {
    "sys.path": "sys.path",
    "prefixes": "[sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]",
    "sys.executable": "sys.executable",
    "sys._base_executable": "sys._base_executable",
    "the real executable": "os.path.realpath(sys.executable)",
    "sys.flags": "list(sys.flags)",
    "sys.platlibdir": "sys.platlibdir",
    "sys.warnoptions": "sys.warnoptions",
    "sys.pycache_prefix": "sys.pycache_prefix",
    "sysconfig.get_paths": "{name: sysconfig.get_paths(name) for name in sysconfig.get_scheme_names()}",
    "sysconfig.get_path": "{name: sysconfig.get_path(name) for name in sysconfig.get_path_names()}",
    "sysconfig.get_config_vars": "sysconfig.get_config_vars()",
    "sysconfig.get_platform": "sysconfig.get_platform()",
    "sysconfig.get_default_scheme": "get_default_scheme()",
    "sysconfig.is_python_build": "sysconfig.is_python_build()",
    "distutils": "distutils_paths()",
    "site.PREFIXES": "site.PREFIXES",
    "site.getsitepackages": "site.getsitepackages()",
    "site.ENABLE_USER_SITE": "site.ENABLE_USER_SITE",
    "site.USER_SITE": "[site.USER_SITE, site.USER_BASE, site.getusersitepackages(), site.getuserbase()]",
    "version of a base package": "metadata.version('pip')",
    "version of an environment package": "metadata.version('orchard')",
    "distributions": "sorted([found.metadata['Name'], found.version] for found in metadata.distributions())",
    "top-level names": "sorted(packages_distributions())",
    "entry points": "sorted(map(str, metadata.distribution('orchard').entry_points))",
    "files that are missing": "missing_files()",
    "modules": "sorted(module.name for module in pkgutil.iter_modules())",
    "backports": "{name: importlib.import_module(name).__file__ for name in BACKPORTS}",
    "a package": "importlib.import_module('orchard').__file__",
    "its data": "importlib.import_module('orchard').data()",
    "a part of a namespace": "importlib.import_module('grove.one').__file__",
    "another part": "importlib.import_module('grove.two').__file__",
    "the namespace": "list(importlib.import_module('grove').__path__)",
    "co_filename": "importlib.import_module('orchard').main.__code__.co_filename",
    "lines of .pth files": "sys.grown",
    "a C extension of the base": "importlib.import_module('_ctypes').__file__",
    "venv and ensurepip": "[importlib.import_module(name).__file__ for name in ('venv', 'ensurepip')]",
    "ensurepip.version": "importlib.import_module('ensurepip').version()",
}

BACKPORTS = (
    "asyncio",
    "contextvars",
    "dataclasses",
    "enum",
    "importlib.metadata",
    "json",
    "statistics",
    "typing",
)
"""Modules of the standard library that some wheel brings as well."""

BULKY = ("backports", "distributions", "distutils", "modules", "sysconfig.get_config_vars", "top-level names")
"""Rows that take longer than starting Python, and are left out where the same question was asked before."""

REPORT = f"""
import importlib, importlib.util, json, os, pkgutil, site, sys, sysconfig, warnings
import importlib.metadata as metadata

BACKPORTS = {BACKPORTS!r}
BULKY = {BULKY!r}
ROWS = {ROWS!r}

def get_default_scheme():
    named = getattr(sysconfig, "get_default_scheme", None) or sysconfig._get_default_scheme
    return named()

def distutils_paths():
    if sys.version_info >= (3, 12):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from distutils import sysconfig as old
    return [old.get_python_inc(), old.get_python_lib(), old.get_python_lib(True, True), old.PREFIX]

def packages_distributions():
    # Both from RECORD and by directory, so that a package behind a link counts.
    return metadata.packages_distributions() if sys.version_info >= (3, 10) else {{}}

def missing_files():
    found = [path for name in ("orchard", "grove-one") for path in metadata.files(name)]
    return [str(path) for path in found if not os.path.exists(path.locate())]

def main():
    answers, errors = {{}}, {{}}
    for name, row in ROWS.items():
        if name in BULKY and os.environ.get("BRIEF"):
            continue
        try:
            answers[name] = eval(row)
        except Exception as error:
            errors[name] = repr(error)
    print(json.dumps([answers, errors], default=repr, ensure_ascii=False))

if __name__ == "__main__":
    main()
"""

WHEELS = (
    WheelSpec(
        name="orchard",
        version="2.5",
        files={
            "orchard/__init__.py": (
                "import pathlib\n\ndef data():\n    return pathlib.Path(__file__).with_name('fruit.txt').read_text()\n"
                "\ndef main():\n    import sys\n    print('eaten', sys.argv[1:], sys.prefix, sys.path)\n"
            ),
            "orchard/__main__.py": "import sys\nprint(sys.argv[0], __spec__.name, sys.path)\n",
            "orchard/fruit.txt": "apple",
            "report.py": REPORT,
            "grown.pth": "import sys; sys.grown = True\n",
        },
        entry_points={"console_scripts": {"eat": "orchard:main"}},
        data={
            "scripts/pluck": "#!python\nimport sys\nprint('plucked', sys.argv[1:], sys.executable, sys.path)\n",
            "data/share/orchard/map": "trees",
            "data/etc/orchard.conf": "trees = 9\n",
            "headers/orchard.h": "",
        },
        executable=("scripts/pluck",),
    ),
    WheelSpec(name="grove-one", files={"grove/one.py": ""}),
    WheelSpec(name="grove-two", files={"grove/two.py": ""}),
    WheelSpec(
        name="backports",
        files={
            path: "raise ImportError('the backport')\n"
            for name in BACKPORTS
            for path in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py")
            if not path.startswith("importlib")
        },
    ),
)

LATER = WheelSpec(name="later", files={"later.py": "late = True\n", "orchard_later/__init__.py": ""})
"""What somebody installs afterwards."""

KINDS = {
    "plain": LinkOptions(user_site=True),
    "venv": LinkOptions(),
    "awkward": LinkOptions(user_site=True),
    "isolated": LinkOptions(isolated=True),
    "usual": LinkOptions(),
}
"""How environments are linked on bases: as ``venv`` has it, on a venv, with paths that shells and kernels do not
take, without the base's packages, and without the user's, which ``venv`` has no option for."""


class Bases:
    """Makes the pairs of this machine, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.wheels = [build_wheel(spec, folder) for spec in WHEELS]
        self.later = build_wheel(LATER, folder)
        self.script = folder / "scripts" / "report script.py"
        self.script.parent.mkdir()
        self.script.write_text(REPORT)
        self._pairs: dict[tuple[str, str], Pair] = {}

    def pair(self, root: str, kind: str) -> Pair:
        """Return the environment and the venv on a python, of one of ``KINDS``."""
        if (root, kind) not in self._pairs:
            self._pairs[root, kind] = self.fresh(root, kind, f"{_name(root)}-{kind}")
        return self._pairs[root, kind]

    def fresh(self, root: str, kind: str, name: str) -> Pair:
        """Return a new pair, for those who change it."""
        folder = self.folder / name / (AWKWARD if kind == "awkward" else "")
        folder.mkdir(parents=True)
        python, options, added = root, [] if kind == "isolated" else ["--system-site-packages"], ""
        if kind == "venv":
            python = f"{venvs.venv(root, folder / 'base', [], '--system-site-packages')}/bin/python"
            options, added = [], _based_on(python)
        elif kind == "awkward":
            python = venvs.relocated(root, folder / "base") or root
        _user_package(self.home, root)
        store = Store.open(folder / "store")
        with ThreadPoolExecutor(2) as pool:
            making = pool.submit(venvs.venv, python, folder / "venv", self.wheels, *options)
            ours = venvs.environment(store, python, self.wheels, KINDS[kind])
            theirs = making.result()
        if added:
            (site,) = theirs.glob("lib/python*/site-packages")
            (site / "_base.pth").write_text(added)
        return Pair(Side(ours, self.home), Side(theirs, self.home), store, python, root)


def _based_on(python: str) -> str:
    """Give a base that is a venv a package, and return what lets another venv see the base's packages."""
    base = venvs.probed(python)
    metadata = Path(base.site_directories[0]) / "basement-4.0.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: basement\nVersion: 4.0\n")
    return "".join(
        f"import os, site; os.path.isdir({path!r}) and site.addsitedir({path!r})\n"
        for path in base.site_directories
    )


def _user_package(home: Path, python: str) -> None:
    metadata = venvs.user_site(home, python) / "homemade-1.0.dist-info/METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text("Metadata-Version: 2.1\nName: homemade\nVersion: 1.0\n")
    (metadata.parents[1] / "homemade.py").touch()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(tmp_path_factory.mktemp("bases"))


def _name(python: str) -> str:
    return f"{Path(python).parts[-3]}-{Path(python).name}"


def _each(*quick: str) -> list[Any]:
    """Return all pythons as parameters; those count as slow that are none of ``quick``."""
    return [
        pytest.param(python, id=_name(python), marks=() if python in quick else pytest.mark.exhaustive)
        for python in pythons()
    ]


def _version(python: str) -> tuple[int, ...]:
    return tuple(map(int, venvs.probed(python).short_version.split(".")))


OLDEST, NEWEST = (choose(pythons(), key=_version) for choose in (min, max))
SYSTEM = next((python for python in pythons() if venvs.probed(python).prefix == "/usr"), NEWEST)


@functools.cache
def _require_pip(python: str) -> None:
    """Skip where there is nothing to compare with."""
    done = subprocess.run(
        [python, "-I", "-c", "import ensurepip, pip, venv"], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this python has no pip, or cannot make a venv")


@pytest.fixture(params=_each(OLDEST, NEWEST, SYSTEM))
def python(request: pytest.FixtureRequest) -> str:
    """Each CPython of this machine in turn."""
    _require_pip(request.param)
    return str(request.param)


@pytest.fixture
def plain(bases: Bases, python: str) -> Pair:
    """What nobody changes, on a python that is no venv."""
    return bases.pair(python, "plain")


def both(pair: Pair, ask: Callable[[Side], Any]) -> tuple[Any, Any]:
    """Return what both sides answer."""
    with ThreadPoolExecutor(2) as pool:
        ours, theirs = pool.map(ask, pair.sides)
    return ours, theirs


def report(
    side: Side, *command: str, extra: dict[str, str] | None = None, failing: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the rows as a command prints them; only those may fail that are named."""
    answers, errors = json.loads(side.run(*command, extra=extra))
    assert list(errors) == list(failing)
    return dict(answers)


PYTHON = "{root}/bin/python"
IMPORTED = ("-c", "import report; report.main()")

STARTS = {
    "-c": [PYTHON, *IMPORTED],
    "-m": [PYTHON, "-m", "report"],
    "-I": [PYTHON, "-I", *IMPORTED],
    "-s": [PYTHON, "-s", *IMPORTED],
    "-E": [PYTHON, "-E", *IMPORTED],
    "-I -m": [PYTHON, "-I", "-m", "report"],
    "-X utf8": [PYTHON, "-X", "utf8", "-W", "error", *IMPORTED],
    "-OO": [PYTHON, "-OO", *IMPORTED],
    "python3": ["{root}/bin/python3", *IMPORTED],
    "pythonX.Y": ["{root}/bin/python{X.Y}", *IMPORTED],
    "a script": [PYTHON, "{script}"],
    "a script, -I": [PYTHON, "-I", "{script}"],
    "standard input": ["/bin/sh", "-c", 'exec "$0" - < "$1"', PYTHON, "{script}"],
    "by PATH": ["/bin/sh", "-c", 'PATH=$0:$PATH; exec python "$1"', "{root}/bin", "{script}"],
    "by a relative path": ["/bin/sh", "-c", 'cd "$0" && exec bin/python "$1"', "{root}", "{script}"],
    "by a path with dots": ["{root}/lib/../bin/./python", "{script}"],
    "activated": [
        "/bin/sh",
        "-c",
        'export VIRTUAL_ENV="$0"; PATH="$0/bin"; exec python "$1"',
        "{root}",
        "{script}",
    ],
}
"""How an interpreter can be started."""


WHOLE = {"-c", "-I"}
"""Those of ``STARTS`` that are asked everything."""

CASES = [("plain", start) for start in STARTS] + [
    (kind, start) for kind in ("venv", "awkward", "isolated") for start in ("-c", "-I", "a script")
]


@pytest.mark.parametrize(("kind", "start"), CASES)
def test_inside_everything_is_as_in_a_venv(bases: Bases, python: str, kind: str, start: str) -> None:
    pair = bases.pair(python, kind)
    named = {"{script}": str(bases.script), "{X.Y}": venvs.probed(python).short_version}
    command = [
        functools.reduce(lambda word, item: word.replace(*item), named.items(), word)
        for word in STARTS[start]
    ]
    extra = {} if start in WHOLE else {"BRIEF": "1"}
    failing = ["version of a base package"] if kind == "isolated" else []
    ours, theirs = both(pair, lambda side: report(side, *command, extra=extra, failing=failing))
    assert ours == theirs
    assert not [path for path in ours.get("backports", {}).values() if path.startswith("<root>")]


@pytest.mark.parametrize("start", ["-c", "-I", "-s", "a script"])
def test_the_users_packages_are_the_only_difference_to_a_venv(bases: Bases, python: str, start: str) -> None:
    pair = bases.pair(python, "usual")
    command = [word.replace("{script}", str(bases.script)) for word in STARTS[start]]
    ours, theirs = both(pair, lambda side: report(side, *command))
    theirs["sys.path"] = [path for path in theirs["sys.path"] if not path.startswith(str(bases.home))]
    for row in ("distributions", "modules", "top-level names"):
        assert [item for item in theirs[row] if item not in ours[row]] in (
            [], ["homemade"], [["homemade", "1.0"]]
        )  # fmt: skip
        assert [item for item in ours[row] if item not in theirs[row]] == []
        del ours[row], theirs[row]
    assert theirs.pop("site.ENABLE_USER_SITE") is (start not in {"-I", "-s"})
    assert ours.pop("site.ENABLE_USER_SITE") is False
    assert ours == theirs


def test_on_a_venv_the_users_packages_are_seen_if_asked_for_and_not_with_s(
    bases: Bases, tmp_path: Path, python: str
) -> None:
    pair = bases.pair(python, "venv")
    root = venvs.environment(pair.store, pair.python, bases.wheels, LinkOptions(user_site=True))
    own = str(venvs.user_site(bases.home, python))

    def paths(home: Path, *options: str) -> list[str]:
        found = Side(root, home).run(PYTHON, *options, "-c", "import json, sys; print(json.dumps(sys.path))")
        return list(json.loads(found))

    without = paths(bases.home, "-s")
    assert own not in without
    assert paths(bases.home, "-I") == without[1:]
    assert paths(tmp_path) == without
    seen = paths(bases.home)
    assert seen.index(own) < seen.index(venvs.probed(pair.python).site_directories[0])
    seen.remove(own)
    assert seen == without


def test_the_files_are_those_of_a_venv(plain: Pair) -> None:
    def listed(root: Path) -> set[str]:
        walked = os.walk(root, followlinks=True)
        return {os.path.relpath(f"{parent}/{name}", root) for parent, _, names in walked for name in names}

    ours, theirs = (
        {path for path in listed(side.root) if not path.startswith("lib64/") and "/__pycache__/" not in path}
        for side in plain.sides
    )
    # What pip writes down of where it has a wheel from and who asked for it.
    assert {path.rpartition("/")[2] for path in theirs - ours} <= {
        "REQUESTED",
        "direct_url.json",
        ".gitignore",
    }
    extra = {
        path for path in ours - theirs if not path.rpartition("/")[2].startswith((".vrfstore", "_vrfstore"))
    }
    assert extra - {"bin/activate.nu"} == {"vrfstore.json"}


SETTINGS = {
    "PYTHONPATH": {"PYTHONPATH": "{root}/share:/nonexistent"},
    "PYTHONHOME": {"PYTHONHOME": "<prefix>"},
    "PYTHONNOUSERSITE": {"PYTHONNOUSERSITE": "1"},
    "PYTHONUSERBASE": {"PYTHONUSERBASE": "{root}/user"},
    "PYTHONSAFEPATH": {"PYTHONSAFEPATH": "1"},
    "PYTHONPLATLIBDIR": {"PYTHONPLATLIBDIR": "lib"},
    "PYTHONWARNINGS": {"PYTHONWARNINGS": "error"},
    "LC_ALL": {"LC_ALL": "C"},
}
"""Environment variables that Python itself reads."""


@pytest.mark.parametrize("name", SETTINGS)
def test_variables_have_the_effect_that_they_have_in_a_venv(plain: Pair, name: str) -> None:
    prefix = venvs.probed(plain.python).prefix
    extra = {key: value.replace("<prefix>", prefix) for key, value in SETTINGS[name].items()} | {"BRIEF": "1"}
    ours, theirs = both(plain, lambda side: report(side, PYTHON, *IMPORTED, extra=extra))
    assert ours == theirs


SPAWN = """
import json, multiprocessing, subprocess, sys

def ask(queue):
    import orchard
    queue.put([sys.executable, sys.prefix, sys.path, orchard.__file__, multiprocessing.get_start_method()])

if __name__ == "__main__":
    answers = []
    for method in ("spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=ask, args=(queue,))
        process.start()
        answers.append(queue.get(timeout=60))
        process.join()
    program = "import orchard, sys; print(sys.executable, sys.prefix, sys.path, orchard.__file__)"
    answers.append(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout)
    print(json.dumps(answers))
"""

PLACE = "import sys; print(sys.executable, sys.prefix, sys.base_prefix, sys.path, sys.argv)"

COMMANDS: dict[str, Sequence[str]] = {
    "a console script": ["{root}/bin/eat", "a b", "", "*"],
    "a script of the wheel": ["{root}/bin/pluck", "a b"],
    "a console script by PATH": ["/bin/sh", "-c", "PATH=$0:$PATH; exec eat x", "{root}/bin"],
    "a console script given to python": [PYTHON, "{root}/bin/eat", "x"],
    "-m package": [PYTHON, "-m", "orchard", "x"],
    "-m site": [PYTHON, "-m", "site"],
    "-m site --user-site": [PYTHON, "-m", "site", "--user-site", "--user-base"],
    "-I -m site --user-site": [PYTHON, "-I", "-m", "site", "--user-site"],
    "-m sysconfig": [PYTHON, "-m", "sysconfig"],
    "-m pydoc": [PYTHON, "-m", "pydoc", "orchard"],
    "-m ensurepip --version": [PYTHON, "-m", "ensurepip", "--version"],
    "-S": [PYTHON, "-S", "-c", PLACE],
    "-P": [PYTHON, "-P", "-c", PLACE],
    "-I -S": [PYTHON, "-I", "-S", "-c", PLACE],
    "spawn and forkserver": [PYTHON, "{folder}/spawn.py"],
    "an archive": [PYTHON, "{folder}/archive.pyz", "x"],
    "a directory": [PYTHON, "{folder}/directory", "x"],
    "a link to python from elsewhere": ["{folder}/{side}/link", "-c", PLACE],
    "a link to the whole from elsewhere": ["{folder}/{side}/whole/bin/python", "-c", PLACE],
    "another name for itself": ["/bin/bash", "-c", 'exec -a snake "$0" -c "$1"', PYTHON, PLACE],
}
"""What people run; the answers have to be equal, exit code and all."""


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_run_answers_as_in_a_venv(plain: Pair, tmp_path: Path, name: str) -> None:
    (tmp_path / "spawn.py").write_text(SPAWN)
    (tmp_path / "directory").mkdir()
    main = tmp_path / "directory/__main__.py"
    main.write_text(
        f"import orchard, pkgutil\n{PLACE}\nprint(__file__, __spec__.name, __spec__.origin, orchard.data())\n"
    )
    with zipfile.ZipFile(tmp_path / "archive.pyz", "w") as archive:
        archive.write(main, "__main__.py")
    for number, side in enumerate(plain.sides):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/link").symlink_to(side.python)
        (tmp_path / f"{number}/whole").symlink_to(side.root)

    def ask(side: Side) -> str:
        number = str(plain.sides.index(side))
        command = [
            word.replace("{folder}", str(tmp_path)).replace("{side}", number) for word in COMMANDS[name]
        ]
        said = side.run(*command, code=None, extra={"COLUMNS": "200", "PAGER": "cat"})
        return said.replace(f"{tmp_path}/{number}", "<side>")

    ours, theirs = both(plain, ask)
    assert ours == theirs
    assert ours != "exit 0\n"


def configuration(side: Side, root: Path) -> list[str]:
    """Return the lines of a pyvenv.cfg but for the one that says how it came about."""
    lines = side.normal((root / "pyvenv.cfg").read_text()).splitlines()
    return [line for line in lines if not line.startswith("command = ")]


def test_a_venv_made_inside_stands_on_the_real_base(plain: Pair, tmp_path: Path) -> None:
    def ask(side: Side) -> tuple[Any, ...]:
        inner = tmp_path / str(plain.sides.index(side)) / "inner"
        side.run(PYTHON, "-m", "venv", "--without-pip", "--system-site-packages", str(inner))
        made = Side(inner, side.home)
        lines = configuration(side, inner)
        rows = made.run(PYTHON, "-c", f"{PLACE}; import pip; print(pip.__file__, sys._base_executable)")
        assert "orchard" not in made.run(PYTHON, "-c", "import pkgutil; print(*pkgutil.iter_modules())")
        return lines, rows, os.path.realpath(made.python)

    (*ours, python), (*theirs, same) = both(plain, ask)
    assert ours == theirs
    assert python == same == venvs.probed(plain.root).real


def store_of(pair: Pair) -> dict[str, tuple[str, bytes]]:
    """Return all of a store but its environments, and what does not last."""
    return tree(pair.store.root, without=("environments", "leases", "holds", "tmp"))


@pytest.fixture
def changed(bases: Bases, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A pair of one's own, of whose store nothing may be different afterwards."""
    _require_pip(request.param)
    pair = bases.fresh(request.param, "plain", tmp_path.name)
    before = store_of(pair)
    yield pair
    assert store_of(pair) == before
    shutil.rmtree(pair.theirs.root)


@pytest.mark.parametrize("changed", _each(NEWEST), indirect=True)
@pytest.mark.parametrize("options", [[], ["--system-site-packages"]], ids=["isolated", "as it was"])
def test_venv_upgrade_works_and_leaves_the_store_alone(changed: Pair, options: list[str]) -> None:
    def ask(side: Side) -> list[Any]:
        side.run(changed.python, "-I", "-m", "venv", "--upgrade", "--without-pip", *options, str(side.root))
        links = {
            name: os.readlink(side.root / "bin" / name)
            for name in os.listdir(side.root / "bin")
            if "python" in name
        }
        assert {os.path.realpath(side.root / "bin" / name) for name in links} == {
            venvs.probed(changed.root).real
        }
        lines = configuration(side, side.root)
        answers, errors = json.loads(side.run(PYTHON, *IMPORTED))
        assert (errors == {}) is bool(options)
        return [lines, answers, errors, side.run("{root}/bin/eat", "x")]

    ours, theirs = both(changed, ask)
    assert ours == theirs


@pytest.mark.exhaustive
@pytest.mark.parametrize("changed", sorted({OLDEST, NEWEST, SYSTEM}), ids=_name, indirect=True)
def test_venv_upgrade_with_pip_works(changed: Pair) -> None:
    def ask(side: Side) -> list[str]:
        side.run(
            changed.python,
            "-I",
            "-m",
            "venv",
            "--upgrade",
            "--system-site-packages",
            str(side.root),
            code=None,
        )
        return [side.run(PYTHON, "-m", "pip", "--version"), side.run(PYTHON, "-m", "pip", "list")]

    ours, theirs = both(changed, ask)
    assert ours == theirs


@pytest.mark.parametrize("changed", _each(NEWEST), indirect=True)
def test_pip_of_the_base_works_on_it(bases: Bases, changed: Pair) -> None:
    def ask(side: Side) -> list[Any]:
        pip = [PYTHON, "-m", "pip"]
        before = [side.run(*pip, "--version"), json.loads(side.run(*pip, "list", "--format", "json"))]
        side.run(*pip, "install", "--no-index", "--no-deps", str(bases.later))
        after = json.loads(side.run(*pip, "list", "--format", "json"))
        place = side.run(PYTHON, "-c", "import later, orchard; print(later.__file__, orchard.__file__)")
        return [before, after, place]

    ours, theirs = both(changed, ask)
    assert ours == theirs
    assert {"name": "later", "version": "1.0"} in ours[1]


@pytest.mark.parametrize("changed", _each(OLDEST), indirect=True)
def test_pip_from_outside_works_on_it(bases: Bases, changed: Pair) -> None:
    def ask(side: Side) -> list[Any]:
        pip, listing = [changed.root, "-I", "-m", "pip"], ["list", "--format", "json"]
        side.run(*pip, "--python", PYTHON, "install", "--no-index", "--no-deps", str(bases.later))
        listed = json.loads(side.run(*pip, "--python", PYTHON, *listing))
        by_variable = side.run(*pip, *listing, extra={"PIP_PYTHON": PYTHON})
        by_directory = side.run(*pip, "--python", "{root}", *listing)
        assert json.loads(by_variable) == json.loads(by_directory) == listed
        return [listed, side.run(PYTHON, "-c", "import later; print(later.__file__)")]

    ours, theirs = both(changed, ask)
    assert ours == theirs
    assert {"name": "later", "version": "1.0"} in ours[0]


PORTION = "import {0}.ours, {0}.theirs; print({0}.ours.__file__, {0}.theirs.__file__)"


@pytest.mark.parametrize("form", NAMESPACE_FILES)
@pytest.mark.parametrize("kind", ["moved", "venv"])
def test_namespaces_that_the_base_makes_at_its_start_have_the_portions_of_the_environment(
    bases: Bases, tmp_path: Path, python: str, kind: str, form: str
) -> None:
    """A venv has them too, but not with each form: there the base's portion may hide its own."""
    if kind == "moved":
        base = venvs.relocated(python, tmp_path / "base", packages=False)
    else:
        base = f"{venvs.venv(python, tmp_path / 'base', [], '--system-site-packages')}/bin/python"
    if base is None:
        pytest.skip("this build cannot be moved")
    (site,) = (tmp_path / "base").glob("lib/python*/site-packages")
    (site / f"{form}-nspkg.pth").write_text(NAMESPACE_FILES[form])
    names = {
        "first": ["old"],
        "without effect": ["idle"],
        "dotted": ["cloud", "cloud.deep"],
        "last": ["new"],
    }[form]
    files = {}
    for name in names:
        folder = name.replace(".", "/")
        (site / folder).mkdir()
        (site / folder / "theirs.py").touch()
        files[f"{folder}/ours.py"] = ""
    spec = WheelSpec(name="portion", files=files)
    store = Store.open(tmp_path / "store")
    side = Side(venvs.environment(store, base, [build_wheel(spec, tmp_path)]), bases.home)
    for name in names:
        folder = name.replace(".", "/")
        for option in ("-I", "-s", "-B"):
            ours, theirs = side.run(PYTHON, option, "-c", PORTION.format(name)).split()
            assert ours == f"<root>/lib/{site.parent.name}/site-packages/{folder}/ours.py"
            assert theirs == f"{site}/{folder}/theirs.py"
            found = f"import importlib.util, pkgutil, {name}; print(importlib.util.find_spec('{name}').name)"
            assert side.run(PYTHON, option, "-c", found).strip() == name


EMBEDDING = r"""
#include <Python.h>

/* Runs argv[1] with the fields of a PyConfig that the other arguments set: name=value. */
int main(int count, char **arguments)
{
    PyConfig config;
    PyStatus status;
    PyConfig_InitPythonConfig(&config);
    status = PyConfig_SetBytesString(&config, &config.run_filename, arguments[1]);
    for (int i = 2; i < count && !PyStatus_Exception(status); i++) {
        char *value = strchr(arguments[i], '=');
        *value++ = 0;
        if (strcmp(arguments[i], "program_name") == 0)
            status = PyConfig_SetBytesString(&config, &config.program_name, value);
        else if (strcmp(arguments[i], "executable") == 0)
            status = PyConfig_SetBytesString(&config, &config.executable, value);
        else
            status = PyConfig_SetBytesString(&config, &config.home, value);
    }
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    return Py_RunMain();
}
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Compiles, for a python, a program that embeds it."""
    folder = tmp_path_factory.mktemp("embedding")
    (folder / "embedding.c").write_text(textwrap.dedent(EMBEDDING))

    @functools.cache
    def compiled(python: str) -> str:
        base = venvs.probed(python)
        config, compiler = f"{base.real}-config", shutil.which("gcc") or shutil.which("cc")
        if compiler is None or not os.path.exists(config):
            pytest.skip("there is no C compiler, or no configuration of this python to compile with")
        flags = [
            flag
            for option in ("--includes", "--ldflags")
            for flag in shlex.split(subprocess.check_output([config, option, "--embed"], text=True))
        ]
        program = folder / f"embedding-{base.version}-{abs(hash(base.prefix))}"
        built = subprocess.run(
            [compiler, "-o", program, folder / "embedding.c", *flags],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            pytest.skip(f"this python cannot be embedded: {built.stderr[-300:]}")
        return str(program)

    return compiled


@pytest.mark.parametrize(
    "fields",
    [
        ["program_name={root}/bin/python"],
        ["executable={root}/bin/python"],
        ["program_name={root}/bin/python", "executable={root}/bin/python"],
        ["home=<prefix>", "program_name={root}/bin/python"],
        ["home={root}"],
        [],
    ],
    ids=["program_name", "executable", "both", "home of the base", "home", "nothing"],
)
def test_a_program_that_embeds_python_finds_what_it_finds_in_a_venv(
    bases: Bases, plain: Pair, programs: Callable[[str], str], fields: list[str]
) -> None:
    program, prefix = programs(plain.root), venvs.probed(plain.root).prefix
    script = bases.folder / "place.py"
    script.write_text(
        "import importlib.util\n"
        + PLACE
        + "\nprint(importlib.util.find_spec('orchard').origin if importlib.util.find_spec('orchard') else 'nowhere')\n"
    )
    command = [program, str(script), *(field.replace("<prefix>", prefix) for field in fields)]
    ours, theirs = both(plain, lambda side: side.run(*command, code=None))
    assert ours == theirs
    if fields[:1] == ["program_name={root}/bin/python"]:
        assert ours.splitlines()[2].startswith("<root>/lib/")
