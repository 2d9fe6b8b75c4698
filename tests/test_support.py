"""The wheels and the index that other tests rely on, tried with the tools they stand in for."""

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import time
import zipfile
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile

from support.index import Index
from support.wheels import Member, Row, WheelSpec, build_wheel, wheel_bytes, wheel_filename

LIBRARY = WheelSpec(name="Some.Library", version="2.1+local", requires_python=">=3.9,<4")
TOOL = WheelSpec(
    name="tool",
    build="1",
    files={"tool.py": "def main(): pass\n"},
    data={"scripts/helper": "#!python\n", "data/share/tool.txt": b"shared"},
    executable=["scripts/helper"],
    requires=["some-library"],
    extras={"more": ['absent; python_version > "3"']},
    entry_points={"console_scripts": {"tool": "tool:main"}},
)
JSON = "application/vnd.pypi.simple.v1+json"


def fetch(index: Index, path: str, accept: str = "*/*") -> tuple[int, bytes]:
    with closing(HTTPConnection(urlsplit(index.url).netloc)) as connection:
        connection.request("GET", path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.read()


def pip(url: str, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "127.0.0.1"}
    options = ["--isolated", "--disable-pip-version-check", "--no-cache-dir", "--retries=0", "--quiet"]
    return subprocess.run(
        [sys.executable, "-m", "pip", *options, command, f"--index-url={url}", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_installer_accepts_a_wheel(tmp_path: Path) -> None:
    path = build_wheel(TOOL, tmp_path)
    schemes = {scheme: str(tmp_path / scheme) for scheme in ("purelib", "scripts", "data")}
    with WheelFile.open(path) as source:
        source.validate_record(validate_contents=True)
        install(source, SchemeDictionaryDestination(schemes, sys.executable, "posix"), {})
    assert path.name == "tool-1.0-1-py3-none-any.whl"
    assert (tmp_path / "purelib/tool.py").read_text() == "def main(): pass\n"
    assert (tmp_path / "data/share/tool.txt").read_bytes() == b"shared"
    assert os.access(tmp_path / "scripts/tool", os.X_OK)
    assert os.access(tmp_path / "scripts/helper", os.X_OK)


def test_wheel_bytes_are_reproducible_and_carry_marked_extras() -> None:
    assert wheel_bytes(TOOL) == wheel_bytes(TOOL)
    with zipfile.ZipFile(BytesIO(wheel_bytes(TOOL))) as archive:
        metadata = archive.read(f"{TOOL.dist_info}/METADATA").decode()
    assert 'Requires-Dist: absent; python_version > "3" and extra == "more"' in metadata


def test_hooks_make_hostile_wheels() -> None:
    def lie(rows: list[Row]) -> list[Row]:
        return [replace(row, digest="sha256=AAAA") if row.path == "tool.py" else row for row in rows]

    def plant(members: list[Member]) -> list[Member]:
        link = Member("link", b"/etc", stat.S_IFLNK | 0o777)
        return [*members, link, link, Member("../x\\y\0z", b"", compression=zipfile.ZIP_STORED)]

    with zipfile.ZipFile(BytesIO(wheel_bytes(TOOL, record=lie, members=plant))) as archive:
        infos = archive.infolist()[-3:]
        assert b"tool.py,sha256=AAAA," in archive.read(f"{TOOL.dist_info}/RECORD")
    assert [info.orig_filename for info in infos] == ["link", "link", "../x\\y\0z"]
    assert stat.S_ISLNK(infos[0].external_attr >> 16)


def test_pip_resolves_and_installs_from_the_index(tmp_path: Path) -> None:
    with Index([LIBRARY, TOOL]) as index:
        resolved = pip(index.url, "install", "--dry-run", "--ignore-installed", "--report=-", "tool")
        assert resolved.returncode == 0, resolved.stderr
        names = {item["metadata"]["name"] for item in json.loads(resolved.stdout)["install"]}
        assert names == {"tool", "Some.Library"}
        assert ("GET", f"/files/{wheel_filename(TOOL)}.metadata") in index.requests
        before = index.downloads(wheel_filename(TOOL))
        installed = pip(index.url, "install", f"--target={tmp_path}", "tool")
        assert installed.returncode == 0, installed.stderr
        assert index.downloads(wheel_filename(TOOL)) == before + 1
    assert (tmp_path / "some_library/__init__.py").is_file()


@pytest.mark.parametrize("without_hashes", [False, True])
def test_json_and_html_agree(without_hashes: bool) -> None:
    with Index([LIBRARY]) as index:
        index.without_hashes = without_hashes
        index.add(b"not an archive", "some_library-3.tar.gz")
        document = json.loads(fetch(index, "/simple/Some_Library/", JSON)[1])
        page = fetch(index, "/simple/some-library/")[1].decode()
        metadata = fetch(index, document["files"][0]["url"] + ".metadata")[1]
    anchors = re.findall(r'href="([^"#]+)(?:#sha256=(\w+))?"', page)
    assert anchors == [(file["url"], file["hashes"].get("sha256", "")) for file in document["files"]]
    digest = hashlib.sha256(metadata).hexdigest()
    assert document["files"][0]["core-metadata"] == (True if without_hashes else {"sha256": digest})
    assert f'data-core-metadata="{"true" if without_hashes else "sha256=" + digest}"' in page
    assert 'data-requires-python="&gt;=3.9,&lt;4"' in page
    assert document["versions"] == ["2.1+local", "3"]


def test_faults(tmp_path: Path) -> None:
    with Index([LIBRARY], credentials=("user", "secret")) as index:
        assert fetch(index, "/simple/")[0] == 401
        filename = wheel_filename(LIBRARY)
        arguments = ["install", f"--target={tmp_path}", "some-library"]
        index.corrupt(filename)
        index.delay[filename] = 0.01
        assert "DO NOT MATCH THE HASHES" in pip(index.url_with_credentials, *arguments).stderr
        index.status["/files/"] = 503
        assert "503" in pip(index.url_with_credentials, *arguments).stderr


def test_closing_ends_connections_and_delays() -> None:
    filename = wheel_filename(LIBRARY)
    with Index([LIBRARY]) as index:
        index.delay[filename] = 3600
        connection = HTTPConnection(urlsplit(index.url).netloc)
        connection.request("GET", "/simple/absent/")
        assert connection.getresponse().read() == b"Not Found"
        connection.request("GET", index.file_url(filename))
        while not index.downloads(filename):
            time.sleep(0.01)
    connection.close()
