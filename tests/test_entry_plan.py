"""What linking will need to know of a wheel, decided from the names of its files."""

import base64
import csv
import hashlib
import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrfstore import codec
from vrfstore.model import Digest, EntryPlan, EntryReference, Tree
from vrfstore.store.entry_plan import (
    SHARED_DATA,
    directory_tree,
    installed_path,
    link_target,
    plan_from_json,
    plan_to_json,
    ready_links,
    scheme_trees,
)
from vrfstore.store.layout import DIGEST_LENGTHS, Layout, entry_directory, environment_directory
from vrfstore.store.manifest import StoredFile
from vrfstore.store.record_file import ready_record, record_bytes

DIST_INFO = "alpha-1.0.dist-info"
Trees = dict[str, Tree]


def trees_of(
    *files: str, namespaces: Iterable[str] = (), ready: Mapping[str, str] | None = None
) -> tuple[Trees, list[tuple[str, str]]]:
    """Decide for ``<scheme>/<path>``."""
    paths: dict[str, list[str]] = {}
    for file in files:
        scheme, _, path = file.partition("/")
        paths.setdefault(scheme, []).append(path)
    return scheme_trees(
        paths, dist_info=DIST_INFO, pkgutil_namespaces=frozenset(namespaces), ready=ready or {}
    )


def site(*files: str, namespaces: Iterable[str] = ()) -> tuple[Tree, list[str]]:
    """The tree of site-packages, and where its links lead by number."""
    trees, links = trees_of(*(f"site-packages/{file}" for file in files), namespaces=namespaces)
    assert all(scheme == "site-packages" for scheme, _ in links)
    return trees["site-packages"], [path for _, path in links]


# --- site-packages


def test_a_regular_package_is_one_link() -> None:
    assert site("pkg/__init__.py", "pkg/core.py", "pkg/sub/__init__.py") == ({"pkg": 0}, ["pkg"])


@pytest.mark.parametrize(
    "initial", ["__init__.py", "__init__.pyc", "__init__.so", "__init__.cpython-311-x86_64-linux-gnu.so"]
)
def test_any_module_makes_a_regular_package(initial: str) -> None:
    assert site(f"pkg/{initial}", "pkg/inner/table.csv") == ({"pkg": 0}, ["pkg"])


@pytest.mark.parametrize("name", ["__init__.pyi", "__init__.txt", "__init__"])
def test_what_is_no_module_makes_no_package(name: str) -> None:
    tree, _ = site(f"space/{name}", "space/one/__init__.py")
    assert tree == {"space": {name: "", "one": 0}}


def test_a_directory_of_packages_without_init_is_a_namespace_and_real() -> None:
    assert site("space/one/__init__.py", "space/two/__init__.py") == (
        {"space": {"one": 0, "two": 1}},
        ["space/one", "space/two"],
    )


def test_a_directory_with_modules_inside_a_namespace_is_a_namespace() -> None:
    assert site("space/inner/one/__init__.py", "space/inner/loose.py") == (
        {"space": {"inner": {"loose.py": "", "one": 0}}},
        ["space/inner/one"],
    )


def test_a_directory_without_modules_is_listed_while_it_is_small() -> None:
    names = [f"docs/page{number:02}.html" for number in range(64)]
    listed: Tree = {"": 0, **dict.fromkeys((name.removeprefix("docs/") for name in names), "")}
    assert site(*names) == ({"docs": listed}, ["docs"])
    assert site(*names, "docs/one-more.html") == ({"docs": 0}, ["docs"])


def test_a_directory_without_modules_below_another_is_one_link() -> None:
    tree, links = site("docs/index.html", "docs/images/logo.png")
    assert tree == {"docs": {"": 0, "index.html": "", "images": 1}}
    assert links == ["docs", "docs/images"]


@pytest.mark.parametrize("name", ["pkg.libs", "two words", "1st", "a-b"])
def test_what_cannot_be_imported_by_its_name_is_one_link(name: str) -> None:
    assert site(f"{name}/module.py", f"{name}/libfoo.so.1") == ({name: 0}, [name])


def test_libraries_make_no_namespace() -> None:
    assert site("lib/libfoo.so", "lib/inner/libbar.so.3")[0] == {"lib": {"": 0, "libfoo.so": "", "inner": 1}}


def test_a_pkgutil_namespace_is_real_and_its_packages_are_links() -> None:
    assert site("style/__init__.py", "style/one/__init__.py", namespaces=["style"]) == (
        {"style": {"__init__.py": "", "one": 0}},
        ["style/one"],
    )


