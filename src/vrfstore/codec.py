"""Canonical JSON, and digests over it: equal values give equal bytes, on every machine.

Canonical means: keys sorted, no white space, only ASCII, one value. A file that holds it ends with a newline.

The path of a hit comes through here, and the ``json`` package takes as long to import as a bare Python takes to
start. So this module uses the C functions that ``json`` itself is built on, and ``json`` where they are not
there or where a text is not what they expect; a test holds both to the same results.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:  # What hashlib falls back on, under its name since 3.12; hashlib itself loads OpenSSL, which takes 4 ms.
    from _sha2 import sha256  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from hashlib import sha256

accelerator: Any
try:
    import _json as accelerator
except ImportError:
    accelerator = None

__all__ = ["check_checksum", "digest_of", "dumps", "hexdigest", "loads", "text", "with_checksum"]


class _ScannerSettings:
    """What json.JSONDecoder() tells the scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - as the scanner wants it


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def dumps(value: object) -> bytes:
    """Return ``value`` as canonical JSON.

    Raises:
        TypeError: ``value`` holds something that JSON has no form for.
        ValueError: ``value`` holds NaN or infinity.
    """
    if accelerator is None:
        import json  # noqa: PLC0415

        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    else:
        # markers, default, encoder, indent, key separator, item separator, sort_keys, skipkeys, allow_nan
        quote = accelerator.encode_basestring_ascii
        encoder = accelerator.make_encoder(None, _unknown, quote, None, ":", ",", True, False, False)
        text = "".join(encoder(value, 0))
    return text.encode("ascii") + b"\n"


def loads(data: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: ``data`` is not JSON.
    """
    text = data.decode("utf-8").removesuffix("\n")
    try:
        if accelerator is not None:
            try:
                value, end = accelerator.make_scanner(_ScannerSettings)(text, 0)
            # The second one is what Python 3.11 has for most errors as long as nobody has imported json.decoder.
            except (StopIteration, SystemError):
                end = -1
            if end == len(text):
                return value
        import json  # noqa: PLC0415 - white space around the value, or an error worth a good message

        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def hexdigest(data: bytes) -> str:
    """Return the SHA-256 of some bytes, 64 hexadecimal digits; for small data only, OpenSSL is faster on large."""
    return str(sha256(data).hexdigest())


def digest_of(value: object) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of the canonical JSON of ``value``."""
    return hexdigest(dumps(value))


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """Return an object with a checksum of itself, so that any change of it can be found."""
    return {**value, "checksum": digest_of(value)}


def check_checksum(value: Any) -> None:
    """Compare an object with the checksum that ``with_checksum`` gave it.

    Raises:
        ValueError: It is not what was written.
        KeyError, TypeError: It has no checksum.
    """
    if value["checksum"] != digest_of({name: value[name] for name in value if name != "checksum"}):
        raise ValueError("its checksum is another one")


def text(value: object) -> str:
    """Return a value that has to be a text.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r} stands where a text should")
    return value
