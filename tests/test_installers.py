"""pip and uv, as root and as a user, do in an environment what they are asked, and nothing to the store."""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from support.crash import base, dangling
from support.installers import (
    LINKED,
    MORE,
    Factory,
    Ground,
    Made,
    complaints,
    expect_success,
    external,
    installed,
    listing,
    managed,
    ordinary,
    plain,
    requested,
    root,
    state,
    uv,
)
from support.wheels import WheelSpec
from vrfstore.errors import StoreDamagedError
from vrfstore.model import LinkOptions


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing to ask of an installer.

    Attributes:
        name: What.
        pip: Its commands, after ``pip``; none where pip has no such thing.
        uv: Those of uv, after ``uv pip``.
        gone: What is not installed any more.
        new: What is there instead, or besides.
        lost: Files below site-packages that go though another distribution has them too, as in any venv.
        slow: Whether it adds little to the others.
        by_hand: What is somebody else's afterwards; all that is ``new`` by default.
        through: Whose own directories it puts something into, which are links where they are not materialized.
    """

    name: str
    pip: Sequence[str] = ()
    uv: Sequence[str] = ()
    gone: Sequence[str] = ()
    new: Sequence[str] = ()
    lost: Sequence[str] = ()
    slow: bool = False
    by_hand: Sequence[str] = ()
    through: Sequence[str] = ()

    @property
    def theirs(self) -> list[str]:
        """What linking again takes for somebody else's, by name and version."""
        return sorted(self.by_hand or self.new)


def uninstall(*names: str, lost: Sequence[str] = (), name: str = "", slow: bool = False) -> Row:
    asked = " ".join(names)
    return Row(
        name=f"uninstall {name or asked}",
        pip=[f"uninstall -y {asked}"], uv=[f"uninstall {asked}"],
        gone=names, lost=lost, slow=slow,
    )  # fmt: skip


def upgrade(*names: str, name: str = "", slow: bool = False) -> Row:
    asked = " ".join(names)
    return Row(
        name=f"upgrade {name or asked}",
        pip=[f"install -U --no-deps {asked} MORE"], uv=[f"install -U --no-deps {asked} MORE"],
        gone=names, new=[f"{name} 2.0" for name in names], slow=slow,
    )  # fmt: skip


def over(*names: str, name: str = "", slow: bool = False) -> Row:
    asked = " ".join(f"{name}==1.0" for name in names)
    return Row(
        name=f"install over {name or ' '.join(names)}",
        pip=[f"install --force-reinstall --no-deps {asked} LINKED"],
        uv=[f"install --reinstall --no-deps {asked} LINKED"],
        by_hand=[f"{name} 1.0" for name in names], slow=slow,
    )  # fmt: skip


def install(*names: str, through: Sequence[str] = (), slow: bool = False) -> Row:
    asked = " ".join(names)
    return Row(
        name=f"install {asked}",
        pip=[f"install {asked} MORE"], uv=[f"install {asked} MORE"],
        new=[f"{name} 1.0" for name in names], through=through, slow=slow,
    )  # fmt: skip


UPGRADABLE = [spec.name for spec in MORE.values() if spec.version == "2.0"]
SYNCED = ["regular==1.0", "tooling==2.0", "orchard-plum==1.0", "fresh==1.0", "common-one==1.0"]

