"""Whom a server's certificate may be signed by, as one bundle: for programs that take one in place of the system's.

pip trusts the system's authorities, those that come with it, and those that are configured, together. uv trusts either
the system's or those that it is pointed at.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Iterator

from vrfstore import fs
from vrfstore.requirements.pip import own_authorities

__all__ = ["bundle"]

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
"""What is taken of a file, which may have a key in it too."""


def bundle(configured: str) -> bytes:
    """Return all authorities that pip would go by, in PEM (RFC 7468), each once.

    Args:
        configured: A file or directory of certificates.

    Raises:
        OSError: What is configured cannot be read.
    """
    texts = [*_usual(), *map(fs.read_file, _files(configured))]
    found = dict.fromkeys(each[0] for text in texts for each in _CERTIFICATE.finditer(text))
    return b"".join(certificate + b"\n" for certificate in found)


def _usual() -> Iterator[bytes]:
    """Yield the system's, which SSL_CERT_FILE and SSL_CERT_DIR replace, and pip's."""
    system = ssl.get_default_verify_paths()
    # What a directory has is mostly in the file as well, some hundred small ones.
    places = [system.cafile or system.capath, own_authorities()]
    for place in filter(None, places):
        with contextlib.suppress(OSError):
            for path in _files(place):
                with contextlib.suppress(OSError):
                    yield fs.read_file(path)


def _files(place: str) -> list[str]:
    """Return the files of a place: itself, or those of a directory, in the order of their names."""
    if not os.path.isdir(place):
        return [place]
    return [
        entry.path for entry in sorted(os.scandir(place), key=lambda entry: entry.name) if entry.is_file()
    ]
