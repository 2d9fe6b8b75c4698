"""What distributions require of each other."""

from __future__ import annotations

import pytest

from vrfstore.needs import Described, described, needs

VARIABLES = {"python_version": "3.12", "sys_platform": "linux"}

METADATA = (
    b"Metadata-Version: 2.1\r\nName: Orchard.Kit\r\nversion:  2.5 \r\n"
    b"Requires-Dist: apple (>=1,\r\n  <2)\r\nRequires-Dist : pear; python_version < '3'\r\n"
    b"Requires-Dist: Fig_Tree[dried] ; extra == 'sweet'\r\nRequires-Dist: ???\r\n"
    b"Requires-Dist: plum; nonsense == '1'\r\n"
    b"\r\nRequires-Dist: body\r\n"
)


def test_metadata_is_read_up_to_its_first_empty_line() -> None:
    found = described(METADATA, "orchard-kit")
    assert (found.name, found.version) == ("orchard-kit", "2.5")
    assert [each.partition(" ")[0] for each in found.requires] == [
        "apple",
        "pear;",
        "Fig_Tree[dried]",
        "???",
        "plum;",
    ]
    assert described(b"Name: x\n\n", "x", "7").version == "7"


@pytest.mark.parametrize(
    ("extras", "wanted"),
    [
        ((), [("apple", ())]),
        (("sweet",), [("apple", ()), ("fig-tree", ("dried",))]),
        (("sour",), [("apple", ())]),
    ],
)
def test_markers_and_extras_decide(
    extras: tuple[str, ...], wanted: list[tuple[str, tuple[str, ...]]]
) -> None:
    found = described(METADATA, "orchard-kit")
    assert [(need.name, need.extras) for need in needs(found, VARIABLES, extras)] == wanted


@pytest.mark.parametrize(
    "text",
    ["fig-tree", " Fig_Tree >=1", "fig.tree[dried]", "fig--tree;python_version>'3'", "fig-tree@https://a/b"],
)
def test_what_is_looked_for_is_found_by_the_name_however_it_is_written(text: str) -> None:
    asking = Described("kit", "1", ("fig", "fig-tree-house", text, "???"))
    everything = [need for need in needs(asking, VARIABLES) if need.name == "fig-tree"]
    assert len(everything) == 1
    found = list(needs(asking, VARIABLES, among={"fig-tree"}))
    assert [(need.written, need.specifier) for need in found] == [
        (need.written, need.specifier) for need in everything
    ]
    assert list(needs(asking, VARIABLES, among=())) == []


@pytest.mark.parametrize(
    ("version", "complaint"),
    [
        (None, "kit 1 requires apple, which is not installed"),
        ("0.9", "kit 1 requires apple>=1, and 0.9 is installed"),
        ("1.0rc1", "kit 1 requires apple>=1, and 1.0rc1 is installed"),
        ("2.0.dev1", None),
        ("of its own kind", "kit 1 requires apple>=1, and of its own kind is installed"),
    ],
)  # fmt: skip
def test_a_complaint_is_what_pip_check_says(version: str | None, complaint: str | None) -> None:
    (need,) = needs(Described("kit", "1", ("apple>=1",)), VARIABLES)
    assert need.complaint(version) == complaint