ROWS = [
    # Removing.
    uninstall("regular"),
    uninstall("regular", "single", "native", "vine-red", "host", name="several"),
    uninstall("orchard-fig"),
    uninstall("orchard-fig", "orchard-plum", slow=True),
    uninstall("grove-ash", lost=["grove/__init__.py"]),
    uninstall("tooling-extra"),
    uninstall("tooling"),
    uninstall("pathy", slow=True),
    uninstall("common-one", lost=["common/__init__.py"]),
    uninstall("equal-left", lost=["equal/__init__.py", "equal.txt"]),
    uninstall(*LINKED, name="everything"),
    # Another version in its place.
    upgrade("regular"),
    upgrade("orchard-plum"),
    upgrade("grove-oak"),
    upgrade("tooling"),
    upgrade("headed"),
    upgrade("vine-red", "host", "single", "pathy", "native", name="several"),
    upgrade("common-two", slow=True),
    upgrade(*UPGRADABLE, name="everything", slow=True),
    # The same version in its place.
    over("regular"),
    over("tooling", "tooling-extra"),
    over("common-one", "grove-ash", "orchard-fig", "equal-left", name="of what is shared"),
    over(*LINKED, name="everything", slow=True),
    Row(
        name="uninstall and install again",
        pip=["uninstall -y regular vine-red", "install regular==1.0 vine-red==1.0 LINKED"],
        uv=["uninstall regular vine-red", "install regular==1.0 vine-red==1.0 LINKED"],
        by_hand=["regular 1.0", "vine-red 1.0"], slow=True,
    ),
    # Something new.
    install("fresh"),
    install("orchard-nut", "grove-elm", "common-three", "tooling-lab"),
    install("vine-white"),
    install("comply-too"),
    install("scoped-too"),
    # What only one of them has.
    Row(
        name="sync",
        uv=["sync SYNCED LINKED MORE"],
        gone=list(LINKED), lost=["common/__init__.py"],
        new=[asked.replace("==", " ") for asked in SYNCED],
        by_hand=["fresh 1.0", "tooling 2.0"],
    ),
    Row(name="exact", uv=["install --exact host==1.0 LINKED"], gone=[n for n in LINKED if n != "host"]),
    Row(
        name="upgrade by links",
        uv=["install -U --no-deps --link-mode=symlink regular orchard-plum tooling MORE"],
        gone=["regular", "orchard-plum", "tooling"],
        new=["regular 2.0", "orchard-plum 2.0", "tooling 2.0"],
        slow=True,
    ),
]  # fmt: skip

IGNORED = "ignore what is installed"
"""The row in which pip does not look at what it replaces."""

THROUGH = [
    install("host-plugin", through=["host"]),
    install("half-new", through=["host"], slow=True),
    install("comply-data", through=["comply"]),
    install("tooling-data", through=["tooling"], slow=True),
    # Without removing what is there first.
    Row(
        name=IGNORED,
        pip=["install -I --no-deps regular==1.0 tooling==1.0 LINKED"],
        by_hand=["regular 1.0", "tooling 1.0"],
        through=["regular", "tooling"],
    ),
]  # fmt: skip
"""What would have to put something into the own directory of another distribution, which is a link into the store.

A known gap (docs/design.md, "Threat model"): an ordinary user is refused, for root it is damage.
"""

TOOLS = {"pip": "the base's, started in the environment", "outside": "our own, from outside", "uv": "uv"}

FACTORIES: dict[str, Factory] = {"managed": managed, "external": external, "plain": plain}
"""What to work on. A plain venv is there to show that what is expected is what venvs do."""

FEW = (
    "uninstall several",
    "uninstall grove-ash",
    "uninstall tooling",
    "upgrade tooling",
    "upgrade several",
    "install over of what is shared",
    "install orchard-nut grove-elm common-three tooling-lab",
    "install vine-white",
    "install scoped-too",
)

TESTED = {
    ("managed", "user", "uv"): [row.name for row in ROWS],
    ("managed", "user", "pip"): FEW,
    ("managed", "root", "uv"): FEW,
    ("managed", "root", "pip"): ["uninstall several", "uninstall tooling", "upgrade tooling"],
    ("external", "user", "uv"): [*FEW, "uninstall everything", "install over regular", "sync", "exact"],
    ("external", "user", "pip"): ["uninstall tooling", "upgrade several"],
    # With pip, each takes the better part of a second.
    ("managed", "through", "pip"): ["install host-plugin", IGNORED],
    ("managed", "through", "uv"): [row.name for row in THROUGH],
    ("external", "through", "pip"): [IGNORED],
    ("external", "through", "uv"): ["install host-plugin"],
}
"""By factory, user and tool: the rows that are tried also where time is short; ``through`` a link, by anybody."""


def cases(
    rows: Sequence[Row],
    *users: str,
    factories: Iterable[str] = ("managed", "external"),
    through: bool = False,
    slow_for: str = "",
) -> Iterator[object]:
    """Yield what and how and by whom: factory, user, tool and row."""
    for factory, user, tool, row in itertools.product(factories, users, TOOLS, rows):
        if not (row.uv if tool == "uv" else row.pip):
            continue
        tested = TESTED.get((factory, "through" if through else user, tool), ())
        slow = row.slow or user == slow_for or row.name not in tested
        yield pytest.param(
            factory, user, tool, row,
            id=f"{factory}-{user}-{tool}-{row.name}",
            marks=[pytest.mark.exhaustive] if slow else [],
        )  # fmt: skip


