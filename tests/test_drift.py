"""From what was recorded and what is seen to problems: the pure part of ``env check``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrfstore.linker.distributions import Distribution
from vrfstore.linker.drift import (
    EMPTY,
    Recorded,
    Registered,
    Seen,
    compare,
    removed,
)
from vrfstore.model import Digest, EntryReference, Interpreter
from vrfstore.needs import Described, unmet

SITE = "lib/python3.11/site-packages"
ENTRY = "0123456789abcdef0123-apple-1.0"
TARGET = f"/store/entries/{ENTRY}/site-packages/apple"
FILE = f"f:644:{'1' * 64}"

BASE = Interpreter(
    executable="/opt/bin/python3",
    real="/opt/bin/python3.11",
    version="3.11.7",
    implementation="cpython",
    cache_tag="cpython-311",
    abi_flags="",
    magic="a70d0d0a",
    platform="linux-x86_64",
    prefix="/opt",
    virtual=False,
    site_directories=(),
    base=(),
)

RECORDED = Recorded(
    expected={
        "bin": "d",
        "bin/python": "l:/opt/bin/python3.11",
        "bin/python3": "l:python",
        "bin/python3.11": "l:python",
        "bin/eat": FILE,
        "lib": "d",
        "lib/python3.11": "d",
        SITE: "d",
        f"{SITE}/apple": f"l:{TARGET}",
        f"{SITE}/apple-1.0.dist-info": "d",
        f"{SITE}/apple-1.0.dist-info/METADATA": FILE,
        f"{SITE}/apple-1.0.dist-info/INSTALLER": FILE,
        "pyvenv.cfg": FILE,
    },
    wheels=(EntryReference(digest=Digest("0" * 64), name="apple", version="1.0", directory=ENTRY),),
    composites=(),
    interpreter=BASE.identity,
    library="python3.11",
    owners={
        "bin/eat": "apple",
        f"{SITE}/apple": "apple",
        f"{SITE}/apple-1.0.dist-info/METADATA": "apple",
        f"{SITE}/apple-1.0.dist-info/INSTALLER": "apple",
    },
)
APPLE = Distribution("apple", "1.0", "apple-1.0.dist-info")
WHOLE = Seen(
    place="/venv",
    found=dict(RECORDED.expected),
    interpreter=BASE,
    home="/opt/bin",
    distributions=[APPLE],
    registered=Registered("/venv"),
)


def kinds(seen: Seen, recorded: Recorded = RECORDED) -> list[tuple[str, str]]:
    return [(each.kind, each.path) for each in compare(recorded, seen)]


def with_found(changes: Mapping[str, str | None], **more: object) -> Seen:
    """Return what is seen after some paths have become something else; what is below nothing is nothing."""
    found = {**WHOLE.found, **changes}
    for path in sorted(found):
        parent = path.rpartition("/")[0]
        if parent and found.get(parent) != "d":
            found[path] = None
    return replace(WHOLE, found=found, **more)  # type: ignore[arg-type]


def test_what_is_as_it_was_linked_has_no_problems() -> None:
    assert compare(RECORDED, WHOLE) == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({f"{SITE}/apple": None}, [("link-missing", f"{SITE}/apple")]),
        ({f"{SITE}/apple": "l:/elsewhere"}, [("link-repointed", f"{SITE}/apple")]),
        ({"bin/eat": None}, [("file-missing", "bin/eat")]),
        ({"bin/eat": f"f:644:{EMPTY}"}, [("file-missing", "bin/eat")]),
        ({"bin/eat": f"f:755:{'2' * 64}"}, [("file-changed", "bin/eat")]),
        ({"bin/eat": "d"}, [("file-changed", "bin/eat")]),
        ({"bin": None}, [("directory-missing", "bin")]),
        ({"bin": "l:/usr/bin"}, [("directory-missing", "bin")]),
        ({"lib": None}, [("directory-missing", "lib")]),
        ({"bin/python": "l:/usr/bin/python3"}, [("link-repointed", "bin/python")]),
    ],
)
def test_each_path_is_named_once_and_rightly(
    changes: dict[str, str | None], expected: list[tuple[str, str]]
) -> None:
    assert kinds(with_found(changes)) == expected


def test_a_link_to_an_entry_that_is_gone_is_said_of_the_entry() -> None:
    seen = replace(WHOLE, nowhere={f"{SITE}/apple"}, gone={ENTRY})
    assert kinds(seen) == [("entry-missing", "")]
    assert kinds(replace(seen, gone=())) == [("link-dangling", f"{SITE}/apple")]


def test_what_is_unfinished_is_said_once() -> None:
    seen = with_found({"bin": None, f"{SITE}/apple": None}, distributions=[])
    assert kinds(seen, replace(RECORDED, finished=False)) == [("unfinished", "")]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": "3.11.9"}, "interpreter-upgraded"),
        ({"version": "3.11.9", "real": "/usr/bin/python3.11"}, "interpreter-upgraded"),
        ({"real": "/usr/bin/python3.11"}, "interpreter-moved"),
        ({"version": "3.12.0", "cache_tag": "cpython-312"}, "interpreter-changed"),
        ({"abi_flags": "t"}, "interpreter-changed"),
        ({"platform": "linux-aarch64"}, "interpreter-changed"),
        ({"virtual": True, "site_directories": ("/base/lib",)}, "interpreter-moved"),
    ],
)
def test_an_interpreter_that_is_another_is_named_by_how_much(
    changes: dict[str, object], expected: str
) -> None:
    seen = replace(WHOLE, interpreter=replace(BASE, **changes))  # type: ignore[arg-type]
    assert kinds(seen) == [(expected, "")]


def test_of_an_interpreter_that_is_gone_its_links_are_not_said_as_well() -> None:
    seen = replace(WHOLE, interpreter=None, trouble="it went", nowhere={"bin/python"})
    assert kinds(seen) == [("interpreter-missing", "")]
    assert "it went" in compare(RECORDED, seen)[0].message


def test_a_configuration_that_leads_elsewhere_is_no_mere_change() -> None:
    changed = {"pyvenv.cfg": f"f:644:{'3' * 64}"}
    assert kinds(with_found(changed)) == [("file-changed", "pyvenv.cfg")]
    assert ("interpreter-moved", "pyvenv.cfg") in kinds(with_found(changed, home="/usr/bin"))


@pytest.mark.parametrize(
    ("registered", "expected"),
    [
        (Registered(""), ["unregistered"]),
        (Registered("/old"), ["moved"]),
        (Registered("/old", copied=True), ["unregistered"]),
        (Registered("/venv", complete=False), ["unregistered"]),
        (None, []),
    ],
)
def test_what_the_store_knows_is_compared(registered: Registered | None, expected: list[str]) -> None:
    assert [kind for kind, _ in kinds(replace(WHOLE, registered=registered))] == expected


def test_one_that_was_moved_has_scripts_to_mend() -> None:
    assert kinds(replace(WHOLE, elsewhere=True)) == [("moved", "")]


def test_what_people_did_is_shown_and_no_drift() -> None:
    added = Distribution("fig", "1.0", "fig-1.0.dist-info")
    seen = replace(WHOLE, distributions=[APPLE, added], by_hand=[added])
    assert [(each.kind, each.drifted) for each in compare(RECORDED, seen)] == [("package-added", False)]
    newer = Distribution("apple", "2.0", "apple-2.0.dist-info")
    gone = {f"{SITE}/apple-1.0.dist-info": None, "bin/eat": None, f"{SITE}/apple": "d"}
    seen = with_found(gone, distributions=[newer], by_hand=[newer])
    assert [(each.kind, each.drifted) for each in compare(RECORDED, seen)] == [("package-changed", False)]


def test_uninstalled_is_what_nothing_is_left_of() -> None:
    uninstalled = {f"{SITE}/apple-1.0.dist-info": None, "bin/eat": None, f"{SITE}/apple": None}
    seen = with_found(uninstalled, distributions=[])
    assert removed(RECORDED, seen) == {"apple"}
    assert [(each.kind, each.drifted) for each in compare(RECORDED, seen)] == [("package-removed", False)]
    damaged = with_found({**uninstalled, "bin/eat": FILE}, distributions=[])
    assert removed(RECORDED, damaged) == frozenset()
    assert {kind for kind, _ in kinds(damaged)} == {"link-missing", "directory-missing"}
    # Whoever removes all of site-packages has uninstalled nothing.
    swept = with_found({SITE: None, "bin/eat": None}, distributions=[])
    assert removed(RECORDED, swept) == frozenset()
    assert kinds(swept) == [("file-missing", "bin/eat"), ("directory-missing", SITE)]


@given(
    st.dictionaries(
        st.sampled_from(sorted(RECORDED.expected)),
        st.sampled_from([None, "d", "l:/elsewhere", f"f:644:{EMPTY}", f"f:600:{'7' * 64}", "?"]),
    )
)
def test_nothing_that_differs_goes_unsaid(changes: dict[str, str | None]) -> None:
    seen = with_found(changes)
    said = compare(RECORDED, seen)
    differs = any(seen.found[path] != what for path, what in RECORDED.expected.items())
    assert bool(said) == differs
    assert len({(each.kind, each.path) for each in said}) == len(said)


VARIABLES = {"python_version": "3.11", "sys_platform": "linux"}


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        (("pear",), ["apple 1.0 requires pear, which is not installed"]),
        (("pear; python_version < '3'",), []),
        (("pear; extra == 'more'",), []),
        (("Fig.Tree>=2",), ["apple 1.0 requires Fig.Tree>=2, and 1.5 is installed"]),
        (("fig-tree<2",), []),
        (("plum>=1",), []),
        (("plum<1",), ["apple 1.0 requires plum<1, and 1.0rc1 is installed"]),
        (("not a requirement at all!",), []),
        (("pear; unknown_variable == '1'",), []),
    ],
)
def test_what_is_required_is_had_or_said(requires: tuple[str, ...], said: list[str]) -> None:
    own = [Described("apple", "1.0", requires), Described("fig-tree", "1.5", ())]
    # A pre-release is installed: it counts, as with pip.
    versions = {"plum": "1.0rc1"}
    if requires == ("plum>=1",):
        versions = {"plum": "1.1rc1"}
    assert list(unmet(own, (), versions, VARIABLES)) == said


def test_of_the_base_only_what_the_environment_brings_to_it_is_said() -> None:
    base = [Described("cake", "1.0", ("apple<2", "flour")), Described("apple", "1.0", ("missing",))]
    versions = {"cake": "1.0", "apple": "1.0"}
    assert unmet([Described("pear", "1.0", ())], base, versions, VARIABLES) == ()
    assert unmet([Described("apple", "2.0", ())], base, versions, VARIABLES) == (
        "cake 1.0 requires apple<2, and 2.0 is installed",
    )


@pytest.mark.parametrize("key", ["home", "include-system-site-packages", "version", "executable"])
def test_what_the_configuration_says_otherwise_is_drift_of_the_frame(key: str) -> None:
    says = {
        "home": "/opt/bin",
        "include-system-site-packages": "true",
        "version": "3.11.7",
        "executable": "/opt/bin/python3.11",
    }
    recorded = replace(RECORDED, configuration=says)
    changed = {"pyvenv.cfg": f"f:644:{'3' * 64}"}
    assert kinds(with_found(changed, configuration=says), recorded) == [("file-changed", "pyvenv.cfg")]
    for other in ({**says, key: "3"}, {name: says[name] for name in says if name != key}):
        assert ("frame-changed", "pyvenv.cfg") in kinds(with_found(changed, configuration=other), recorded)
    # An earlier release of the same is said of the interpreter.
    assert kinds(replace(WHOLE, configuration={}), recorded) == []


@pytest.mark.parametrize("path", ["bin/python", "bin/python3", "bin/python3.11"])
def test_a_file_in_the_place_of_the_interpreter_is_drift(path: str) -> None:
    assert kinds(with_found({path: FILE})) == [("frame-changed", path)]