def test_a_pkgutil_namespace_inside_another_is_real_too() -> None:
    files = ["a/__init__.py", "a/b/__init__.py", "a/b/c/__init__.py"]
    assert site(*files, namespaces=["a", "a/b"]) == (
        {"a": {"__init__.py": "", "b": {"__init__.py": "", "c": 0}}},
        ["a/b/c"],
    )


def test_dist_info_is_real_throughout_and_takes_what_was_prepared() -> None:
    place = f"site-packages/{DIST_INFO}"
    trees, links = trees_of(
        f"{place}/METADATA",
        f"{place}/RECORD",
        f"{place}/licenses/vendored/LICENSE",
        ready={f"{place}/RECORD": "links/RECORD"},
    )
    assert trees["site-packages"] == {
        DIST_INFO: {"METADATA": "", "RECORD": "links/RECORD", "licenses": {"vendored": {"LICENSE": ""}}}
    }
    assert links == []


def test_modules_at_the_top_are_files() -> None:
    assert site("one.py", "paths.pth", "two.abi3.so") == (
        {"one.py": "", "paths.pth": "", "two.abi3.so": ""}, []
    )  # fmt: skip


# --- the other schemes


def test_shared_directories_of_data_are_real_and_others_are_links() -> None:
    trees, links = trees_of(
        "data/share/man/man1/tool.1",
        "data/share/jupyter/kernels/one/kernel.json",
        "data/share/tool/inner/template",
        *(f"data/share/large/{number}" for number in range(9)),
        "data/etc/jupyter/config.d/tool.json",
        "data/notes.txt",
        "data/var/state",
    )
    numbers = {path: number for number, (_, path) in enumerate(links)}
    assert set(numbers) == {
        "share/jupyter/kernels/one",
        "share/large",
        "share/tool",
        "share/tool/inner",
        "var",
    }
    assert trees["data"] == {
        "notes.txt": "",
        "etc": {"jupyter": {"config.d": {"tool.json": ""}}},
        "share": {
            "jupyter": {"kernels": {"one": {"": numbers["share/jupyter/kernels/one"], "kernel.json": ""}}},
            "large": numbers["share/large"],
            "man": {"man1": {"tool.1": ""}},
            "tool": {"": numbers["share/tool"], "inner": {"": numbers["share/tool/inner"], "template": ""}},
        },
        "var": {"": numbers["var"], "state": ""},
    }


def test_a_scope_of_lab_extensions_is_shared_and_a_theme_is_served_as_a_whole() -> None:
    trees, links = trees_of(
        "data/share/jupyter/labextensions/@scope/one/package.json",
        "data/share/jupyter/lab/themes/@jupyterlab/light/index.css",
    )
    assert {path for _, path in links} >= {
        "share/jupyter/labextensions/@scope/one",
        "share/jupyter/lab/themes",
    }
    data: Any = trees["data"]
    jupyter = data["share"]["jupyter"]
    assert "" not in jupyter["labextensions"]["@scope"]
    assert "" in jupyter["lab"]["themes"]


def test_whatever_lies_above_a_shared_directory_is_shared() -> None:
    assert {posixpath.dirname(path) for path in SHARED_DATA} <= SHARED_DATA | {""}


def test_scripts_are_files_and_take_what_was_prepared() -> None:
    trees, links = trees_of("scripts/tool", "scripts/kit/part", ready={"scripts/tool": "links/bin/tool"})
    assert trees["scripts"] == {"tool": "links/bin/tool", "kit": 0}
    assert links == [("scripts", "kit")]


def test_headers_are_a_link_for_each_distribution() -> None:
    trees, links = trees_of("headers/alpha/alpha.h", "headers/alpha/inner/more.h")
    assert (trees["headers"], links) == ({"alpha": 0}, [("headers", "alpha")])


def test_a_scheme_without_files_has_no_tree() -> None:
    assert trees_of("site-packages/one.py") == ({"site-packages": {"one.py": ""}}, [])


# --- laws

NAMES = st.sampled_from(["a", "b.py", "__init__.py", "c.libs", "share", "etc", "man", "d.txt", "x.so", "é"])
FILES = st.lists(
    st.tuples(
        st.sampled_from(["site-packages", "data", "scripts", "headers/alpha"]),
        st.lists(NAMES, min_size=1, max_size=4),
    ).map(lambda parts: "/".join([parts[0], *parts[1]])),
    unique=True,
    max_size=12,
).map(lambda files: [file for file in files if not any(other.startswith(f"{file}/") for other in files)])