Grounds = Callable[[str, str], Ground]


@pytest.fixture(scope="module")
def grounds() -> Iterator[Grounds]:
    """By name and user, where they work; pytest's own directories are closed to others."""
    made: dict[tuple[str, str], Ground] = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)

        def ground(name: str, who: str) -> Ground:
            user = root() if who == "root" else ordinary()
            if user is None:
                pytest.skip(f"nobody here can be {who}")
            if (name, who) not in made:
                path = Path(folder) / f"{name}-{who}"
                path.mkdir()
                made[name, who] = Ground(path, user)
            return made[name, who]

        yield ground


Listing = dict[str, tuple[str, bytes]]


@pytest.fixture(scope="module")
def sound() -> dict[tuple[str, str], Listing]:
    """By factory and user: what an environment is at first, once it has been found to be as it should."""
    return {}


def ask(ground: Ground, made: Made, tool: str, command: str, *, code: int | None = 0) -> str:
    """Let an installer do something in an environment; return what it said."""
    words = command.split()
    sources = [word for word in words if word in {"LINKED", "MORE"}]
    synced = ground.folder / "home/synced.txt"
    synced.write_text("".join(f"{line}\n" for line in SYNCED))
    words = [str(synced) if word == "SYNCED" else word for word in words if word not in sources]
    if sources:
        words.append("--no-index")
        for source in sources:
            words += ["--find-links", str(ground.folder / source.lower())]
    if tool == "uv":
        if not uv():
            pytest.skip("uv is not installed")
        words = [uv(), "pip", *words, "--python", made.python]
    elif tool == "outside":
        words = [sys.executable, "-m", "pip", "--python", made.python, *words]
    else:
        words = [made.python, "-m", "pip", *words]
    ended = ground.run(words)
    if code is None:
        return ended.stdout + ended.stderr
    return expect_success(ended)


def after(row: Row) -> list[WheelSpec]:
    """Return what is installed after a row."""
    left = [spec for name, spec in LINKED.items() if name not in row.gone]
    return left + [spec_of(name) for name in row.new]


def spec_of(name_and_version: str) -> WheelSpec:
    return MORE.get(name_and_version) or LINKED[name_and_version.removesuffix(" 1.0")]


def perform(ground: Ground, made: Made, tool: str, row: Row) -> None:
    """Let an installer do what a row asks for."""
    for command in row.uv if tool == "uv" else row.pip:
        ask(ground, made, tool, command)


def done(ground: Ground, made: Made, tool: str, row: Row) -> list[str]:
    """Let an installer do what a row asks for; return what is not as it should be in the environment then."""
    problems = []
    try:
        perform(ground, made, tool, row)
    except AssertionError as error:
        problems.append(str(error))
    return problems + complaints(ground, made.path, after(row), row.lost)


def linked_again(ground: Ground, made: Made, before: Listing, row: Row) -> list[str]:
    """Ask for the same environment once more; return what is not as it should be there.

    One in the store is a new one. One of the user's own has again what was taken away, but for distributions that
    somebody else has put there: those stay as they are.
    """
    again = listing(made.again())
    if not made.kept or not row.theirs:
        return [f"linked again: {path}" for path in different(before, again)]
    expected = LINKED | {spec.name: spec for spec in map(spec_of, row.theirs)}
    problems = complaints(ground, made.path, expected.values(), ())
    if made.by_hand != row.theirs:
        problems.append(f"by hand: {made.by_hand}, not {row.theirs}")
    problems += [f"linked once more: {path}" for path in different(again, listing(made.again()))]
    return [f"linked again: {problem}" for problem in problems]


def different(one: Listing, other: Listing) -> list[str]:
    return [path for path in sorted(one.keys() | other.keys()) if one.get(path) != other.get(path)]


