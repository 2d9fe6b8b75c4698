"""``vrfstore env``."""

from __future__ import annotations

import click

from vrfstore.cli.lazy import LazyGroup

__all__ = ["command"]


@click.group(
    "env",
    cls=LazyGroup,
    modules="vrfstore.cli.env_",
    subcommands={
        "check": "Say what has drifted in an environment.",
        "export-tree": "Write a copy of an environment that stands alone.",
        "forget": "Let the store know no more of an environment that is gone.",
        "heal": "Mend what has drifted, keeping what was added by hand.",
        "undo": "Take back what adopting an environment changed.",
    },
    epilog="""\b
Examples:
  vrfstore link requirements.vrf --into .venv
  vrfstore env check .venv
  vrfstore env heal .venv
  vrfstore env export-tree .venv /srv/image/venv
""",
)
def command() -> None:
    """Look after environments: those of the store, and those of one's own."""
