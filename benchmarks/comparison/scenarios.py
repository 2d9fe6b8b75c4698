"""What is measured, by the names of the scenarios; those that uv's own benchmarks have are called as there.

====================  ================================================================================================
scenario              measured
====================  ================================================================================================
install-cold          an environment is made, with caches that are empty
install-warm          the same, with caches that have everything; ``venv`` and ``install`` apart
install-noop          the same again, where there is nothing to do
install-incremental   one package more; vrfstore links another environment, the others change the one that is there
first-import-cold     an environment is made from empty caches, then the stack is imported, then once more
first-import-warm     the same, with caches that have everything
hit                   what a caller waits for who asks for an environment that stands
at-once-N             N environments, all begun at the same moment, with caches that have everything
disk                  what is on the disk after so many environments that differ in a package or two
delete                one environment is removed; vrfstore's gc looks for it, for the others ``rm -rf`` is told
gc                    everything is removed
store-size            a hit, a link and a gc in stores of so many entries
====================  ================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from comparison import asking, lasting, making, storing
from comparison.ground import Ground
from comparison.planning import Job
from comparison.rounds import Contender

__all__ = ["SCENARIOS", "contenders"]

SCENARIOS: Mapping[str, Callable[[Ground, Job, str, int], Sequence[Contender]]] = {
    "at-once": lasting.at_once,
    "delete": lasting.delete,
    "disk": lasting.disk,
    "first-import-cold": making.first_import,
    "first-import-warm": making.first_import,
    "gc": lasting.gc,
    "hit": asking.hit,
    "install-cold": making.cold,
    "install-incremental": making.incremental,
    "install-noop": making.noop,
    "install-warm": making.warm,
    "store-size": storing.contenders,
}
"""How each is run: from a ground, a job, one of its tools and one of its sizes to who takes turns."""


def contenders(ground: Ground, job: Job) -> list[Contender]:
    """Return who takes turns in a job."""
    return [
        contender
        for size in (job.sizes if job.scenario in {"at-once", "store-size"} else (0,))
        for tool in job.tools
        for contender in SCENARIOS[job.scenario](ground, job, tool, size)
    ]
