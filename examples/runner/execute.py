"""Execute a notebook with a kernel of the Python that runs this.

usage: python execute.py NOTEBOOK EXECUTED

What ``jupyter execute`` does, but for one thing: the kernel is talked to through sockets of a directory and not of
the network. Ports are chosen before anybody listens there, and kernels that are started at once may choose the same.
"""

from __future__ import annotations

import os
import sys

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config


def main(source: str, executed: str) -> None:
    # Sockets lie beside what is rendered, and are swept with it; their paths may have 107 bytes (unix(7)).
    os.environ["JUPYTER_RUNTIME_DIR"] = os.path.dirname(os.path.abspath(source))
    notebook = nbformat.read(source, as_version=4)
    config = Config({"KernelManager": {"transport": "ipc"}})
    try:
        NotebookClient(notebook, kernel_name="python3", config=config).execute()
    except CellExecutionError as error:
        sys.exit(str(error))  # the cell and its traceback; how we came there is of no interest to an author
    nbformat.write(notebook, executed)


if __name__ == "__main__":
    main(*sys.argv[1:])
