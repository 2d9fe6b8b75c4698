"""Classes of values are as the standard library would have made them."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import vrfstore
from vrfstore import values

KINDS: dict[str, Callable[..., Any]] = {"standard": dataclasses.dataclass, "ours": values.dataclass}
FIELDS: dict[str, Callable[..., Any]] = {"standard": dataclasses.field, "ours": values.field}


def made(kind: str, *, frozen: bool = True, kw_only: bool = False) -> Any:
    """Return a class with fields of every sort."""
    field = FIELDS[kind]

    class Thing:
        """What it is."""

        name: str
        size: int = 3
        parts: list[str] = field(default_factory=list)
        hidden: str = field(default="s", repr=False, compare=False)
        total: int = field(init=False, repr=False, compare=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "total", self.size + len(self.parts))

        @property
        def loud(self) -> str:
            return self.name.upper()

    return KINDS[kind](frozen=frozen, kw_only=kw_only, slots=True)(Thing)


@values.dataclass(frozen=True, slots=True)
class Point:
    """At the top, so that it can be pickled."""

    x: int
    y: tuple[Point, ...] = ()


@values.dataclass(slots=True)
class Nothing:
    """Without fields."""


def both(tell: Callable[[Any], object], **options: bool) -> tuple[object, object]:
    answers = []
    for kind in KINDS:
        try:
            answers.append(tell(made(kind, **options)))
        except Exception as error:  # noqa: BLE001 - compared
            answers.append((type(error), str(error)))
    return answers[0], answers[1]


TELLING: dict[str, Callable[[Any], object]] = {
    "repr": lambda cls: repr(cls("a", parts=["b"])).replace("made.<locals>.", ""),
    "defaults": lambda cls: (cls("a").size, cls("a").parts, cls("a").hidden, cls("a").total),
    "own factories": lambda cls: cls("a").parts is cls("b").parts,
    "positional": lambda cls: (cls("a", 1, ["x"]).total, cls("a", 1, ["x"]).loud),
    "missing": lambda cls: cls(),
    "unknown": lambda cls: cls(name="a", colour="red"),
    "equal": lambda cls: (cls("a") == cls("a"), cls("a") == cls("a", hidden="t"), cls("a") == cls("b")),
    "other": lambda cls: cls("a") == ("a", 3, [], "s"),
    "unhashable": lambda cls: hash(cls("a")),
    "hash": lambda cls: hash(cls("a", parts=())) == hash(cls("a", parts=(), hidden="t")),
    "assignment": lambda cls: setattr(cls("a"), "name", "b"),
    "deletion": lambda cls: delattr(cls("a"), "name"),
    "no room": lambda cls: hasattr(cls("a"), "__dict__"),
    "match": lambda cls: cls.__match_args__,
    "documentation": lambda cls: (cls.__doc__, cls.__name__, cls.__module__, cls.__qualname__),
    "signature": lambda cls: (cls("a").size, [(each.name, each.kind) for each in parameters(cls)]),
    "copy": lambda cls: (copy.deepcopy(cls("a", parts=["x"])).parts, copy.copy(cls("a")) == cls("a")),
}


def parameters(cls: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(cls.__init__).parameters.values())


@pytest.mark.parametrize("kw_only", [False, True], ids=["positional", "keyword"])
@pytest.mark.parametrize("frozen", [False, True], ids=["changing", "frozen"])
@pytest.mark.parametrize("tell", TELLING.values(), ids=TELLING)
def test_a_class_is_as_the_standard_library_makes_it(
    tell: Callable[[Any], object], frozen: bool, kw_only: bool
) -> None:
    standard, ours = both(tell, frozen=frozen, kw_only=kw_only)
    assert ours == standard


def test_values_are_replaced_and_told_as_the_standard_library_does() -> None:
    point = Point(1, (Point(2), Point(3)))
    assert values.replace(point, x=5) == Point(5, point.y)
    assert values.asdict(point) == {"x": 1, "y": ({"x": 2, "y": ()}, {"x": 3, "y": ()})}
    assert [each.name for each in values.fields(point)] == ["x", "y"]
    assert pickle.loads(pickle.dumps(point)) == point  # noqa: S301 - our own
    assert {point: 1}[Point(1, (Point(2), Point(3)))] == 1
    assert Nothing() == Nothing()
    assert dataclasses.replace(point, x=5) == values.replace(point, x=5)
    assert dataclasses.asdict(point) == values.asdict(point)
    assert dataclasses.is_dataclass(Nothing)
    with pytest.raises(TypeError, match="colour"):
        values.replace(point, colour="red")  # type: ignore[call-arg]


def test_a_value_that_comes_from_another_process_needs_no_first_one_here() -> None:
    code = "import pickle, sys, test_values; print(pickle.load(sys.stdin.buffer))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        input=pickle.dumps(Point(1)),
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"Point(x=1, y=())\n"


def test_two_threads_that_make_the_first_instance_together_each_have_one() -> None:
    @values.dataclass(frozen=True, slots=True)
    class First:
        size: int

    # What a thread has looked up already when another one makes the first instance.
    begun = First.__init__
    First(1)
    late = object.__new__(First)
    begun(late, 2)
    assert late == First(2)


def test_a_copy_with_changes_is_made_by_copy_too() -> None:
    changed: Any = Point(1)
    assert changed.__replace__(x=5) == Point(5)
    if sys.version_info >= (3, 13):
        assert copy.replace(changed, x=5) == Point(5)


def test_what_is_not_understood_is_refused() -> None:
    with pytest.raises(TypeError, match="slots"):
        values.dataclass(slots=False)

    def inherit() -> None:
        @values.dataclass(slots=True)
        class Inherits(Nothing):
            more: int

    def share() -> None:
        @values.dataclass(slots=True)
        class Shares:
            more: list[int] = []  # noqa: RUF012

    with pytest.raises(TypeError, match="inherits"):
        inherit()
    with pytest.raises(TypeError, match="all instances"):
        share()


def classes() -> Iterator[type]:
    """Yield every class of values that vrfstore has."""
    for found in pkgutil.walk_packages(vrfstore.__path__, "vrfstore."):
        if found.name.endswith("__main__"):
            continue
        for each in vars(importlib.import_module(found.name)).values():
            if isinstance(each, type) and "__value_fields__" in vars(each) and each.__module__ == found.name:
                yield each


def test_every_class_of_ours_takes_what_the_standard_library_would_let_it_take() -> None:
    found = set(classes())
    assert len(found) > 150
    for each in found:
        given = [(one.name, object, one) for one in dataclasses.fields(each)]
        standard = dataclasses.make_dataclass(each.__name__, given)
        written = values._written_init(each)  # type: ignore[attr-defined]
        assert [(one.name, one.kind, one.default is one.empty) for one in parameters(standard)] == [
            (one.name, one.kind, one.default is one.empty)
            for one in inspect.signature(written).parameters.values()
        ], each
