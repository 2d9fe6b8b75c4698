"""An interpreter for tests that start none: what a probe would say of one."""

import sys

from vrfstore.model import Interpreter

__all__ = ["INTERPRETER"]

INTERPRETER = Interpreter(
    executable=sys.executable,
    real=sys.executable,
    version="3.11.9",
    implementation="cpython",
    cache_tag="cpython-311",
    abi_flags="",
    magic="a70d0d0a",
    platform="linux-x86_64",
    prefix=sys.prefix,
    virtual=False,
    site_directories=(),
    base=(),
)
