"""Canonical JSON: what ``json`` says, byte for byte, by whichever way it was made."""

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrfstore import codec

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


@pytest.fixture(params=["accelerated", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways: with the C functions that ``json`` is built on, and without."""
    if request.param == "plain":
        monkeypatch.setattr(codec, "accelerator", None)
    else:
        assert codec.accelerator is not None
    return str(request.param)


def both_ways(function: Callable[[Any], object], value: object) -> list[object]:
    results = [function(value)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "accelerator", None)
        results.append(function(value))
    return results


@given(value=VALUES)
def test_both_ways_write_what_json_writes(value: object) -> None:
    assert both_ways(codec.dumps, value) == [canonical(value)] * 2


@given(value=VALUES)
def test_what_was_written_is_read_back(value: object) -> None:
    assert both_ways(codec.loads, codec.dumps(value)) == [value] * 2


@given(value=VALUES, indent=st.sampled_from([None, 0, 2]), space=st.sampled_from(["", " ", "\r\n", "\n\t"]))
def test_any_json_is_read_as_json_reads_it(value: object, indent: int | None, space: str) -> None:
    text = space + json.dumps(value, indent=indent, ensure_ascii=False) + space
    data = text.encode(errors="surrogatepass")
    try:
        expected = json.loads(data.decode())
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match="utf-8"):
            codec.loads(data)
    else:
        assert both_ways(codec.loads, data) == [expected] * 2


@given(value=st.dictionaries(st.text(), st.integers(), min_size=2), data=st.data())
def test_equal_values_give_equal_bytes(value: dict[str, int], data: st.DataObject) -> None:
    other = dict(data.draw(st.permutations(list(value.items()))))
    assert codec.dumps(value) == codec.dumps(other)
    assert codec.digest_of(value) == codec.digest_of(other)


@given(one=VALUES, other=VALUES)
def test_digests_are_of_the_canonical_bytes(one: object, other: object) -> None:
    assert codec.digest_of(one) == hashlib.sha256(canonical(one)).hexdigest()
    assert (codec.digest_of(one) == codec.digest_of(other)) == (canonical(one) == canonical(other))


@given(data=st.binary())
def test_small_digests_are_those_of_hashlib(data: bytes) -> None:
    assert codec.hexdigest(data) == hashlib.sha256(data).hexdigest()


@given(data=st.binary() | st.text('{}[]":,0123456789truefalsn \n-.e\\').map(str.encode))
def test_bytes_are_refused_exactly_where_json_refuses_them(data: bytes) -> None:
    try:
        expected = [json.loads(data.decode())] * 2
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            both_ways(codec.loads, data)
    else:
        assert repr(both_ways(codec.loads, data)) == repr(expected)


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", {"nested": [1, (2, {3})]}])
def test_what_has_no_form_is_refused(way: str, value: object) -> None:
    with pytest.raises(TypeError):
        codec.dumps(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [math.nan]])
def test_numbers_that_json_has_not_are_refused(way: str, value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        codec.dumps(value)


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{", b'{"a":1', b"[1,]", b"nul", b'"a\n"', b'{"a":1}x', b"1 2", b"\xff", b"'a'"]
)
def test_what_is_no_json_is_refused(way: str, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        codec.loads(data)


def test_a_torn_text_is_no_json_even_if_nobody_has_loaded_json() -> None:
    code = """
import sys
from vrfstore import codec
text = codec.dumps({"a": [1, "\\u00e9", {}], "b": None, "c": 1.5})
for end in range(len(text) - 1):
    for name in ("json", "json.decoder", "json.scanner", "json.encoder"):
        sys.modules.pop(name, None)
    try:
        codec.loads(text[:end])
    except ValueError:
        continue
    print(text[:end])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "")


def test_the_form_is_fixed_for_ever(way: str) -> None:
    value = {"b": [1, True, None, "é\n"], "a": {"z": -1, "y": "\U0001f600"}}
    assert codec.dumps(value) == (b'{"a":{"y":"\\ud83d\\ude00","z":-1},"b":[1,true,null,"\\u00e9\\n"]}\n')
    assert codec.digest_of({}) == "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"


def test_a_checksum_tells_of_any_change() -> None:
    signed = codec.with_checksum({"a": 1, "b": [2]})
    codec.check_checksum(signed)
    for changed in (signed | {"a": 2}, signed | {"c": 3}, {name: signed[name] for name in ("a", "checksum")}):
        with pytest.raises(ValueError, match="checksum"):
            codec.check_checksum(changed)
    with pytest.raises(KeyError):
        codec.check_checksum({"a": 1})


def test_a_text_is_a_text() -> None:
    assert codec.text("") == ""
    with pytest.raises(TypeError, match="5 stands where"):
        codec.text(5)