@pytest.mark.parametrize(
    ("factory", "user", "tool", "row"),
    [
        *cases(ROWS, "root", "user", factories=FACTORIES),
        *cases(THROUGH, "root", "user", factories=["plain"]),
    ],
)
def test_it_does_what_it_is_asked_and_nothing_to_the_store(
    grounds: Grounds, sound: dict[tuple[str, str], Listing], factory: str, user: str, tool: str, row: Row
) -> None:
    ground = grounds(factory, user)
    made = FACTORIES[factory](ground)
    before = listing(made.path)
    if (factory, user) not in sound:
        assert complaints(ground, made.path, LINKED.values(), lost=()) == []
        sound[factory, user] = before
    assert before == sound[factory, user]
    problems = done(ground, made, tool, row)
    again = linked_again(ground, made, before, row)
    spoiled = ground.spoiled(besides=bool(again))
    problems += [*again, *(f"in the store: {path}" for path in spoiled)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(("factory", "user", "tool", "row"), [*cases(THROUGH, "user", through=True)])
def test_a_user_is_refused_what_would_go_through_a_link(
    grounds: Grounds, factory: str, user: str, tool: str, row: Row
) -> None:
    ground = grounds(factory, user)
    made = FACTORIES[factory](ground)
    before = listing(made.path)
    with pytest.raises(AssertionError, match=r"[Pp]ermission denied"):
        perform(ground, made, tool, row)
    assert ground.spoiled() == []
    again = listing(made.again())
    # What of it has come into directories that are nobody's own stays, as after any installation that fails.
    assert {path: again.get(path) for path in before} == before
    assert made.kept or again == before
    assert ground.spoiled() == []


@pytest.mark.parametrize(("factory", "user", "tool", "row"), [*cases(THROUGH, "root", through=True)])
def test_what_root_does_through_a_link_is_damage_that_is_found_and_mended(
    grounds: Grounds, factory: str, user: str, tool: str, row: Row
) -> None:
    ground = grounds(factory, user)
    made = FACTORIES[factory](ground)
    before = listing(made.path)
    assert ground.verify().sound
    try:
        assert done(ground, made, tool, row) == []
        damaged = ground.changed()
        assert damaged
        found = {f"{each.place}/{each.problem.path}" for each in ground.verify().findings}
        assert {path for path in found if path.startswith("entries/")} == set(damaged)
        if row.name == IGNORED:  # names in the linked directories themselves: nobody else gets the entry
            with pytest.raises(StoreDamagedError, match="not as it was published"):
                made.again()
        assert ground.verify(mend=True).sound
        assert ground.changed() == []
        assert ground.verify().findings == ()
        again = listing(made.again())
        if not made.kept:
            assert again == before
        elif row.name == IGNORED:
            # What was written through our links was mended with the store, and is linked whole again; scripts are
            # the user's.
            assert made.by_hand == []
            differing = {path for path in again | before if again.get(path) != before.get(path)}
            assert all(path.startswith("bin/") for path in differing)
        else:
            assert made.by_hand == row.theirs
        assert ground.changed() == []
    finally:
        ground.spoiled(besides=True)


@pytest.mark.parametrize(
    ("factory", "user", "tool", "row"), [*cases(THROUGH, "root", "user", through=True, slow_for="root")]
)
def test_beside_what_is_materialized_there_is_no_link_to_go_through(
    grounds: Grounds, factory: str, user: str, tool: str, row: Row
) -> None:
    options = LinkOptions(materialize=tuple(row.through))
    ground = replace(grounds(factory, user), options=options)
    made = FACTORIES[factory](ground)
    before = listing(made.path)
    problems = done(ground, made, tool, row)
    again = linked_again(ground, made, before, row)
    spoiled = ground.spoiled(besides=bool(again))
    problems += [*again, *(f"in the store: {path}" for path in spoiled)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("user", [pytest.param("root", marks=pytest.mark.exhaustive), "user"])
@pytest.mark.parametrize("tool", ["pip", pytest.param("outside", marks=pytest.mark.exhaustive), "uv"])
@pytest.mark.parametrize("factory", ["managed", pytest.param("external", marks=pytest.mark.exhaustive)])
def test_looking_shows_what_is_there_and_changes_nothing(
    grounds: Grounds, factory: str, tool: str, user: str
) -> None:
    ground = grounds(factory, user)
    made = FACTORIES[factory](ground)
    before = listing(made.path)
    shown = {
        item["name"]: item["version"] for item in json.loads(ask(ground, made, tool, "list --format json"))
    }
    assert {name: shown.get(name) for name in LINKED} == dict.fromkeys(LINKED, "1.0")
    frozen = ask(ground, made, tool, "freeze").splitlines()
    assert {f"{name}==1.0" for name in LINKED} <= set(frozen)
    assert not [line for line in checked(ground, made, tool) if line.startswith(tuple(LINKED))]
    site = f"{made.path}/lib/{base().directory_name}/site-packages"
    names = ["common-one", "orchard-fig", "regular", "tooling"]
    parts = ask(ground, made, tool, f"show -f {' '.join(names)}").split("---\n")
    for name, part in zip(names, parts, strict=True):
        lines = part.splitlines()
        assert f"Name: {name}" in lines
        assert f"Location: {site}" in lines
        files = {line.strip() for line in lines[lines.index("Files:") + 1 :]}
        assert {os.path.relpath(f"{made.path}/{path}", site) for path in placed(LINKED[name])} <= files
        assert not [path for path in files if not os.path.exists(f"{site}/{path}")]
    assert (made.again(), ground.spoiled()) == (made.path, [])
    assert listing(made.path) == before
    assert not made.kept or made.by_hand == []


def placed(spec: WheelSpec) -> set[str]:
    return set(installed(spec, base().directory_name))


def checked(ground: Ground, made: Made, tool: str) -> list[str]:
    """Return what ``check`` says; the base may have complaints of its own."""
    return (ask(ground, made, tool, "check", code=None) + "\n").splitlines()


@pytest.mark.parametrize("tool", ["pip", pytest.param("outside", marks=pytest.mark.exhaustive), "uv"])
def test_a_check_says_what_was_taken_away(grounds: Grounds, tool: str) -> None:
    ground = grounds("managed", "root" if os.geteuid() == 0 else "user")
    made = managed(ground)
    ask(ground, made, tool, "uninstall regular" if tool == "uv" else "uninstall -y regular")
    said = [line for line in checked(ground, made, tool) if "regular" in line]
    assert said
    assert "tooling" in " ".join(said)
    assert ground.spoiled() == []


@pytest.mark.parametrize("user", [pytest.param("root", marks=pytest.mark.exhaustive), "user"])
@pytest.mark.parametrize("tool", ["pip", "uv"])
@pytest.mark.parametrize("factory", ["managed", "external"])
def test_the_only_wheel_of_an_environment_goes_and_comes(
    grounds: Grounds, factory: str, tool: str, user: str
) -> None:
    ground = replace(grounds(factory, user), only="regular")
    made = FACTORIES[factory](ground)
    before = listing(made.path)
    ask(ground, made, tool, "uninstall regular" if tool == "uv" else "uninstall -y regular")
    problems = [f"in the store: {path}" for path in ground.changed()]
    ask(ground, made, tool, "install regular==2.0 MORE")
    problems += complaints(ground, made.path, [MORE["regular 2.0"]], lost=())
    again = listing(made.again())
    if made.kept:
        problems += complaints(ground, made.path, [MORE["regular 2.0"]], lost=())
    problems += [f"in the store: {path}" for path in ground.spoiled()]
    assert not problems, "\n".join(problems)
    assert made.by_hand == ["regular 2.0"] if made.kept else again == before


REQUIREMENTS = """
jupyterlab
jupyterlab-widgets==3.0.10
matplotlib
sphinx
sphinxcontrib-applehelp==1.0.8
opentelemetry-exporter-otlp-proto-common
google-api-core
googleapis-common-protos
google-cloud-core
"""

IMPORTED = [
    "jupyterlab", "jupyterlab_widgets", "notebook_shim", "matplotlib.pyplot", "mpl_toolkits.mplot3d", "numpy", "PIL",
    "sphinxcontrib.applehelp", "sphinxcontrib.jsmath", "sphinxcontrib.qthelp",
    "google.api_core.exceptions", "google.rpc.status_pb2", "google.protobuf", "google.cloud.client",
    "opentelemetry.exporter.otlp.proto.common",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RealRow:
    """One thing to ask with real wheels.

    Attributes:
        command: As of ``uv pip``; pip gets ``-y`` where it removes.
        gone: The distributions that go, or get another version.
        new: Those that come.
        unimportable: What cannot be imported any more.
        imported: What can be imported now, too.
    """

    command: str
    gone: Sequence[str] = ()
    new: Sequence[str] = ()
    unimportable: Sequence[str] = ()
    imported: Sequence[str] = ()


REAL = [
    RealRow(
        command="uninstall matplotlib", gone=["matplotlib"],
        unimportable=["matplotlib.pyplot", "mpl_toolkits.mplot3d"],
    ),
    RealRow(
        command="install -U --no-deps jupyterlab-widgets sphinxcontrib-applehelp",
        gone=["jupyterlab_widgets", "sphinxcontrib-applehelp"],
        new=["jupyterlab_widgets", "sphinxcontrib-applehelp"],
    ),
    RealRow(
        command="uninstall sphinxcontrib-qthelp", gone=["sphinxcontrib-qthelp"],
        unimportable=["sphinxcontrib.qthelp"],
    ),
    RealRow(
        command="uninstall googleapis-common-protos", gone=["googleapis-common-protos"],
        unimportable=["google.rpc.status_pb2", "google.api_core.exceptions", "google.cloud.client"],
    ),
    RealRow(
        command="install --no-deps google-cloud-audit-log", new=["google-cloud-audit-log"],
        imported=["google.cloud.audit.audit_log_pb2"],
    ),
    RealRow(
        command="install --no-deps opentelemetry-exporter-otlp-proto-http",
        new=["opentelemetry-exporter-otlp-proto-http"],
        imported=["opentelemetry.exporter.otlp.proto.http"],
    ),
    RealRow(command="uninstall jupyterlab notebook-shim", gone=["jupyterlab", "notebook_shim"],
            unimportable=["jupyterlab", "notebook_shim"]),
]  # fmt: skip


def real_cases() -> Iterator[object]:
    """Yield factory, user, tool and row; one of them also where time is short."""
    for factory, user, tool, row in itertools.product(
        ("managed", "external"), ("root", "user"), ("pip", "uv"), REAL
    ):
        quick = row is REAL[1] and (factory, user, tool) == ("managed", "user", "uv")
        yield pytest.param(
            factory, user, tool, row,
            id=f"{factory}-{user}-{tool}-{row.command}",
            marks=[] if quick else [pytest.mark.exhaustive],
        )  # fmt: skip


@pytest.mark.network
@pytest.mark.parametrize(("factory", "user", "tool", "row"), [*real_cases()])
def test_it_does_what_it_is_asked_with_real_wheels(
    grounds: Grounds, factory: str, user: str, tool: str, row: RealRow
) -> None:
    ground = grounds("real", user)
    made = requested(ground, REQUIREMENTS, into="venv" if factory == "external" else "")
    before, files = state(ground, made.path, IMPORTED), listing(made.path)
    assert before["missing"] == []
    assert before["modules"] == dict.fromkeys(IMPORTED, "imported")
    problems = []
    try:
        verb, _, rest = row.command.partition(" ")
        ask(ground, made, tool, f"{verb} -y {rest}" if (verb, tool) == ("uninstall", "pip") else row.command)
    except AssertionError as error:
        problems.append(str(error))
    after = state(ground, made.path, [*IMPORTED, *row.imported])
    problems += [f"missing: {path}" for path in after["missing"]]
    broken = sorted(name for name, said in after["modules"].items() if said != "imported")
    problems += [
        f"broken: {name}: {after['modules'][name]}" for name in broken if name not in row.unimportable
    ]
    problems += [f"still there: {name}" for name in row.unimportable if name not in broken]
    problems += exchanged(before, after, row.gone, row.new)
    problems += [f"dangling: {path}" for path in dangling(made.path)]
    again = listing(made.again())
    if made.kept and row.new:
        now = state(ground, made.path, [*IMPORTED, *row.imported])
        problems += [f"linked again: missing: {path}" for path in now["missing"]]
        problems += [
            f"linked again: {name}: {said}" for name, said in now["modules"].items() if said != "imported"
        ]
        problems += exchanged(before, now, row.gone, row.new)
        by_hand = {canonicalize_name(line.partition(" ")[0]) for line in made.by_hand}
        if by_hand != {canonicalize_name(name) for name in row.new}:
            problems.append(f"by hand: {sorted(by_hand)}")
    else:
        problems += [f"linked again: {path}" for path in different(files, again)]
    problems += [f"in the store: {path}" for path in ground.spoiled()]
    assert not problems, "\n".join(problems)


def exchanged(
    before: Mapping[str, Any], after: Mapping[str, Any], gone: Sequence[str], new: Sequence[str]
) -> list[str]:
    """Return what is wrong with which distributions have gone and come, by name."""
    left, came = (
        {
            canonicalize_name(line.partition(" ")[0])
            for line in {*one["distributions"]} - {*other["distributions"]}
        }
        for one, other in ((before, after), (after, before))
    )
    wanted = [{canonicalize_name(name) for name in names} for names in (gone, new)]
    return [] if [left, came] == wanted else [f"gone: {sorted(left)}, new: {sorted(came)}"]
