"""Errors: their codes, their words, and that nothing of them is lost on the way to another process."""

import copy
import inspect
import pickle

import pytest

from vrfstore import errors
from vrfstore.errors import CollisionError, RequirementsError, VrfstoreError, WheelError

CODES = {
    "VrfstoreError": 70,
    "UsageError": 2,
    "RequirementsError": 10,
    "ResolutionError": 11,
    "PackageIndexError": 14,
    "BusyError": 15,
    "StoreDamagedError": 17,
    "WheelError": 18,
    "CollisionError": 19,
    "StoreError": 21,
    "InterpreterError": 22,
}
CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, VrfstoreError) and value.__module__ == errors.__name__
]


def test_exit_codes_are_promised_and_differ() -> None:
    promised = {found.__name__: found.exit_code for found in CLASSES}
    assert {name: promised[name] for name in CODES} == CODES
    assert len(set(promised.values())) == len(promised)
    assert 1 not in promised.values()


def test_every_class_is_public_and_has_a_kind_of_its_own() -> None:
    assert {found.__name__ for found in CLASSES} <= set(errors.__all__)
    assert len({found.default_kind for found in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize(
    ("path", "line", "where", "text"),
    [
        (None, None, None, "it broke"),
        ("file.vrf", None, "file.vrf", "file.vrf: it broke"),
        ("file.vrf", 3, "file.vrf:3", "file.vrf:3: it broke"),
        (None, 3, None, "it broke"),
    ],
)
def test_an_error_begins_with_where_it_is(
    path: str | None, line: int | None, where: str | None, text: str
) -> None:
    error = VrfstoreError("it broke", path=path, line=line)
    assert (error.where, str(error), error.message) == (where, text, "it broke")


def test_a_kind_is_the_class_s_unless_one_is_given() -> None:
    assert CollisionError("x").kind == "collision"
    assert CollisionError("x", kind="special").kind == "special"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("found", CLASSES)
def test_an_error_survives_pickling_with_all_its_fields(found: type[VrfstoreError], protocol: int) -> None:
    error = found("it broke", kind="k", path="p", hint="h")
    error.line, error.log = 3, "resolve.log"
    error.add_note("a note")
    back = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own
    assert type(back) is found
    assert vars(back) == vars(error)
    assert (str(back), back.args) == ("p:3: it broke", error.args)


def test_what_only_some_errors_have_survives_too() -> None:
    error = WheelError("it broke", path="a.whl", member="a/b.py")
    assert pickle.loads(pickle.dumps(error)).member == "a/b.py"  # noqa: S301 - our own
    assert copy.copy(error).member == "a/b.py"


def test_an_error_can_be_raised_from_another() -> None:
    with pytest.raises(RequirementsError, match=r"^f\.vrf:1: bad$") as caught:
        raise RequirementsError("bad", path="f.vrf", line=1) from ValueError("cause")
    assert isinstance(caught.value.__cause__, ValueError)
