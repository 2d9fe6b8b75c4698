"""Write the test vectors of docs/on-disk-contract.md: cases, and what has to come out of them.

usage: python tests/vectors/generate.py     (a test fails while the file beside it is another)

What has to come out is computed by the rule as it is written there, with the standard library alone, so that neither
implementation is held to itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).with_name("input-digest.json")

FORMAT = 3
_PYTHON = "/usr/bin/python3.12"
_HOME = {"HOME": "/home/author"}
_KEY = "8b064e3e939e0d6ad1864e76a427143d"
_BOOT = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"

_INPUTS: list[dict[str, Any]] = [
    {"name": "nothing but a file", "data": b"pandas>=2\n"},
    {"name": "an empty file", "data": b""},
    {"name": "no line end", "data": b"pandas>=2"},
    {"name": "bytes that are no text", "data": bytes(range(256))},
    {"name": "the usual variables", "data": b"x\n", "variables": _HOME | {"PATH": "/bin", "LANG": "C.UTF-8"}},
    {
        "name": "all variables that decide, and some that look like them",
        "data": b"x\n",
        "variables": {
            "HOME": "/home/author",
            "XDG_CONFIG_HOME": "/home/author/.config",
            "XDG_CONFIG_DIRS": "/etc/xdg:/usr/local/etc/xdg",
            "VRFSTORE_CONFIG": "/srv/vrfstore.toml",
            "PIP_INDEX_URL": "https://user:secret@index.example/simple",
            "PIP_": "nothing but the prefix",
            "PIP_EMPTY": "",
            "pip_index_url": "other case",
            "PIPX_HOME": "/opt/pipx",
            "XDG_DATA_HOME": "/data",
            "XDG_CONFIG": "/x",
            "VRFSTORE_HOME": "/srv/store",
            "VRFSTORE_PYTHON": "3.12",
            "MY_PIP_INDEX_URL": "x",
        },
    },
    {
        "name": "what JSON escapes",
        "data": b"x\n",
        "variables": {"PIP_PROXY": "\"\\/\b\f\n\r\t\x01\x1f\x7f </script>'"},
    },
    {"name": "an accent", "data": b"x\n", "variables": {"HOME": "/home/zo\xeb"}},
    {"name": "beyond the first plane", "data": b"x\n", "variables": {"HOME": "/home/\U0001f600"}},
    {"name": "bytes that are no UTF-8, as surrogates", "data": b"x\n", "variables": {"HOME": "/home/\udcff\udc80"}},
    {"name": "a path that is no UTF-8", "data": b"x\n", "python": "/opt/\udce9t\udce9/bin/python"},
    {"name": "a path with an accent", "data": b"x\n", "python": "/opt/\xe9t\xe9/bin/python"},
    {
        "name": "names in the order of code points, which is not that of UTF-16",
        "data": b"x\n",
        "variables": {
            "PIP_\U0001f600": "1",
            "PIP_\uff21": "2",
            "PIP_\udc80": "3",
            "PIP_\xe9": "4",
            "PIP_z": "5",
            "PIP_Z": "6",
            "PIP_Z_": "7",
        },
    },
    {
        "name": "options of linking",
        "data": b"x\n",
        "options": {
            "isolated": True,
            "user_site": True,
            "allow_collisions": True,
            "materialize": ["jupyterlab", "torch"],
            "prompt": "r\xe9sum\xe9 \u2713",
        },
    },
    {
        "name": "options of policy",
        "data": b"x\n",
        "options": {
            "index_url": "https://index.example/simple",
            "allow_builds": True,
            "protect": ["ipykernel", "jupyter-client"],
            "max_packages": [0],
        },
    },
    {"name": "a shared store", "data": b"x\n", "options": {"shared_store": "/srv/vrfstore"}},
    {"name": "no shared store, whatever is configured", "data": b"x\n", "options": {"shared_store": ""}},
    {"name": "everything is materialized", "data": b"x\n", "options": {"materialize": ["*"]}},
    {"name": "seconds that are whole", "data": b"x\n", "options": {"stale_after": [604800.0]}},
    {"name": "seconds that are not", "data": b"x\n", "options": {"stale_after": [0.1]}},
    {"name": "no seconds", "data": b"x\n", "options": {"stale_after": [0.0]}},
    {
        "name": "files that depend on where they are",
        "data": b"",
        "given": {
            "files": [["/srv/report/requirements.vrf", hashlib.sha256(b"-r more.txt\n").hexdigest()]],
            "trusted": None,
            "extras": ["plot"],
            "groups": [],
            "service": "",
            "script": False,
        },
    },
]  # fmt: skip

_TOKENS = [
    {"device": 65024, "inode": 2, "size": 4096, "mtime": 1795845688240470117, "ctime": 1795845688240470118},
    {"device": 2**64 - 1, "inode": 2**64 - 1, "size": 2**63 - 1, "mtime": 2**63 - 1, "ctime": 9007199254740993},
    {"device": 0, "inode": 1, "size": 0, "mtime": -1, "ctime": 0},
]  # fmt: skip

_PATHS = [
    "/srv/store", "/home/zo\xeb", "/home/\U0001f600", "/opt/\udce9t\udcc3", "/\udcf0\udc9f\U0001f600\udc80",
]  # fmt: skip

_CONDEMNED = [
    b"",
    b"\0" * 16,
    f"environments/{_KEY}\nentries/4f16c2-pandas-3.1.1\n".encode() + b"\0" * 8,
    f"environments/{_KEY}\n".encode() + b"\0environments/stale\n",
    b"environments/" + _KEY.encode() + b".1\nentries/\xff\xfe-odd\n",
    f"environments/{_KEY}".encode(),
]

_LEASES = [
    {"since_boot": 15927.25, "wall": 1795845688.5, "seconds": 900.0},
    {"since_boot": 100.0, "wall": 1795845688.0, "seconds": 0.5},
    {"since_boot": 4000000.0, "wall": 1795845688.0, "seconds": 86400.0},
]


def _line(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False) + "\n"


def _input(case: dict[str, Any]) -> dict[str, Any]:
    variables, options = case.get("variables", _HOME), case.get("options", {})
    decides = ("HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "VRFSTORE_CONFIG")
    head = {
        "format": FORMAT,
        "options": options,
        "python": case.get("python", _PYTHON),
        "variables": {
            name: value for name, value in variables.items() if name in decides or name.startswith("PIP_")
        },
    }
    if "given" in case:
        head["input"] = case["given"]
    line = _line(head)
    return {
        "name": case["name"],
        "data": case["data"].hex(),
        "python": head["python"],
        "variables": variables,
        "options": options,
        "given": case.get("given"),
        "line": line,
        "digest": hashlib.sha256(line.encode("ascii") + case["data"]).hexdigest(),
    }


def _token(fields: dict[str, int]) -> dict[str, str]:
    # As texts: a reader whose numbers do not hold 64 bits would get others.
    written = {name: str(value) for name, value in fields.items()}
    return written | {"token": ":".join(written.values())}


def _names(data: bytes) -> list[str]:
    return sorted(name.decode("latin-1") for name in data.partition(b"\0")[0].split(b"\n") if name)


def _lease(case: dict[str, float]) -> dict[str, Any]:
    deadline, wall = (math.ceil(case[clock] + case["seconds"]) for clock in ("since_boot", "wall"))
    identity = "00112233445566ff"
    name = f"until.{identity}.{_KEY}.{_BOOT}.{deadline}.{wall}"
    return {"id": identity, "key": _KEY, "boot": _BOOT, **case, "lease": name}


def vectors() -> str:
    """Return the text of the file."""
    value = {
        "about": "Test vectors of docs/on-disk-contract.md; made by generate.py beside this file.",
        "format": FORMAT,
        "inputs": [_input(case) for case in _INPUTS],
        "tokens": [_token(fields) for fields in _TOKENS],
        "paths": [{"text": text, "bytes": os.fsencode(text).hex()} for text in _PATHS],
        "condemned": [{"list": data.hex(), "names": _names(data)} for data in _CONDEMNED],
        "leases": [_lease(case) for case in _LEASES],
    }
    return json.dumps(value, indent=1) + "\n"


if __name__ == "__main__":
    VECTORS.write_text(vectors(), encoding="ascii")
