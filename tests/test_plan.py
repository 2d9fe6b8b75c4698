"""What an environment consists of: laws over generated wheels, and the cases that the laws were made for."""

import hashlib
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vrfstore.errors import CollisionError
from vrfstore.linker.activation import activation_scripts
from vrfstore.linker.plan import (
    NAMESPACES_PTH,
    SENTINEL,
    USER_SITE_PTH,
    EnvironmentPlan,
    merge,
    plan_environment,
    settled,
)
from vrfstore.model import Digest, EntryPlan, EntryReference, Interpreter, Libraries, LinkOptions
from vrfstore.store.entry_plan import link_target, scheme_trees
from vrfstore.store.layout import entry_directory
from vrfstore.store.manifest import StoredFile
from vrfstore.store.record_file import ready_record

INTERPRETER = Interpreter(
    executable="/opt/python/bin/python3",
    real="/opt/python/bin/python3.11",
    version="3.11.9",
    implementation="cpython",
    cache_tag="cpython-311",
    abi_flags="",
    magic="a70d0d0a",
    platform="linux-x86_64",
    prefix="/opt/python",
    virtual=False,
    site_directories=("/opt/python/lib/python3.11/site-packages",),
    base=(),
)
LINKS = "interpreters/abc"
USUAL = LinkOptions()
NONE = Libraries({})
SITE = "lib/python3.11/site-packages"
PLACES = {
    "site-packages": SITE,
    "data": "",
    "scripts": "bin",
    "headers": "include/site/python3.11",
}
NAMESPACE_INIT = "__path__ = extend_path(__path__, __name__)"


@dataclass(frozen=True)
class Wheel:
    """An entry as ingest would leave it: the contents by path in the entry, and the plan made from them."""

    plan: EntryPlan = field(repr=False)
    contents: Mapping[str, str]
    links: Mapping[str, tuple[str, str]] = field(repr=False)
    """Scheme and path of each ready-made link, by its path in the entry."""
    places: Sequence[tuple[str, str]] = field(repr=False)
    """Paths in an environment, each with the path in the entry of the file that belongs there."""
    record_links: frozenset[str] = field(repr=False)
    """What the ready-made RECORD says is a directory link."""
    namespaces: frozenset[str] = field(repr=False)

    @property
    def name(self) -> str:
        return self.plan.reference.name

    @property
    def root(self) -> str:
        return f"entries/{self.plan.reference.directory}"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def wheel(
    name: str,
    *files: str | tuple[str, str],
    entry_points: Iterable[str] = (),
    namespaces: Iterable[str] = (),
    libraries: Libraries = NONE,
) -> Wheel:
    """A wheel with these ``<scheme>/<path>``, or pairs of it and a content; ``site-packages/`` may be left out."""
    contents: dict[str, str] = {}
    for item in files:
        path, content = (item, f"{name} {item}") if isinstance(item, str) else item
        contents[path if path.split("/")[0] in PLACES else f"site-packages/{path}"] = content
    dist_info = f"{name}-1.0.dist-info"
    for member in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE"):
        contents[f"site-packages/{dist_info}/{member}"] = f"{name} {member}"
    ready = {f"site-packages/{dist_info}/{member}": f"links/{member}" for member in ("RECORD", "INSTALLER")}
    ready |= {f"scripts/{script}": f"links/bin/{script}" for script in entry_points}
    contents |= {source: f"{name} {source}" for source in ready.values()}
    namespaces = frozenset(namespaces)
    contents |= {f"site-packages/{space}/__init__.py": f"{NAMESPACE_INIT} # {name}" for space in namespaces}

    owned = {place: place for place in contents if not place.startswith("links/")} | ready
    paths: dict[str, list[str]] = {}
    for place in owned:
        scheme, _, path = place.partition("/")
        paths.setdefault(scheme, []).append(path)
    trees, links = scheme_trees(paths, dist_info=dist_info, pkgutil_namespaces=namespaces, ready=ready)
    stored = [
        StoredFile(path=path, size=len(content), mode=0o444, sha256=sha256(content))
        for path, content in contents.items()
    ]
    record, record_links = ready_record(stored, trees, ready=ready, record=f"{dist_info}/RECORD")
    digest = Digest(sha256(name))
    plan = EntryPlan(
        reference=EntryReference(
            digest=digest, name=name, version="1.0", directory=entry_directory(digest, name, "1.0")
        ),
        dist_info=dist_info,
        tags=("py3-none-any",),
        requires_python=None,
        unpacked=1,
        trees=trees,
        record_links=record_links,
        record_ready="headers" not in trees,
        libraries=libraries,
    )
    return Wheel(
        plan=plan,
        contents=contents,
        links={f"links/{number}": link for number, link in enumerate(links)},
        places=[(environment_path(place), source) for place, source in owned.items()],
        record_links=frozenset(row.split(",")[0] for row in record.decode().splitlines()[:record_links]),
        namespaces=frozenset(f"{SITE}/{space}" for space in namespaces),
    )