def walk(tree: Tree, prefix: str) -> Iterator[tuple[str, str | int]]:
    """Yield every file and every link of a tree with its place."""
    for name, node in tree.items():
        place = f"{prefix}/{name}" if name else prefix
        if isinstance(node, dict):
            yield from walk(node, place)
        else:
            yield place, node


@given(files=FILES, data=st.data())
def test_trees_do_not_depend_on_the_order_of_the_files(files: list[str], data: st.DataObject) -> None:
    assert trees_of(*data.draw(st.permutations(files))) == trees_of(*files)


@given(files=FILES, namespaces=st.sets(st.sampled_from(["a", "a/a", "share"])))
def test_every_file_is_listed_or_behind_a_link_and_every_link_is_used_once(
    files: list[str], namespaces: set[str]
) -> None:
    trees, links = trees_of(*files, namespaces=namespaces)
    found = [item for scheme, tree in trees.items() for item in walk(tree, scheme)]
    listed = {place for place, node in found if isinstance(node, str)}
    linked = {place: node for place, node in found if isinstance(node, int)}
    assert {place: f"{links[number][0]}/{links[number][1]}" for place, number in linked.items()} == {
        place: place for place in linked
    }
    assert sorted(linked.values()) == list(range(len(links)))
    assert listed <= set(files)
    assert all(file in listed or any(file.startswith(f"{link}/") for link in linked) for file in files)
    assert all(any(file.startswith(f"{link}/") for file in files) for link in linked)


@given(files=FILES)
def test_a_directory_is_listed_from_the_manifest_as_it_is(files: list[str]) -> None:
    tree = directory_tree(files, "site-packages/a")
    expected = {file for file in files if file.startswith("site-packages/a/")}
    assert {place for place, node in walk(tree, "site-packages/a") if node == ""} == expected


# --- links


@pytest.mark.parametrize(
    ("scheme", "path", "place"),
    [
        ("site-packages", "pkg", "lib/python3.11/site-packages/pkg"),
        ("site-packages", "space/one", "lib/python3.13t/site-packages/space/one"),
        ("data", "var", "var"),
        ("data", "share/tool", "share/tool"),
        ("scripts", "kit", "bin/kit"),
        ("headers", "alpha", "include/site/python3.11/alpha"),
    ],
)
@pytest.mark.parametrize("environment", ["key", "key.1"])
def test_a_link_leads_from_its_place_in_any_environment_to_the_entry(
    scheme: str, path: str, place: str, environment: str
) -> None:
    target = link_target("0123-alpha-1.0", scheme, path)
    assert not posixpath.isabs(target)
    resolved = posixpath.normpath(f"environments/{environment}/{posixpath.dirname(place)}/{target}")
    assert resolved == f"entries/0123-alpha-1.0/{scheme}/{path}"


def test_links_are_named_by_their_numbers() -> None:
    links = [("site-packages", "pkg"), ("data", "var")]
    assert list(ready_links("0123-alpha-1.0", links)) == [
        ("0", link_target("0123-alpha-1.0", "site-packages", "pkg")),
        ("1", link_target("0123-alpha-1.0", "data", "var")),
    ]


# --- RECORD


def stored(path: str, content: bytes = b"") -> StoredFile:
    return StoredFile(path=path, size=len(content), mode=0o444, sha256=hashlib.sha256(content).hexdigest())


def rows_of(record: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(record.decode(), newline="")))


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("site-packages/pkg/core.py", "pkg/core.py"),
        ("scripts/tool", "../../../bin/tool"),
        ("data/share/tool/x", "../../../share/tool/x"),
        ("headers/alpha/alpha.h", "../../../include/site/pythonX.Y/alpha/alpha.h"),
    ],
)
def test_record_has_places_relative_to_site_packages(place: str, expected: str) -> None:
    assert installed_path(place) == expected


