"""Servers that send files of packages, and a kernel, started for real from a linked environment.

They compare real paths to decide what they may send, so that a farm of links can look to them like an escape.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

import parity
import vrfstore
from vrfstore.interpreter import default_executable

pytestmark = [pytest.mark.network, pytest.mark.slow]

REQUIREMENTS = (
    "jupyterlab", "ipykernel", "ipywidgets", "ipympl", "nbdime", "jupyterlab-git", "streamlit", "starlette", "uvicorn",
    "plotly",
)  # fmt: skip

LAB_EXTENSIONS = {
    "@jupyter-widgets/jupyterlab-manager",
    "@jupyterlab/git",
    "jupyter-matplotlib",
    "nbdime-jupyterlab",
}

SECONDS = 60
"""That a server may take to answer first."""

STARLETTE = """
import os, sys
import plotly, uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
whole = os.path.dirname(plotly.__file__)
uvicorn.run(Starlette(routes=[
    Mount("/package", StaticFiles(packages=[("plotly", "package_data")])),
    Mount("/directory", StaticFiles(directory=os.path.join(whole, "package_data"))),
    Mount("/site", StaticFiles(directory=os.path.dirname(whole))),
]), port=int(sys.argv[1]), log_level="warning")
"""

KERNEL = """
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
try:
    answers = []
    client.execute_interactive(
        "import sys; print(sys.prefix)", timeout=60,
        output_hook=lambda message: answers.append(message["content"].get("text", "")),
    )
    print("".join(answers).strip())
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment that everything is served from."""
    python = default_executable()
    pins = parity.DATA / f"requirements-{parity.short_version(parity.version_of(python))}.txt"
    if not pins.exists():
        pytest.skip(f"there are no pins for {python}")
    scratch = tmp_path_factory.mktemp("serving")
    parity.link_wheels(
        parity.fetch_for(python, parity.read_pins(pins), REQUIREMENTS, parity.CACHE), scratch / "wheels"
    )
    requirements = scratch / "requirements.vrf"
    requirements.write_text("\n".join(REQUIREMENTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(scratch / "wheels"))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        return Path(
            vrfstore.link(
                requirements, python=python, store=scratch / "store", compile_mode="off"
            ).environment
        )


def variables(environment: Path, home: Path) -> dict[str, str]:
    """What a command of the environment finds in its own variables."""
    return {
        "PATH": f"{environment}/bin:{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "VIRTUAL_ENV": str(environment),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str) -> tuple[int, bytes]:
    """Return the status and body of an answer, an error's too."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 - a server of our own
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@contextmanager
def served(environment: Path, tmp_path: Path, command: list[str], port: int, ready: str) -> Iterator[str]:
    """Run a server, and give its URL once ``ready`` below it answers; end it afterwards."""
    url = f"http://127.0.0.1:{port}/"
    log = tmp_path / "server.log"
    with log.open("wb") as words:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=variables(environment, tmp_path / "home"),
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
        )
        try:
            until = time.monotonic() + SECONDS
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                try:
                    if get(urljoin(url, ready))[0] == 200:
                        break
                except OSError:
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def page_config(page: str) -> Mapping[str, Any]:
    """Return what JupyterLab's page tells its scripts."""
    found = re.search(
        r'<script id="jupyter-config-data" type="application/json">(.*?)</script>', page, re.DOTALL
    )
    assert found is not None
    config = json.loads(unescape(found[1]))
    assert isinstance(config, dict)
    return config


def test_jupyterlab_serves_its_bundles_and_those_of_every_extension(
    environment: Path, tmp_path: Path
) -> None:
    port = free_port()
    command = [
        f"{environment}/bin/jupyter-lab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
        "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}",
    ]  # fmt: skip
    with served(environment, tmp_path, command, port, "api") as url:
        status, page = get(urljoin(url, "lab"))
        assert status == 200
        text = page.decode()
        config = page_config(text)
        bundles = re.findall(r'<script [^>]*src="([^"]*static/lab/[^"]+)"', text)
        assert any("main" in bundle for bundle in bundles)
        statuses = {bundle: get(urljoin(url, bundle))[0] for bundle in bundles}
        extensions = {item["name"]: item["load"] for item in config["federated_extensions"]}
        assert extensions.keys() >= LAB_EXTENSIONS
        base = urljoin(url, config["fullLabextensionsUrl"])
        for name, load in extensions.items():
            statuses[name], body = get(f"{base}/{name}/{load}")
            assert body == (environment / "share/jupyter/labextensions" / name / load).read_bytes()
        theme = "@jupyterlab/theme-light-extension/index.css"
        statuses[theme] = get(f"{urljoin(url, config['fullThemesUrl'])}/{theme}")[0]
        for api in ("lab/api/settings", "lab/api/translations", "api/kernelspecs"):
            statuses[api] = get(urljoin(url, api))[0]
        specs = json.loads(get(urljoin(url, "api/kernelspecs"))[1])["kernelspecs"]
    assert set(statuses.values()) == {200}, statuses
    assert "python3" in specs


def test_starlette_serves_the_files_of_a_package(environment: Path, tmp_path: Path) -> None:
    port = free_port()
    program = tmp_path / "program.py"
    program.write_text(STARLETTE)
    command = [f"{environment}/bin/python", str(program), str(port)]
    with served(environment, tmp_path, command, port, "package/plotly.min.js") as url:
        places = ("package/plotly.min.js", "directory/plotly.min.js", "package/templates/plotly.json")
        statuses = {place: get(urljoin(url, place))[0] for place in places}
    assert set(statuses.values()) == {200}, statuses


def test_streamlit_serves_its_page_and_scripts(environment: Path, tmp_path: Path) -> None:
    port = free_port()
    program = tmp_path / "program.py"
    program.write_text("import streamlit\nstreamlit.write('pear')\n")
    command = [
        f"{environment}/bin/streamlit", "run", str(program), "--server.headless=true", f"--server.port={port}",
        "--server.address=127.0.0.1", "--browser.gatherUsageStats=false",
    ]  # fmt: skip
    with served(environment, tmp_path, command, port, "_stcore/health") as url:
        status, page = get(url)
        assert status == 200
        assets = re.findall(r'(?:src|href)="(\./static/[^"]+)"', page.decode())
        assert any(asset.endswith(".js") for asset in assets)
        statuses = {asset: get(urljoin(url, asset))[0] for asset in assets}
    assert set(statuses.values()) == {200}, statuses


def test_a_kernel_starts_and_its_prefix_is_the_environment(environment: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [f"{environment}/bin/python", "-c", KERNEL],
        cwd=tmp_path,
        env=variables(environment, tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(environment)