def environment_path(place: str) -> str:
    scheme, _, path = place.partition("/")
    return posixpath.join(PLACES[scheme], path)


def plan_for(
    wheels: Sequence[Wheel],
    interpreter: Interpreter = INTERPRETER,
    asked: list[str] | None = None,
    options: LinkOptions = USUAL,
    real: Sequence[str] = (),
) -> EnvironmentPlan:
    """Plan; ``asked`` collects whose manifests were read."""
    hashes = {
        wheel.name: {path: sha256(content) for path, content in wheel.contents.items()} for wheel in wheels
    }

    def hashes_of(entry: EntryPlan) -> Mapping[str, str]:
        if asked is not None:
            asked.append(entry.reference.name)
        return hashes[entry.reference.name]

    plans = [wheel.plan for wheel in wheels]
    return plan_environment(
        plans,
        interpreter,
        merge(plans, settled(options, [plan.reference.name for plan in plans])),
        place="/store/environments/key",
        interpreter_links=LINKS,
        hashes_of=hashes_of,
        real=real,
    )


def ancestors(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


@dataclass(frozen=True)
class Farm:
    """A plan as a file system would show it, once it is applied."""

    plan: EnvironmentPlan
    wheels: Sequence[Wheel]
    options: LinkOptions = USUAL

    @property
    def composites(self) -> Mapping[str, Sequence[Wheel]]:
        """The members of each composite, in their order, by its path in the store."""
        by_name = {wheel.name: wheel for wheel in self.wheels}
        merged = merge([wheel.plan for wheel in self.wheels], self.options)
        return {
            f"entries/{composite.reference.directory}": [
                by_name[member.reference.name] for member in composite.members
            ]
            for composite in merged.composites
        }

    @property
    def directory_links(self) -> Mapping[str, tuple[Wheel, str]]:
        """For each directory link: whose it is, and the path in the entry where it leads."""
        numbered = {
            f"{wheel.root}/{link}": (wheel, wheel.root, scheme, path)
            for wheel in self.wheels
            for link, (scheme, path) in wheel.links.items()
        }
        for root, members in self.composites.items():
            for number, member in enumerate(members):
                for link, (scheme, path) in member.links.items():
                    if scheme == "site-packages":
                        source = f"{root}/links/{number}/{link.removeprefix('links/')}"
                        numbered[source] = (member, root, scheme, path)
        found = {}
        for source, place in self.plan.links:
            if source in numbered:
                wheel, root, scheme, path = numbered[source]
                target = link_target(posixpath.basename(root), scheme, path)
                absolute = posixpath.normpath(f"environments/key/{posixpath.dirname(place)}/{target}")
                assert absolute.startswith(f"{root}/")
                found[place] = (wheel, absolute.removeprefix(f"{root}/"))
        return found

    @property
    def links_by_wheel(self) -> Mapping[str, frozenset[str]]:
        """The directory links of each wheel, relative to site-packages as RECORD has them."""
        return {
            wheel.name: frozenset(
                posixpath.relpath(place, SITE)
                for place, (owner, _) in self.directory_links.items()
                if owner is wheel
            )
            for wheel in self.wheels
        }

    def read(self, place: str) -> str:
        """What a program reads at a path of the environment."""
        sources = {path: source for source, path in (*self.plan.links, *self.plan.copies)}
        written = {record.path: record.source for record in self.plan.records}
        links = self.directory_links
        if place in sources or place in written:
            root, path = split_source(sources.get(place) or written[place])
            owners = self.composites.get(root) or [wheel for wheel in self.wheels if wheel.root == root]
            return next(owner.contents[path] for owner in reversed(owners) if path in owner.contents)
        link = next(above for above in ancestors(place) if above in links)
        owner, target = links[link]
        return owner.contents[target + place.removeprefix(link)]


def normal(row: str) -> str:
    """A path as RECORD has it, in one form: what is in site-packages may be named by way of the prefix."""
    return posixpath.relpath(posixpath.normpath(f"{SITE}/{row}"), SITE)


def split_source(source: str) -> tuple[str, str]:
    """``entries/<directory>`` and the path in it."""
    part, directory, path = source.split("/", 2)
    return f"{part}/{directory}", path


# --- generated wheels

SITE_FILES = (
    "module.py",
    "thing",
    "thing/__init__.py",
    "pkg/__init__.py",
    "pkg/core.py",
    "pkg/static/style.css",
    "pkg/sub/__init__.py",
    "pkg/sub/deep.py",
    "pkg.libs/libpkg.so.1",
    "space/one/__init__.py",
    "space/one/data/table.csv",
    "space/two/__init__.py",
    "space/inner/three/__init__.py",
    "space/loose.py",
    "docs/index.html",
    "docs/images/logo.png",
    "style/left/__init__.py",
    "style/right.py",
)
OTHER_FILES = (
    "data/share/man/man1/tool.1",
    "data/share/jupyter/kernels/one/kernel.json",
    "data/share/jupyter/kernels/two/kernel.json",
    "data/share/tool/template.html",
    "data/etc/jupyter/config.d/tool.json",
    "data/etc/tool.cfg",
    "data/bin/helper",
    "data/lib/python3.11/site-packages/module.py",
    "data/lib/python3.11/site-packages/pkg/extra.py",
    "data/lib/native/libnative.so",
    "data/notes.txt",
    "scripts/helper",
    "scripts/tool",
    "scripts/kit/part",
)


@st.composite
def wheels(draw: st.DrawFn) -> Wheel:
    """A wheel without a name, for ``environments`` to give one."""
    chosen = draw(st.lists(st.sampled_from(SITE_FILES), unique=True, max_size=7))
    chosen += draw(st.lists(st.sampled_from(OTHER_FILES), unique=True, max_size=3))
    chosen = [path for path in chosen if not any(other.startswith(f"{path}/") for other in chosen)]
    # Mostly the same bytes, so that there are as many good environments as collisions.
    contents = [
        (path, draw(st.sampled_from(["same", "same", "same", "same", "same", "other"]))) for path in chosen
    ]
    headers = draw(st.booleans())
    shipped: dict[str, tuple[str, ...]] = (
        {"pkg.libs": ("libpkg.so.1",)} if "pkg.libs/libpkg.so.1" in chosen else {}
    )
    # Through a composite, and through directories that are real.
    escapes = draw(st.sampled_from([(), (), ("pkg.libs",), ("../../../lib/native",)]))
    if "data/lib/native/libnative.so" in chosen:
        shipped["../../../lib/native"] = ("libnative.so",)
    name = draw(st.sampled_from(["alpha", "beta", "gamma", "delta"]))
    return wheel(
        name,
        *contents,
        *([f"headers/{name}/{name}.h"] if headers else []),
        entry_points=draw(st.sampled_from([(), (), ("tool",)])),
        namespaces=draw(st.sampled_from([(), ("style",)])),
        libraries=Libraries(shipped, (), tuple(escape for escape in escapes if escape not in shipped)),
    )


ENVIRONMENTS = st.lists(wheels(), max_size=4, unique_by=lambda made: made.name)


def brought(found: Sequence[Wheel]) -> list[tuple[Wheel, str, str]]:
    """(wheel, place, content) of every file that is meant to be somewhere."""
    return [(wheel, place, wheel.contents[source]) for wheel in found for place, source in wheel.places]


def contradictions(found: Sequence[Wheel]) -> set[str]:
    """The places for which there is no right answer, by a rule of their own and without any tree."""
    at: dict[str, set[str]] = {}
    for made, place, content in brought(found):
        in_namespace = posixpath.dirname(place) in made.namespaces and place.endswith("/__init__.py")
        at.setdefault(place, set()).add("a namespace" if in_namespace else content)
    return {place for place, seen in at.items() if len(seen) > 1} | {
        above for place in at for above in ancestors(place) if above in at
    }


def outcome(found: Sequence[Wheel], options: LinkOptions = USUAL) -> EnvironmentPlan | CollisionError:
    try:
        return plan_for(found, options=options)
    except CollisionError as error:
        return error


def planned(check: Callable[[Farm], None]) -> Callable[[], None]:
    """Check a law on every environment that can be planned."""

    @given(found=ENVIRONMENTS.filter(lambda found: not contradictions(found)))
    def law(found: list[Wheel]) -> None:
        check(Farm(plan_for(found), found))

    law.__name__ = check.__name__
    law.__doc__ = check.__doc__
    return law


MATERIALIZED = st.sampled_from([("alpha",), ("alpha", "beta"), ("*",)])


# --- laws


@given(data=st.data(), found=ENVIRONMENTS)
def test_the_order_of_the_wheels_does_not_matter(data: st.DataObject, found: list[Wheel]) -> None:
    one, other = outcome(found), outcome(data.draw(st.permutations(found)))
    if isinstance(one, CollisionError):
        assert str(one) == str(other)
    else:
        assert one == other


@given(found=ENVIRONMENTS, names=MATERIALIZED)
def test_what_is_materialized_is_the_same_at_the_same_places_and_real(
    found: list[Wheel], names: tuple[str, ...]
) -> None:
    there = [made.name for made in found]
    wanted = LinkOptions(materialize=names if names == ("*",) else tuple(set(names) & set(there)))
    options = settled(wanted, there)
    result = outcome(found, options)
    assert isinstance(result, CollisionError) == bool(contradictions(found))
    if isinstance(result, CollisionError):
        return
    farm = Farm(result, found, options)
    copies = {path for _, path in result.copies}
    for made, place, content in brought(found):
        seen = farm.read(place)
        assert seen == content or (
            posixpath.dirname(place) in made.namespaces and seen.startswith(NAMESPACE_INIT)
        )
        if made.name in options.materialize and ".dist-info/" not in place:
            assert set(ancestors(place)) <= {"", *result.directories}
            others = {other.name for other, at, _ in brought(found) if at == place} - set(options.materialize)
            generated = dict(made.places)[place].startswith("links/")
            assert place in copies or others or generated


@given(found=ENVIRONMENTS)
def test_with_collisions_allowed_the_last_by_name_wins(found: list[Wheel]) -> None:
    # A wheel that is at odds with itself has no last.
    assume(all(len(dict(made.places)) == len(made.places) for made in found))
    result = outcome(found, LinkOptions(allow_collisions=True))
    if isinstance(result, CollisionError):
        # A file and a directory cannot be at one place, whoever wins.
        assert any(
            above in {at for _, at, _ in brought(found)}
            for _, at, _ in brought(found)
            for above in ancestors(at)
        )
        return
    farm = Farm(result, found)
    for place in {place for _, place, _ in brought(found)}:
        last = max((made for made, at, _ in brought(found) if at == place), key=lambda made: made.name)
        seen = farm.read(place)
        assert seen == last.contents[dict(last.places)[place]] or seen.startswith(NAMESPACE_INIT)


@given(found=ENVIRONMENTS.filter(lambda found: not contradictions(found)), data=st.data())
def test_directories_that_have_to_be_real_are_and_nothing_else_changes(
    found: list[Wheel], data: st.DataObject
) -> None:
    usual = Farm(plan_for(found), found)
    chosen = data.draw(st.lists(st.sampled_from(sorted(usual.directory_links) or ["share"]), unique=True))
    farm = Farm(plan_for(found, real=chosen), found)
    assert set(chosen) <= set(farm.plan.directories)
    for _, place, _ in brought(found):
        assert farm.read(place) == usual.read(place)


@given(found=ENVIRONMENTS)
def test_wheels_collide_exactly_where_they_contradict_each_other(found: list[Wheel]) -> None:
    wrong = contradictions(found)
    result = outcome(found)
    assert isinstance(result, CollisionError) == bool(wrong)
    if isinstance(result, CollisionError):
        assert any(place in result.message for place in wrong)


@planned
def test_every_file_of_every_wheel_is_at_its_place(farm: Farm) -> None:
    for wheel, place, content in brought(farm.wheels):
        seen = farm.read(place)
        assert seen == content or (
            posixpath.dirname(place) in wheel.namespaces and seen.startswith(NAMESPACE_INIT)
        )


@planned
def test_nothing_is_at_two_things_at_once_and_parents_come_first(farm: Farm) -> None:
    plan = farm.plan
    leaves = [path for _, path in (*plan.links, *plan.copies)]
    leaves += [path for path, _ in plan.files] + [record.path for record in plan.records]
    everything = [*plan.directories, *leaves]
    assert len(everything) == len(set(everything))
    made = {""}
    for path in plan.directories:
        assert posixpath.dirname(path) in made
        made.add(path)
    # So no leaf lies below a link, which would write into an entry.
    assert {posixpath.dirname(path) for path in leaves} <= made


@planned
def test_nothing_but_the_wheels_and_the_environment_itself_is_there(farm: Farm) -> None:
    plan = farm.plan
    own = {"bin/python", "bin/python3", "bin/python3.11", "lib64", "pyvenv.cfg", f"{SITE}/{USER_SITE_PTH}"}
    own |= {f"bin/{name}" for name in activation_scripts("/x", None)}
    leaves = {path for _, path in (*plan.links, *plan.copies)}
    leaves |= {path for path, _ in plan.files} | {record.path for record in plan.records}
    assert {
        path for path in leaves - farm.directory_links.keys() if posixpath.basename(path) != SENTINEL
    } <= own | {place for _, place, _ in brought(farm.wheels)}


@planned
def test_a_directory_link_stands_where_one_wheel_alone_has_a_directory(farm: Farm) -> None:
    for link, (owner, target) in farm.directory_links.items():
        below = {
            (wheel.name, place, source)
            for wheel in farm.wheels
            for place, source in wheel.places
            if place.startswith(f"{link}/")
        }
        assert below == {(owner.name, link + path.removeprefix(target), path) for path in owner.contents
                         if path.startswith(f"{target}/")}  # fmt: skip


@planned
def test_no_package_is_folded_in_part(farm: Farm) -> None:
    packages = {
        posixpath.dirname(place)
        for wheel, place, _ in brought(farm.wheels)
        if place.startswith(f"{SITE}/")
        and place.endswith("/__init__.py")
        and posixpath.dirname(place) not in wheel.namespaces
    }
    for link in farm.directory_links:
        assert packages.isdisjoint(ancestors(link))


@planned
def test_dist_info_and_etc_are_real_all_the_way_down(farm: Farm) -> None:
    real = {""} | set(farm.plan.directories)
    for _, place, _ in brought(farm.wheels):
        if ".dist-info/" in place or place.startswith("etc/"):
            assert set(ancestors(place)) <= real


@planned
def test_exactly_the_files_of_etc_are_copies(farm: Farm) -> None:
    places = {place for _, place, _ in brought(farm.wheels)}
    assert {path for _, path in farm.plan.copies} == {path for path in places if path.startswith("etc/")}


@planned
def test_a_sentinel_is_in_every_real_directory_above_a_directory_link(farm: Farm) -> None:
    marked = [
        (source, posixpath.dirname(path))
        for source, path in farm.plan.links
        if posixpath.basename(path) == SENTINEL
    ]
    assert sorted(marked) == [
        (f"{LINKS}/sentinel", directory)
        for directory in sorted(farm.plan.directories)
        if directory not in {"lib", "lib/python3.11", SITE}
        and any(link.startswith(f"{directory}/") for link in farm.directory_links)
    ]


@planned
def test_every_record_names_exactly_the_directory_links_of_its_wheel(farm: Farm) -> None:
    written = {record.path: record for record in farm.plan.records}
    linked = {path: source for source, path in farm.plan.links}
    assert len(written) == len(farm.plan.records)
    for wheel in farm.wheels:
        path = f"{SITE}/{wheel.plan.dist_info}/RECORD"
        links = farm.links_by_wheel[wheel.name]
        usual = links == {normal(row) for row in wheel.record_links} and wheel.plan.record_ready
        assert (path in linked) == usual
        assert (path in written) != usual
        if usual:
            assert linked[path] == f"{wheel.root}/links/RECORD"
        else:
            record = written[path]
            assert (record.source, record.skip) == (f"{wheel.root}/links/RECORD", wheel.plan.record_links)
            assert sorted(normal(row) for row in record.folded) == sorted(links)


@planned
def test_the_environment_has_its_interpreter_and_its_pycache(farm: Farm) -> None:
    linked = {path: source for source, path in farm.plan.links}
    assert linked["lib64"] == f"{LINKS}/lib64"
    for name in ("python", "python3", "python3.11"):
        assert linked[f"bin/{name}"] == f"{LINKS}/{name}"
    assert f"{SITE}/__pycache__" in farm.plan.directories
    assert farm.plan.library == "python3.11"


# --- the cases


def farm_of(*found: Wheel) -> Farm:
    return Farm(plan_for(found), found)


def collision(*found: Wheel) -> CollisionError:
    with pytest.raises(CollisionError) as caught:
        plan_for(found)
    assert (caught.value.kind, caught.value.exit_code) == ("collision", 19)
    assert "--allow-collisions" in str(caught.value.hint)
    return caught.value


def test_no_wheels_make_a_plain_environment() -> None:
    plan = farm_of().plan
    assert plan.directories == ("bin", "include", "lib", "lib/python3.11", SITE, f"{SITE}/__pycache__")
    assert (plan.copies, plan.records) == ((), ())
    assert {path for _, path in plan.links} == {"bin/python", "bin/python3", "bin/python3.11", "lib64"}


def test_a_package_is_one_link() -> None:
    farm = farm_of(wheel("alpha", "pkg/__init__.py", "pkg/sub/__init__.py", "pkg.libs/libpkg.so.1"))
    assert set(farm.directory_links) == {f"{SITE}/pkg", f"{SITE}/pkg.libs"}
    assert farm.plan.records == ()


def test_disjoint_wheels_are_planned_without_their_manifests() -> None:
    asked: list[str] = []
    plan_for(
        [
            wheel("alpha", "pkg/__init__.py", "space/one/__init__.py", "data/share/man/man1/a.1"),
            wheel("beta", "other/__init__.py", "space/two/__init__.py", "scripts/tool"),
        ],
        asked=asked,
    )
    assert asked == []


def test_portions_of_a_namespace_without_init_are_links_in_a_real_directory() -> None:
    farm = farm_of(wheel("alpha", "space/one/__init__.py"), wheel("beta", "space/two/__init__.py"))
    assert f"{SITE}/space" in farm.plan.directories
    assert set(farm.directory_links) == {f"{SITE}/space/one", f"{SITE}/space/two"}
    assert farm.plan.records == ()


def test_a_pkgutil_namespace_takes_one_init_for_all() -> None:
    farm = farm_of(
        wheel("alpha", "style/one/__init__.py", namespaces=["style"]),
        wheel("beta", "style/two/__init__.py", namespaces=["style"]),
    )
    assert set(farm.directory_links) == {f"{SITE}/style/one", f"{SITE}/style/two"}
    assert farm.read(f"{SITE}/style/__init__.py") == f"{NAMESPACE_INIT} # alpha"
    assert farm.plan.records == ()


def test_a_package_that_two_wheels_share_is_real_throughout() -> None:
    farm = farm_of(
        wheel("alpha", ("pkg/__init__.py", "same"), "pkg/sub/__init__.py", "other/__init__.py"),
        wheel("beta", ("pkg/__init__.py", "same"), "pkg/static/style.css"),
    )
    assert set(farm.directory_links) == {f"{SITE}/other"}
    assert {f"{SITE}/pkg", f"{SITE}/pkg/sub", f"{SITE}/pkg/static"} <= set(farm.plan.directories)
    assert {record.path: record.folded for record in farm.plan.records} == {
        f"{SITE}/alpha-1.0.dist-info/RECORD": ("other",),
        f"{SITE}/beta-1.0.dist-info/RECORD": (),
    }


def test_a_package_that_another_wheel_extends_without_init_is_real_throughout() -> None:
    farm = farm_of(
        wheel("alpha", "pkg/__init__.py", "pkg/sub/__init__.py"),
        wheel("beta", "pkg/plugins/beta/__init__.py", "pkg/plugins/table.csv"),
    )
    assert set(farm.directory_links) == set()


def test_a_wheel_that_reaches_site_packages_through_data_leaves_the_others_folded() -> None:
    farm = farm_of(
        wheel("alpha", "data/lib/python3.11/site-packages/extra.py"),
        wheel("beta", "pkg/__init__.py", "pkg/sub/__init__.py"),
    )
    assert set(farm.directory_links) == {f"{SITE}/pkg"}
    assert farm.read(f"{SITE}/extra.py") == "alpha data/lib/python3.11/site-packages/extra.py"


def test_other_wheels_keep_their_ready_record_where_two_share_a_package() -> None:
    farm = farm_of(
        wheel("alpha", ("pkg/__init__.py", "same")),
        wheel("beta", ("pkg/__init__.py", "same")),
        wheel("gamma", "third/__init__.py"),
    )
    linked = {path: source for source, path in farm.plan.links}
    assert linked[f"{SITE}/gamma-1.0.dist-info/RECORD"].endswith("/links/RECORD")
    assert {record.path for record in farm.plan.records} == {
        f"{SITE}/{name}-1.0.dist-info/RECORD" for name in ("alpha", "beta")
    }


def test_headers_lie_below_the_name_of_the_interpreter() -> None:
    free_threaded = replace(INTERPRETER, version="3.13.1", abi_flags="t", cache_tag="cpython-313")
    alpha = wheel("alpha", "headers/alpha/alpha.h", "pkg/__init__.py")
    plan = plan_for([alpha], free_threaded)
    site = "lib/python3.13t/site-packages"
    assert {path for source, path in plan.links if source.startswith(f"{alpha.root}/links/")} >= {
        "include/site/python3.13/alpha",
        f"{site}/pkg",
    }
    assert "include/site/python3.13" in plan.directories
    (record,) = plan.records
    assert record.path == f"{site}/alpha-1.0.dist-info/RECORD"
    assert record.folded == ("../../../include/site/python3.13/alpha", "pkg")
    assert plan.library == "python3.13t"


def test_without_headers_include_is_empty() -> None:
    plan = farm_of(wheel("alpha", "pkg/__init__.py")).plan
    assert [path for path in plan.directories if path.startswith("include/")] == []


def test_scripts_are_links_to_prepared_files() -> None:
    alpha = wheel("alpha", "scripts/plain", entry_points=["tool"])
    linked = {path: source for source, path in farm_of(alpha).plan.links}
    assert linked["bin/tool"] == f"{alpha.root}/links/bin/tool"
    assert linked["bin/plain"] == f"{alpha.root}/scripts/plain"


def test_equal_bytes_are_no_collision() -> None:
    farm = farm_of(wheel("alpha", ("module.py", "same")), wheel("beta", ("module.py", "same")))
    assert farm.read(f"{SITE}/module.py") == "same"


@pytest.mark.parametrize("path", ["module.py", "pkg/core.py", "scripts/tool", "data/notes.txt", "data/etc/a"])
def test_other_bytes_at_one_place_collide(path: str) -> None:
    place = environment_path(path if path.split("/", maxsplit=1)[0] in PLACES else f"site-packages/{path}")
    beside = [("pkg/__init__.py", "same")]
    error = collision(wheel("beta", *beside, (path, "1")), wheel("alpha", *beside, (path, "2")))
    assert error.message == f"alpha 1.0 and beta 1.0 both bring {place}"


@pytest.mark.parametrize("other", ["thing/__init__.py", "thing/data.txt"])
def test_a_file_and_a_directory_of_one_name_collide(other: str) -> None:
    error = collision(wheel("alpha", "thing"), wheel("beta", other))
    assert error.message == f"alpha 1.0 and beta 1.0 both bring {SITE}/thing"


def test_a_namespace_and_a_package_of_one_name_collide() -> None:
    error = collision(wheel("alpha", "style/__init__.py"), wheel("beta", namespaces=["style"]))
    assert error.message == f"alpha 1.0 and beta 1.0 both bring {SITE}/style/__init__.py"


def test_init_files_that_are_no_modules_are_not_taken_for_a_namespace() -> None:
    path = "data/etc/templates/__init__.py"
    error = collision(wheel("alpha", (path, "1")), wheel("beta", (path, "2")))
    assert error.message == "alpha 1.0 and beta 1.0 both bring etc/templates/__init__.py"


def test_five_collisions_of_a_pair_are_shown_and_the_others_counted() -> None:
    names = [f"module{number}.py" for number in range(7)]
    error = collision(wheel("alpha", *names), wheel("beta", *names), wheel("gamma", "module6.py"))
    shown = ", ".join(f"{SITE}/{name}" for name in names[:5])
    assert error.message == (
        f"alpha 1.0 and beta 1.0 both bring {shown} and 2 more; "
        f"alpha 1.0 and gamma 1.0 both bring {SITE}/module6.py"
    )


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("scripts/python", "bin/python"),
        ("scripts/python3", "bin/python3"),
        ("scripts/python3.11", "bin/python3.11"),
        ("data/bin/python", "bin/python"),
        ("data/pyvenv.cfg", "pyvenv.cfg"),
        ("data/vrfstore.json", "vrfstore.json"),
        ("data/lib64/thing.so", "lib64"),
        ("data/lib64", "lib64"),
        ("data/include", "include"),
        ("data/bin", "bin"),
        ("data/lib", "lib"),
        ("space/.vrfstore", f"{SITE}/space/.vrfstore"),
    ],
)
def test_what_the_environment_has_of_itself_is_nobody_elses(path: str, place: str) -> None:
    error = collision(wheel("alpha", path, "space/one/__init__.py"))
    assert error.message == f"alpha 1.0 and the environment itself both bring {place}"