def test_a_record_has_links_then_the_wheel_s_own_files_then_what_was_made() -> None:
    ready = {
        f"site-packages/{DIST_INFO}/RECORD": "links/RECORD",
        f"site-packages/{DIST_INFO}/INSTALLER": "links/INSTALLER",
        "scripts/tool": "links/bin/tool",
    }
    files = [
        stored("site-packages/pkg/__init__.py", b"pkg"),
        stored("site-packages/docs/index.html"),
        stored("site-packages/one.py", b"one"),
        stored(f"site-packages/{DIST_INFO}/RECORD", b"as it came"),
        stored("scripts/tool", b"#!python\n"),
        stored("data/var/inner/state"),
        stored("links/INSTALLER", b"vrfstore\n"),
        stored("links/bin/tool", b"#!/bin/sh\n"),
    ]
    places = {file.path for file in files if not file.path.startswith("links/")} | ready.keys()
    trees, _ = trees_of(*places, ready=ready)
    record, links = ready_record(files, trees, ready=ready, record=f"{DIST_INFO}/RECORD")
    rows = rows_of(record)
    assert links == 3
    assert rows[:links] == [["../../../var", "", ""], ["docs", "", ""], ["pkg", "", ""]]
    assert [row[0] for row in rows[links:]] == [
        "../../../var/inner/state",
        "docs/index.html",
        "one.py",
        "pkg/__init__.py",
        "../../../bin/tool",
        f"{DIST_INFO}/INSTALLER",
        f"{DIST_INFO}/RECORD",
    ]
    assert rows[-1] == [f"{DIST_INFO}/RECORD", "", ""]
    hashes = {path: (hash_, size) for path, hash_, size in rows}
    script = base64.urlsafe_b64encode(hashlib.sha256(b"#!/bin/sh\n").digest()).decode().rstrip("=")
    assert hashes["../../../bin/tool"] == (f"sha256={script}", "10")


def test_a_wheel_without_directories_has_no_links_in_its_record() -> None:
    files = [stored("site-packages/one.py", b"one")]
    trees, _ = trees_of("site-packages/one.py")
    record, links = ready_record(files, trees, ready={}, record=f"{DIST_INFO}/RECORD")
    assert links == 0
    assert [row[0] for row in rows_of(record)] == ["one.py", f"{DIST_INFO}/RECORD"]


@given(
    rows=st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")),
            min_size=3,
            max_size=3,
        )
    )
)
def test_any_path_survives_record(rows: Sequence[Sequence[str]]) -> None:
    assert rows_of(record_bytes(rows)) == [list(row) for row in rows]


# --- plan.json

PLAN = EntryPlan(
    reference=EntryReference(
        digest=Digest("a" * 64), name="alpha", version="1.0", directory="aaaa-alpha-1.0"
    ),
    dist_info=DIST_INFO,
    tags=("cp311-cp311-linux_x86_64", "py3-none-any"),
    requires_python=">=3.9",
    unpacked=123,
    trees={"site-packages": {"pkg": 0, "docs": {"": 1, "index.html": ""}, "tool": "links/bin/tool"}},
    record_links=2,
    record_ready=True,
)


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, requires_python=None, record_ready=False, tags=())])
def test_a_plan_survives_its_file(plan: EntryPlan) -> None:
    assert plan_from_json(codec.loads(codec.dumps(plan_to_json(plan)))) == plan


@pytest.mark.parametrize("schema", [0, 1, "2", None])
def test_a_plan_of_another_schema_is_refused(schema: object) -> None:
    with pytest.raises(ValueError, match="plan of schema"):
        plan_from_json({**plan_to_json(PLAN), "schema": schema})


@pytest.mark.parametrize("field", sorted(plan_to_json(PLAN)))
def test_a_plan_without_a_field_is_refused(field: str) -> None:
    value = json.loads(codec.dumps(plan_to_json(PLAN)))
    del value[field]
    with pytest.raises(KeyError, match=field):
        plan_from_json(value)


# --- names


def test_an_entry_is_called_by_digest_name_and_version() -> None:
    digest = "0123456789abcdef" * 4
    assert entry_directory(digest, "some-library", "1.0") == f"{digest[:20]}-some_library-1.0"
    names = [entry_directory(digest, "a", "1", length=length) for length in DIGEST_LENGTHS]
    assert len(set(names)) == len(DIGEST_LENGTHS)
    assert names[-1].startswith(digest)


@given(
    name=st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True), version=st.text("0123456789.+", min_size=1)
)
def test_an_entry_s_name_is_a_file_name_that_dead_names_do_not_outgrow(name: str, version: str) -> None:
    directory = entry_directory("a" * 64, name, version, length=64)
    assert len(directory) <= 200
    assert "/" not in directory
    assert not directory.startswith(".")


def test_generations_are_numbered_from_the_second() -> None:
    assert [environment_directory("key", generation) for generation in (0, 1, 12)] == [
        "key",
        "key.1",
        "key.12",
    ]


def test_everything_lies_below_the_root() -> None:
    layout = Layout("/store")
    assert layout.of("entries") == "/store/entries"
    assert layout.of("entries", "a") == "/store/entries/a"
    assert layout.marker == "/store/store.json"
    assert layout.condemned == "/store/gc/condemned"
    assert layout.record("key") == "/store/environments/key/vrfstore.json"
