"""Environments for pip and uv to work on: wheels of every shape, users, and what must be there afterwards."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import vrfstore
from support.crash import LOCK, NOBODY, as_nobody, base, dangling, make_environment, tree, wheel_digest
from support.wheels import WheelSpec, build_wheel
from vrfstore.linker import into
from vrfstore.linker.composing import composed
from vrfstore.linker.link import environment_key, link
from vrfstore.model import LinkOptions
from vrfstore.runner.verify import VerifyReport, verify
from vrfstore.store import externals, leases
from vrfstore.store.store import Store

T = TypeVar("T")

PKGUTIL = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"


def _spec(project: str, files: Mapping[str, str], **more: Any) -> WheelSpec:
    """Return a wheel, ``NAME==VERSION``, whose modules say where they come from, unless they have a text."""
    name, _, version = project.partition("==")
    said = {path: text or _who(f"{name} {version}") * path.endswith(".py") for path, text in files.items()}
    return WheelSpec(name=name, version=version, files=said, **more)


def _who(owner: str) -> str:
    return f"who = {owner!r}\n"


def _tooling(version: str, **more: str) -> WheelSpec:
    return _spec(
        f"tooling=={version}",
        {"tooling/__init__.py": f"who = 'tooling {version}'\n\ndef main():\n    print(who)\n"},
        data={
            "data/share/jupyter/kernels/tooling/kernel.json": "{}",
            "data/share/jupyter/labextensions/tooling/package.json": version,
            "data/share/jupyter/labextensions/@scope/tooling/package.json": version,
            "data/share/man/man1/tooling.1": version,
            "data/share/tooling/own/x.txt": version,
            "data/share/tooling/shared/x.txt": version,
            "data/etc/tooling/tooling.conf": version,
            "data/etc/jupyter/jupyter_server_config.d/tooling.json": "{}",
            "headers/tooling.h": version,
            "headers/deep/tooling.h": version,
            "purelib/tooling_more.py": _who(f"tooling {version}"),
            "scripts/tool-sh": f"#!/bin/sh\necho {version}\n",
            "scripts/tool-py": "#!python\nimport tooling\ntooling.main()\n",
            **more,
        },
        executable=["scripts/tool-sh", "scripts/tool-py"],
        entry_points={
            "console_scripts": {"tool": "tooling:main"},
            "gui_scripts": {"tool-gui": "tooling:main"},
        },
        requires=["regular>=1"],
    )


def _regular(version: str, module: str) -> WheelSpec:
    return _spec(
        f"regular=={version}",
        {
            "regular/__init__.py": "",
            "regular/inner/__init__.py": "",
            f"regular/inner/{module}.py": "",
            "regular/data/x.txt": version,
            f"regular-{version}.dist-info/licenses/LICENSE": "free\n",
            f"regular-{version}.dist-info/licenses/vendored/LICENSE": "free, too\n",
        },
    )


def _pathy(version: str) -> WheelSpec:
    return _spec(
        f"pathy=={version}",
        {
            "pathy.pth": "pathy_modules\n",
            "pathy-hook.pth": "import sys; sys.pathy_hook = True\n",
            "pathy_modules/pathy_added.py": "",
        },
    )


def _native(version: str) -> WheelSpec:
    return _spec(
        f"native=={version}",
        {"native/__init__.py": "", f"native.libs/libnative-{version}.so.1": version},
        tag="py3-none-any",
        root_is_purelib=False,
    )


LINKED = {
    spec.name: spec
    for spec in (
        _regular("1.0", "deep"),
        _spec("single==1.0", {"single.py": ""}),
        _pathy("1.0"),
        _native("1.0"),
        _spec("orchard-fig==1.0", {"orchard/fig/__init__.py": "", "orchard/fig/pip.py": ""}),
        _spec("orchard-plum==1.0", {"orchard/plum.py": "", "orchard/stone/__init__.py": ""}),
        _spec("grove-ash==1.0", {"grove/__init__.py": PKGUTIL, "grove/ash/__init__.py": ""}),
        _spec("grove-oak==1.0", {"grove/__init__.py": PKGUTIL, "grove/oak.py": ""}),
        _spec("vine-red==1.0", {"vine/cellar/red/__init__.py": "", "vine/cellar/list.py": ""}),
        _tooling("1.0"),
        _spec(
            "tooling-extra==1.0",
            {"tooling_extra.py": ""},
            data={
                "data/share/jupyter/kernels/extra/kernel.json": "{}",
                "data/share/jupyter/labextensions/extra/package.json": "{}",
                "data/share/man/man1/extra.1": "extra",
                "data/share/tooling/shared/y.txt": "extra",
                "data/etc/tooling/extra.conf": "extra",
                "scripts/extra": "#!/bin/sh\necho extra\n",
            },
            executable=["scripts/extra"],
        ),
        _spec(
            "comply==1.0",
            {"comply.py": ""},
            data={"data/share/bash-completion/completions/comply": "c", "data/share/comply/x": "c"},
        ),
        _spec("common-one==1.0", {"common/__init__.py": _who("both"), "common/one.py": ""}),
        _spec("common-two==1.0", {"common/__init__.py": _who("both"), "common/two/__init__.py": ""}),
        _spec("equal-left==1.0", {"equal/__init__.py": _who("both"), "equal.txt": "both", "left.py": ""}),
        _spec("equal-right==1.0", {"equal/__init__.py": _who("both"), "equal.txt": "both", "right.py": ""}),
        _spec("host==1.0", {"host/__init__.py": "", "host/plugins/__init__.py": ""}),
        _spec("headed==1.0", {"headed.py": ""}, data={"headers/headed.h": "h", "headers/deep/headed.h": "h"}),
    )
}
"""What every environment holds at first, by name."""

MORE = {
    f"{spec.name} {spec.version}": spec
    for spec in (
        _regular("2.0", "newer"),
        _spec("single==2.0", {"single.py": ""}),
        _pathy("2.0"),
        _native("2.0"),
        _spec("orchard-plum==2.0", {"orchard/plum/__init__.py": "", "orchard/stone/__init__.py": ""}),
        _spec("grove-oak==2.0", {"grove/__init__.py": PKGUTIL, "grove/oak/__init__.py": ""}),
        _spec("vine-red==2.0", {"vine/cellar/red/__init__.py": ""}),
        _spec("host==2.0", {"host/__init__.py": "", "host/plugins.py": ""}),
        _tooling("2.0", **{"data/share/tooling/more/x.txt": "2.0"}),
        _spec("headed==2.0", {"headed.py": ""}, data={"headers/headed.h": "hh"}),
        _spec("common-two==2.0", {"common/__init__.py": _who("both"), "common/two.py": ""}),
        _spec("fresh==1.0", {"fresh/__init__.py": ""}, data={"data/share/fresh/x": "x"}),
        _spec("orchard-nut==1.0", {"orchard/nut/__init__.py": ""}),
        _spec("grove-elm==1.0", {"grove/__init__.py": PKGUTIL, "grove/elm.py": ""}),
        _spec("common-three==1.0", {"common/__init__.py": _who("both"), "common/three.py": ""}),
        _spec("vine-white==1.0", {"vine/cellar/white/__init__.py": ""}),
        _spec("host-plugin==1.0", {"host/plugins/more.py": "", "host/more.py": ""}),
        _spec("half-new==1.0", {"orchard/half.py": "", "host/half.py": ""}),
        _spec(
            "comply-too==1.0",
            {"comply_too.py": ""},
            data={"data/share/bash-completion/completions/comply-too": "c"},
        ),
        _spec("comply-data==1.0", {"comply_data.py": ""}, data={"data/share/comply/y": "c"}),
        _spec("tooling-data==1.0", {"tooling_data.py": ""}, data={"data/share/tooling/own/y.txt": "c"}),
        _spec(
            "scoped-too==1.0",
            {"scoped_too.py": ""},
            data={"data/share/jupyter/labextensions/@scope/too/package.json": "{}"},
        ),
        _spec(
            "tooling-lab==1.0",
            {"tooling_lab.py": ""},
            data={
                "data/share/jupyter/labextensions/lab/package.json": "{}",
                "data/share/jupyter/kernels/lab/kernel.json": "{}",
                "data/etc/jupyter/jupyter_server_config.d/lab.json": "{}",
                "data/share/man/man1/lab.1": "lab",
            },
        ),
    )
}
"""What can be installed besides, by name and version."""


@dataclass(frozen=True)
class User:
    """Who works on an environment.

    Attributes:
        name: ``root`` or ``user``.
        prefix: What to start a program with, so that it is theirs.
        act: Runs an action of ours as them, in a process of its own if it has to be.
    """

    name: str
    prefix: tuple[str, ...]
    act: Callable[[Callable[[], Any]], Any]


def _ours(action: Callable[[], Any]) -> Any:
    return action()


def root() -> User | None:
    """Return root, if that is who we are."""
    return User("root", (), _ours) if os.geteuid() == 0 else None


@functools.cache
def ordinary() -> User | None:
    """Return a user without privileges: ourselves, or what root can become; None where it can become nobody.

    One whom the base interpreter is closed to may read everything, and change no more than any other.
    """
    if os.geteuid() != 0:
        return User("user", (), _ours)
    become = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups".split()
    reads = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    for prefix in (become, [*become, *reads]):
        # What setpriv itself starts, it still starts as root.
        trial = [*prefix, "--", "/bin/sh", "-c", "exec \"$0\" -I -c ''", sys.executable]
        if (
            shutil.which("setpriv")
            and subprocess.run(trial, capture_output=True, check=False).returncode == 0
        ):
            return User("user", (*prefix, "--"), as_nobody)
    return None


@dataclass(frozen=True)
class Made:
    """An environment that somebody may work on.

    Attributes:
        path: Where.
        again: Asks for the same once more, and returns where that is.
        kept: Whether asking once more keeps what somebody has done there since.
    """

    path: str
    again: Callable[[], str]
    kept: bool = False

    @property
    def python(self) -> str:
        """Its interpreter."""
        return f"{self.path}/bin/python"

    @property
    def by_hand(self) -> list[str]:
        """The distributions that vrfstore takes for somebody else's, where it keeps what others have done."""
        found = into.by_hand(self.path, externals.read(self.path), base().directory_name)
        return [f"{each.name} {each.version}" for each in found]