def test_another_interpreter_s_name_is_free() -> None:
    assert farm_of(wheel("alpha", "scripts/python3.12")).read("bin/python3.12") == "alpha scripts/python3.12"


def test_the_configuration_leads_to_the_real_base() -> None:
    assert dict(farm_of().plan.files)["pyvenv.cfg"] == (
        b"home = /opt/python/bin\n"
        b"include-system-site-packages = true\n"
        b"version = 3.11.9\n"
        b"executable = /opt/python/bin/python3.11\n"
    )


VENV = replace(
    INTERPRETER,
    executable="/home/venv/bin/python",
    virtual=True,
    site_directories=("/home/it's/site-packages", "/home/venv/lib64"),
)


def test_the_packages_of_a_venv_as_base_are_added_by_name() -> None:
    files = dict(plan_for([], VENV).files)
    assert b"include-system-site-packages = false\n" in files["pyvenv.cfg"]
    assert b"home = /opt/python/bin\n" in files["pyvenv.cfg"]
    lines = files[f"{SITE}/_vrfstore_base.pth"].decode().splitlines()
    # site.py runs a line of a .pth that begins with "import".
    calls: list[str] = []
    for line in lines:
        statement = line.rpartition("site.addsitedir(")[2].removesuffix(")")
        assert line == f"import os, site; os.path.isdir({statement}) and site.addsitedir({statement})"
        calls.append(eval(statement))  # noqa: S307 - the repr of a string
    assert calls == list(VENV.site_directories)


@pytest.mark.parametrize("name", ["_vrfstore_base.pth", USER_SITE_PTH, NAMESPACES_PTH])
@pytest.mark.parametrize("interpreter", [INTERPRETER, VENV])
def test_the_pths_of_an_environment_are_nobody_elses(name: str, interpreter: Interpreter) -> None:
    with pytest.raises(CollisionError, match="the environment itself both bring"):
        plan_for([wheel("alpha", name)], interpreter)


def test_directories_are_in_the_order_in_which_they_can_be_made() -> None:
    plan = farm_of(wheel("alpha", "data/share/man/man1/a.1", "space/inner/one/__init__.py")).plan
    assert all(not earlier.startswith(f"{later}/") for earlier, later in pairwise(plan.directories))
