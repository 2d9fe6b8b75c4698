"""vrfstore: wheels unpacked once, environments linked in milliseconds, an exact gc.

The public names are few and loaded on first use, so that ``import vrfstore`` costs nothing::

    result = vrfstore.link("requirements.vrf")
    subprocess.run([result.python, "report.py"])

========================  ====================================================
``link(requirements)``    make the environment exist and say where it is
``LinkResult``            what ``link`` returns
``Store``                 a handle on a store: ``add``, ``entries``, …
``VrfstoreError``         the base of every error; has ``exit_code``, ``kind``
``errors``                the module with all of them
========================  ====================================================
"""

# No import here, not even of __future__: with -m it could be a document's; see __main__.
__version__ = "0.1.0"
__all__ = ["LinkResult", "Store", "VrfstoreError", "__version__", "errors", "link"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vrfstore import errors
    from vrfstore.errors import VrfstoreError
    from vrfstore.runner.link import LinkResult, link
    from vrfstore.store.store import Store

_HOMES = {
    "LinkResult": "vrfstore.runner.link",
    "Store": "vrfstore.store.store",
    "VrfstoreError": "vrfstore.errors",
    "link": "vrfstore.runner.link",
}


def __getattr__(name: str) -> object:
    """Load a public name from its home on first use (PEP 562)."""
    from importlib import import_module  # noqa: PLC0415 - costs start-up time only where it is wanted

    if name == "errors":
        return import_module("vrfstore.errors")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