@dataclass
class Ground:
    """A folder of one user: a store, wheels, and a home for the caches of installers.

    Attributes:
        folder: Where; others may read it.
        user: Whose it is.
        only: The one wheel that environments have; all of ``LINKED`` where it is empty.
        options: How environments are linked.
    """

    folder: Path
    user: User
    only: str = ""
    options: LinkOptions = field(default_factory=LinkOptions)
    _sealed: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.only or self.options != LinkOptions():  # another look at what is there
            return
        for name, specs in (("linked", LINKED), ("more", MORE)):
            (self.folder / name).mkdir()
            for spec in specs.values():
                build_wheel(spec, self.folder / name)
        (self.folder / "home").mkdir()
        for path in (self.folder, *self.folder.iterdir()):
            path.chmod(0o755)
            if self.user.act is as_nobody:
                os.chown(path, NOBODY, NOBODY)
        if self.user.act is as_nobody:
            # All that linking imports, which nobody else might be able to read.
            first = self.folder.parent / f"{self.folder.name}-first"
            make_environment(Store.open(first, durable=False), *self.wheels)

    @property
    def wheels(self) -> list[Path]:
        """The wheels of every environment."""
        return sorted((self.folder / "linked").glob(f"{self.only}*"))

    @property
    def store(self) -> str:
        """The path of the store."""
        return str(self.folder / "store")

    def seal(self) -> None:
        """Remember how the store is, unless that is known."""
        if not self._sealed:
            self._sealed.update(self._contents())

    def spoiled(self, *, besides: bool = False) -> list[str]:
        """Return what has changed in the store since it was sealed.

        Then the next environment gets a new store; also if an environment in it is spoiled ``besides``.
        """
        found = self.changed()
        if found or besides:
            shutil.rmtree(self.store)
            self._sealed.clear()
        return found

    def changed(self) -> list[str]:
        """Return what has changed in the store since it was sealed, by path below it."""
        now = self._contents()
        places = sorted(self._sealed.keys() | now.keys())
        return [place for place in places if self._sealed.get(place) != now.get(place)]

    def verify(self, *, mend: bool = False) -> VerifyReport:
        """Let vrfstore look at the store, and mend it."""
        report: VerifyReport = self.user.act(lambda: verify(Store.open(self.store), mend=mend))
        return report

    def _contents(self) -> dict[str, tuple[str, bytes]]:
        # All but what an interpreter compiles, and what is written on every link.
        found: dict[str, tuple[str, bytes]] = {}
        for part in ("entries", "interpreters"):
            found |= {f"{part}/{place}": value for place, value in tree(f"{self.store}/{part}").items()}
        return {place: value for place, value in found.items() if "__pycache__" not in place.split("/")}

    def run(self, command: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program as this user."""
        home = str(self.folder / "home")
        own = {
            "HOME": home,
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "UV_NO_CONFIG": "1",
            "UV_CACHE_DIR": f"{home}/uv",
            "UV_PYTHON_DOWNLOADS": "never",
        }
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in {"PIP_CERT", "SSL_CERT_FILE", "LD_LIBRARY_PATH"}
        }
        if "PIP_CERT" in kept:  # of which uv knows nothing
            kept.setdefault("SSL_CERT_FILE", kept["PIP_CERT"])
        return subprocess.run(
            [*self.user.prefix, *command],
            cwd=home, env=own | kept | variables, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip


def requested(ground: Ground, requirements: str, *, into: str = "") -> Made:
    """Link an environment of real wheels, as a command does it: a managed one, or into a directory of the ground."""
    asked = ground.folder / "home/requirements.vrf"
    asked.write_text(requirements)
    place = os.path.realpath(ground.folder / into) if into else ""
    if place:
        shutil.rmtree(place, ignore_errors=True)

    def link() -> str:
        command = [sys.executable, "-m", "vrfstore", "--store", ground.store, "link", str(asked)]
        source = str(Path(vrfstore.__file__).parents[1])
        option = ["--into", place] if place else []
        said = expect_success(ground.run([*command, *option], PYTHONPATH=source, VRFSTORE_COMPILE="off"))
        return said.strip().removesuffix("/bin/python")

    path = link()
    ground.seal()
    return Made(path, link, kept=bool(place))


Factory = Callable[[Ground], Made]
"""Makes an environment of ``Ground.wheels`` that nobody has worked on yet."""


def managed(ground: Ground) -> Made:
    """Link a managed environment; one that was changed is not handed out again."""

    def linked() -> str:
        store = Store.open(ground.store, durable=False)
        digests = [wheel_digest(wheel) for wheel in ground.wheels]
        key = environment_key(digests, base(), ground.options)
        with leases.take(store.layout, environment=key, digests=digests, lock=LOCK) as lease:
            plans = [store.add(wheel).plan for wheel in ground.wheels]
            with composed(store, plans, ground.options) as merged:
                record, _ = link(store, lease, plans, base(), key=key, lock=LOCK, merged=merged)
        return store.layout.of("environments", record.directory)

    return _made(ground, linked)


def external(ground: Ground) -> Made:
    """Link an environment at a path of the user's own; linked again, it keeps what is theirs."""
    path = os.path.realpath(ground.folder / "venv")
    shutil.rmtree(path, ignore_errors=True)

    def linked() -> str:
        store = Store.open(ground.store, durable=False)
        digests = [wheel_digest(wheel) for wheel in ground.wheels]
        asked = into.Asked(requirements="", path="", python="", lock=LOCK, options=ground.options)
        with leases.take(store.layout, digests=digests, lock=LOCK) as lease:
            plans = [store.add(wheel).plan for wheel in ground.wheels]
            place = into.check_directory(store, path, force=False)
            into.link_into(store, lease, plans, base(), place, asked)
        return path

    return _made(ground, linked, kept=True)


def _made(ground: Ground, linked: Callable[[], str], *, kept: bool = False) -> Made:
    def again() -> str:
        path: str = ground.user.act(linked)
        return path

    path = again()
    ground.seal()
    return Made(path, again, kept)


def plain(ground: Ground) -> Made:
    """Make a venv with the same wheels: to see that what is expected is what it does."""
    os.makedirs(f"{ground.store}/entries", exist_ok=True)
    os.makedirs(f"{ground.store}/interpreters", exist_ok=True)

    def make() -> str:
        path = str(ground.folder / "venv")
        command = [base().real, "-m", "venv", "--clear", "--without-pip", "--system-site-packages", path]
        expect_success(ground.run(command))
        wheels = map(str, ground.wheels)
        expect_success(
            ground.run(
                [uv(), "pip", "install", "-q", "--offline", "--link-mode=copy", "--python", path, *wheels]
            )
        )
        return path

    return Made(make(), make)


@functools.cache
def uv() -> str:
    """Return the path of uv; empty where it is not installed."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return shutil.which("uv", path=places) or ""


def expect_success(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a program printed; it must have succeeded."""
    assert done.returncode == 0, f"{done.args}\n{done.stdout}{done.stderr}"
    return done.stdout


_STATE = """
import importlib, importlib.metadata, json, sys
asked = json.loads(sys.argv[1])
modules = {}
for name in asked:
    try:
        modules[name] = getattr(importlib.import_module(name), "who", "imported")
    except Exception as error:
        modules[name] = f"{type(error).__name__}: {error}"
site = [path for path in sys.path if path.startswith(sys.prefix) and path.endswith("site-packages")]
found = list(importlib.metadata.distributions(path=site))
missing = sorted(
    f"{item.name}: {path}" for item in found for path in item.files or () if not path.locate().exists()
)
print(json.dumps({
    "distributions": sorted(f"{item.name} {item.version}" for item in found),
    "modules": modules,
    "missing": missing,
    "prefix": sys.prefix,
    "hook": getattr(sys, "pathy_hook", False),
}))
"""


def complaints(
    ground: Ground, environment: str, specs: Iterable[WheelSpec], lost: Iterable[str]
) -> list[str]:
    """Return in what an environment differs from what its distributions say.

    Args:
        ground: Where it is.
        environment: Its path.
        specs: What should be there, and nothing besides.
        lost: Files of them, below site-packages, that are gone nevertheless.
    """
    specs = list(specs)
    library = base().directory_name
    site = f"lib/{library}/site-packages"
    expected: dict[str, bytes | None] = {}
    for spec in specs:
        expected |= installed(spec, library)
    gone = {f"{site}/{path}" for path in lost}
    found = []
    for path, content in sorted(expected.items()):
        full = f"{environment}/{path}"
        if path in gone:
            continue
        if not os.path.isfile(full):
            found.append(f"not there: {path}")
        elif content is not None and Path(full).read_bytes() != content:
            found.append(f"another content: {path}")
    everything = {path for spec in (*LINKED.values(), *MORE.values()) for path in installed(spec, library)}
    found += [
        f"still there: {path}"
        for path in sorted((everything - expected.keys()) | gone)
        if os.path.lexists(f"{environment}/{path}")
    ]
    found += [f"dangling: {os.path.relpath(path, environment)}" for path in dangling(environment)]
    # pip removes even site-packages where nothing else is left in it.
    names = os.listdir(f"{environment}/{site}") if os.path.exists(f"{environment}/{site}") else []
    found += [f"left behind: {name}" for name in names if name.startswith("~")]
    return found + _said(ground, environment, specs, gone)


def _said(ground: Ground, environment: str, specs: Sequence[WheelSpec], gone: set[str]) -> list[str]:
    """Return what the interpreter of an environment says differently."""
    library = base().directory_name
    modules = {}
    for spec in specs:
        for path, content in installed(spec, library).items():
            if content and content.startswith(b"who = ") and path not in gone:
                place = path.partition("/site-packages/")[2].removesuffix(".py").removesuffix("/__init__")
                name = place.removeprefix("pathy_modules/").replace("/", ".")
                modules[name] = content.splitlines()[0].decode()[len("who = '") : -1]
    said = state(ground, environment, modules)
    names = {spec.name for spec in specs}
    lost = {path.partition("/site-packages/")[2] for path in gone}
    said["missing"] = [line for line in said["missing"] if line.partition(": ")[2] not in lost]
    wanted: dict[str, object] = {
        "distributions": sorted(f"{spec.name} {spec.version}" for spec in specs),
        "modules": modules,
        "missing": [],
        "prefix": environment,
        "hook": "pathy" in names,
    }
    found = [f"{key}: {_difference(said[key], wanted[key])}" for key in wanted if said[key] != wanted[key]]
    if "tooling" in names:
        found += _scripts(ground, environment, next(spec.version for spec in specs if spec.name == "tooling"))
    return found


def state(ground: Ground, environment: str, modules: Iterable[str]) -> dict[str, Any]:
    """Return what the interpreter of an environment says of it.

    Returns:
        ``distributions`` with versions, ``missing`` files of them, ``prefix``, whether the ``hook`` of a .pth has
        run, and by name of each of ``modules`` who it says it is or why it cannot be imported.
    """
    python = f"{environment}/bin/python"
    said: dict[str, Any] = json.loads(
        expect_success(ground.run([python, "-I", "-c", _STATE, json.dumps(list(modules))])).splitlines()[-1]
    )
    return said


def _scripts(ground: Ground, environment: str, version: str) -> list[str]:
    """Return which scripts of ``tooling`` do not do what they should."""
    wanted = {"tool": f"tooling {version}", "tool-py": f"tooling {version}", "tool-sh": version}
    found = []
    for name, text in wanted.items():
        try:
            said = ground.run([f"{environment}/bin/{name}"])
        except OSError as error:
            found.append(f"{name}: {error}")
        else:
            if said.stdout.strip() != text:
                found.append(f"{name}: {said.stdout}{said.stderr}")
    return found


def _difference(said: object, wanted: object) -> str:
    if isinstance(said, dict) and isinstance(wanted, dict):
        return str({key: value for key, value in said.items() if wanted.get(key) != value})
    if isinstance(said, list) and isinstance(wanted, list):
        return f"too many {sorted(set(said) - set(wanted))}, missing {sorted(set(wanted) - set(said))}"
    return f"{said!r}, not {wanted!r}"


def installed(spec: WheelSpec, library: str) -> dict[str, bytes | None]:
    """Return what a wheel installs, by path below the environment; None for what an installer writes itself."""
    site = f"lib/{library}/site-packages"
    found: dict[str, bytes | None] = {}
    for path, content in (spec.files or {}).items():
        found[f"{site}/{path}"] = _bytes(content)
    for path, content in spec.data.items():
        scheme, _, rest = path.partition("/")
        place = {
            "data": "", "scripts": "bin/", "headers": f"include/site/{library}/{spec.name}/", "purelib": f"{site}/",
        }[scheme]  # fmt: skip
        data = _bytes(content)
        found[f"{place}{rest}"] = None if data.startswith(b"#!python") else data
    for scripts in spec.entry_points.values():
        found |= dict.fromkeys(f"bin/{name}" for name in scripts)
    found |= dict.fromkeys(f"{site}/{spec.dist_info}/{name}" for name in ("METADATA", "RECORD", "WHEEL"))
    return found


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def listing(environment: str) -> dict[str, tuple[str, bytes]]:
    """Return what an environment consists of.

    Without what an interpreter compiles, its record, and what uv locks even where it changes nothing; and with a
    word in place of its name, which activation scripts have in them.
    """
    names = environment.encode(), os.path.basename(environment).encode()
    return {
        place: (mode, content.replace(names[0], b"PATH").replace(names[1], b"NAME"))
        for place, (mode, content) in tree(environment).items()
        if "__pycache__" not in place.split("/") and place not in {"vrfstore.json", ".lock"}
    }


__all__ = [
    "LINKED", "MORE", "Factory", "Ground", "Made", "User", "complaints", "expect_success", "external", "installed",
    "listing", "managed", "ordinary", "plain", "requested", "root", "state", "uv",
]  # fmt: skip
