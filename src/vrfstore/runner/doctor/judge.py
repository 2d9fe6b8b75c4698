"""Saying of each fact whether it is good, and what to do where it is not. Pure."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping

from vrfstore.runner.doctor.facts import NETWORK, Base, Facts, Finding, Lender, Mount, State, Tools
from vrfstore.store.layout import FORMAT

__all__ = ["judge"]

_OLDEST_PIP = (26, 0)
"""From here on a dry run reads metadata instead of downloading wheels."""

_BYTES_BAD, _BYTES_NOTE = 100 * 10**6, 2 * 10**9
"""Free bytes. One large wheel needs the first; a usual set of wheels for data analysis half of the second."""

_INODES_BAD, _INODES_NOTE = 5_000, 50_000
"""Free inodes. A hundred wheels take some 25,000."""

_FUTURE = 60.0
"""Seconds ahead of the clock from which a file counts as one from the future."""

_SKEW = 2.0
"""Seconds that a file system may stamp beside this machine's clock."""

_EARLIEST = 1_735_689_600.0
"""2025-01-01. No clock that is right shows less."""

_COARSE = 10_000_000
"""Nanoseconds. Stamps coarser than a kernel's tick let a change go unnoticed."""


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Say of each fact whether it is good. Pure."""
    return (
        *_judge_place(facts),
        *_judge_permissions(facts),
        *_judge_mount(facts),
        *_judge_probes(facts),
        *_judge_space(facts),
        *_judge_clock(facts),
        *_judge_interpreters(facts),
        *_judge_tools(facts.tools),
        *_judge_leftovers(facts),
        *(_judge_lender(lender) for lender in facts.lenders),
        *_judge_borrowers(facts),
    )


def _judge_place(facts: Facts) -> Iterator[Finding]:
    place, root = facts.place, facts.root
    choose = "choose another directory with --store or VRFSTORE_HOME"
    if place.known:
        yield Finding("store", "good", f"{root}, format {FORMAT}")
        yield from _judge_parts(facts)
    elif place.kind == "store":
        message = f"{root} has format {place.format!r}; this version of vrfstore knows {FORMAT}"
        yield Finding("store", "bad", message, "use the vrfstore that made it, or another --store")
    elif place.kind in {"absent", "empty"}:
        if place.parent_writable:
            yield Finding("store", "good", f"{root} is not there yet; the first use makes it")
        else:
            message = f"{root} is not there, and cannot be made: {place.parent} may not be written"
            yield Finding("store", "bad", message, choose)
    elif place.kind == "foreign":
        yield Finding("store", "bad", f"{root} is not empty and not a store", choose)
    elif place.kind == "unreadable":
        message = f"{root}/store.json cannot be read: {place.complaint}"
        yield Finding("store", "bad", message, "restore it from a backup, or see who may read it")
    else:
        yield Finding("store", "bad", f"{root} cannot be reached: {place.complaint}", choose)


def _judge_parts(facts: Facts) -> Iterator[Finding]:
    place, root = facts.place, shlex.quote(facts.root)
    if place.missing:
        message = f"not there: {_several(place.missing)}"
        yield Finding("store", "note", message, "the next use makes them; look where they have gone")
    if place.unusable:
        message = f"not directories of the store's own: {_several(place.unusable)}"
        advice = (
            "links in environments lead through them: put real directories there, and move the whole store"
        )
        yield Finding("store", "bad", message, advice)
    if place.unreadable:
        yield Finding(
            "store",
            "bad",
            f"may not be listed: {_several(place.unreadable)}",
            f"run as user {place.owner}, or let others look: chmod -R go+rX {root}",
        )
    if place.owner != facts.user and place.unwritable:
        message = f"made by user {place.owner}; as user {facts.user} you get hits from it, and nothing else"
        yield Finding("store", "note", message, f"run as user {place.owner}, or use a store of your own")
    elif place.owner != facts.user:
        message = f"made by user {place.owner}, who may not be able to use what user {facts.user} makes in it"
        yield Finding("store", "note", message, f"run vrfstore as user {place.owner}")
    elif place.unwritable and "ro" not in _options(facts):
        advice = f"chmod u+rwx on them, in {root}"
        yield Finding("store", "bad", f"may not be written: {_several(place.unwritable)}", advice)
    for user, count, example in place.strangers:
        message = (
            f"{count} of the names in it {'is' if count == 1 else 'are'} user {user}'s, such as {example}; "
            f"the store is user {place.owner}'s"
        )
        yield Finding("store", "bad", message, f"as root: chown -hR {place.owner} {root}")


def _judge_permissions(facts: Facts) -> Iterator[Finding]:
    place, umask = facts.place, facts.umask
    before = len(place.open_to_all) + bool(place.exposed)
    if place.open_to_all:
        message = f"everybody may write to {_several(place.open_to_all)}"
        yield Finding("permissions", "bad", message, f"chmod -R o-w {shlex.quote(facts.root)}")
    if place.exposed is not None:
        message = f"everybody may put another store in the place of this one, in {place.exposed}"
        yield Finding("permissions", "bad", message, f"chmod o-w or +t {shlex.quote(place.exposed)}")
    if umask is not None and umask & 0o700:
        message = f"umask {umask:03o} keeps you from what you make yourself"
        yield Finding("permissions", "bad", message, "set it to 022")
    elif umask is not None and not umask & 0o002:
        message = f"umask {umask:03o} makes new directories that everybody may write to"
        yield Finding("permissions", "bad", message, "set it to 022")
    elif umask is not None and umask & 0o005:
        message = f"umask {umask:03o} makes what is new unreadable for other users"
        yield Finding("permissions", "note", message, "set it to 022 if others are to use the environments")
    elif place.known and not place.mode & 0o001:
        message = f"only user {place.owner} and their group may look into the store"
        yield Finding(
            "permissions", "note", message, "chmod o+rx on it if others are to use the environments"
        )
    elif not before:
        yield Finding("permissions", "good", "nothing is writable for everybody")


def _judge_mount(facts: Facts) -> Iterator[Finding]:
    mount = facts.disk.mount
    if mount is None:
        message = "its type is unknown: /proc/self/mountinfo does not tell"
        yield Finding("file system", "note", message, "mount /proc, which gc needs too")
    else:
        yield _judge_type(mount)
    if "ro" in _options(facts):
        if facts.place.known:
            message = "mounted read-only: hits work, and nothing else"
            yield Finding("file system", "note", message, "mount it read-write to link what is new")
        else:
            message = "mounted read-only: no store can be made"
            yield Finding("file system", "bad", message, "mount it read-write, or choose another --store")
    if "noexec" in _options(facts):
        message = "mounted noexec: " + _CONSEQUENCES["programs"][1]
        yield Finding("file system", "bad", message, "mount it without noexec, or choose another --store")
    if facts.disk.elsewhere:
        message = f"not on the same file system as the store: {_several(facts.disk.elsewhere)}"
        advice = "nothing can be renamed into or out of them: mount the store as a whole"
        yield Finding("file system", "bad", message, advice)


def _judge_type(mount: Mount) -> Finding:
    told = f"{mount.type} on {mount.point}"
    if mount.type in NETWORK:
        message = f"{told}: over a network, where leases and holds need not count on other machines"
        return Finding(
            "file system",
            "bad",
            message,
            "put the store on a local disk, or let only one machine write to it and run gc there",
        )
    if mount.type == "overlay":
        message = f"{told}: gc cannot remove what came with the image, and a first link to it copies"
        return Finding("file system", "note", message, "put the store on a volume of its own")
    if mount.type in {"tmpfs", "ramfs"}:
        message = f"{told}: the store is in memory, and gone after a restart"
        return Finding("file system", "note", message, "put it on a disk if it is to stay")
    if mount.type.startswith("fuse"):
        message = f"{told}: what it can do depends on the program behind it; see what was tried"
        return Finding("file system", "note", message, "prefer a file system of the kernel")
    return Finding("file system", "good", told)


_ELSEWHERE = "put the store on another file system, such as ext4, XFS or Btrfs"

_CONSEQUENCES: Mapping[str, tuple[State, str]] = {
    "hard links": ("bad", "a store cannot be made without them"),
    "symlinks": ("bad", "environments are made of them"),
    "hard links of symlinks": ("note", "linking makes each anew, which takes longer"),
    "rename over a file": ("bad", "memos cannot be renewed"),
    "flock": ("bad", "leases and holds protect nothing, and gc could remove what is in use"),
    "exchange of two names": ("note", "an entry cannot be replaced in one step"),
    "case": ("bad", "files of a wheel whose names differ in case only become one"),
    "programs": ("bad", "scripts of environments do not run and extension modules do not load"),
}
"""For each feature: how bad it is not to have it, and what follows."""


def _judge_probes(facts: Facts) -> Iterator[Finding]:
    probes = facts.probes
    if probes.untried:
        yield Finding("file system", "note", f"what it can do was not tried: {probes.untried}")
        return
    for feature, problem in probes.failed.items():
        if feature == "programs" and "noexec" in _options(facts):
            continue  # said already, with its cause
        state, consequence = _CONSEQUENCES[feature]
        yield Finding("file system", state, f"{feature}: {problem}; {consequence}", _ELSEWHERE)
    if probes.resolution >= _COARSE:
        apart = f"time stamps are {probes.resolution / 1e9:g} s apart"
        message = f"{apart}: a file changed twice within that counts as unchanged"
        yield Finding("file system", "note", message, _ELSEWHERE)
    if abs(probes.skew) > _SKEW:
        side = "ahead of" if probes.skew > 0 else "behind"
        message = f"files are stamped {abs(probes.skew):.0f} s {side} this machine's clock"
        yield Finding("clock", "bad", message, "set both clocks by the same source (NTP)")
    if not probes.failed:
        yield Finding("file system", "good", "links, renames, locks and programs work")


def _judge_space(facts: Facts) -> Iterator[Finding]:
    advice = "free some, for instance with: vrfstore gc"
    free, inodes = facts.disk.free, facts.disk.inodes
    state: State = "bad" if free < _BYTES_BAD else "note" if free < _BYTES_NOTE else "good"
    yield Finding("space", state, f"{_size(free)} free", None if state == "good" else advice)
    if inodes is not None:
        state = "bad" if inodes < _INODES_BAD else "note" if inodes < _INODES_NOTE else "good"
        yield Finding("space", state, f"{inodes:,} inodes free", None if state == "good" else advice)


def _judge_clock(facts: Facts) -> Iterator[Finding]:
    clock = facts.clock
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(clock.now))
    if clock.now < _EARLIEST:
        yield Finding("clock", "bad", f"it shows {shown}, which is past", "set it (NTP)")
    elif clock.made is not None and clock.made > clock.now + _FUTURE:
        made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(clock.made))
        message = f"it shows {shown}, but the store was made {made}"
        yield Finding(
            "clock", "bad", message, "set it (NTP); until then gc takes everything for younger than it is"
        )
    elif clock.future:
        ahead = (clock.latest - clock.now) / 3600
        message = f"{clock.future} names in the store are from the future, up to {ahead:.1f} hours"
        yield Finding("clock", "note", message, "check the clock (NTP); gc keeps them until then")
    else:
        yield Finding("clock", "good", shown)


def _judge_interpreters(facts: Facts) -> Iterator[Finding]:
    tools = facts.tools
    if tools.python_version is None:
        message = f"the default one cannot be used: {tools.python_complaint}"
        yield Finding("python", "bad", message, "name another with --python or VRFSTORE_PYTHON")
    else:
        yield Finding("python", "good", f"{tools.python} is {tools.python_version}")
    for base in facts.bases:
        yield _judge_base(base)
    if facts.unread:
        count = f"the record of {facts.unread} environment{'s' if facts.unread > 1 else ''}"
        advice = "gc keeps them, and all entries: look at them, and remove by hand what is broken"
        yield Finding("python", "note", f"{count} cannot be read", advice)


def _judge_base(base: Base) -> Finding:
    stand = (
        f"{base.environments} environment{' stands' if base.environments == 1 else 's stand'} on {base.real}"
    )
    again = "link again with a Python that is there; gc removes what is no longer used"
    if base.complaint:
        return Finding("python", "bad", f"{stand}: {base.complaint}", again)
    if base.found is None:
        return Finding(
            "python", "good", f"{stand}, which is there; somebody else's store, so it was not started"
        )
    if base.found.split(".")[:2] != base.version.split(".")[:2]:
        return Finding("python", "bad", f"{stand}, which was {base.version} and is {base.found} now", again)
    if base.found != base.version:
        return Finding("python", "note", f"{stand}, which was {base.version} and is {base.found} now", again)
    return Finding("python", "good", f"{stand}, still {base.version}")


def _judge_tools(tools: Tools) -> Iterator[Finding]:
    oldest = ".".join(map(str, _OLDEST_PIP))
    install = f'install it where vrfstore is: python -m pip install "pip>={oldest}"'
    if tools.pip is None:
        yield Finding("pip", "bad", "not there; nothing can be resolved", install)
    elif _release(tools.pip) < _OLDEST_PIP:
        message = f"{tools.pip} is too old: its dry run downloads every wheel; {oldest} is needed"
        yield Finding("pip", "bad", message, install)
    else:
        yield Finding("pip", "good", tools.pip)
    if tools.uv is None:
        yield Finding("uv", "note", "not there; vrfstore does not need it")
    else:
        yield Finding("uv", "good", tools.uv)
    if tools.isal is None:
        yield Finding("isal", "note", "not there; wheels are inflated by zlib, at about half the speed")
    else:
        yield Finding("isal", "good", tools.isal)


def _release(version: str) -> tuple[int, ...]:
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415

    try:
        return Version(version).release
    except InvalidVersion:
        return ()


def _judge_leftovers(facts: Facts) -> Iterator[Finding]:
    found = facts.leftover
    if found is None:
        return
    if found.complaint:
        advice = "see what is said of the store and its permissions"
        yield Finding("leftovers", "note", f"cannot be looked for: {found.complaint}", advice)
        return
    if found.stale_list:
        message = "a gc was killed; its list of condemned names holds up whoever wants one of them"
        yield Finding("leftovers", "note", message, "finish it with: vrfstore gc")
    if found.count:
        message = f"{found.count} of killed runs, {_size(found.bytes)}"
        yield Finding("leftovers", "note", message, "remove them with: vrfstore gc")
    elif not found.stale_list:
        yield Finding("leftovers", "good", "none")


def _judge_lender(lender: Lender) -> Finding:
    if lender.complaint:
        advice = "see whether it is mounted and who may read it, or link with --no-shared-store"
        return Finding("shared store", "bad" if lender.borrowed else "note", lender.complaint, advice)
    found = f"{lender.root}, {lender.borrowed} entries borrowed"
    if lender.gone:
        message = f"{found}; {lender.gone} of them are not there any more"
        advice = "link again what uses them; ask whoever collects there to make a directory clients (docs/sharing.md)"
        return Finding("shared store", "bad", message, advice)
    if not lender.told:
        message = f"{found}; its gc cannot be told which"
        advice = (
            "ask whoever collects there to make a directory clients (docs/sharing.md), or never to collect"
        )
        return Finding("shared store", "note", message, advice)
    return Finding("shared store", "good", f"{found}; its gc is told which")


def _judge_borrowers(facts: Facts) -> Iterator[Finding]:
    found, place = facts.borrowers, f"{facts.root}/clients"
    if found is None:
        return
    if not found.guarded:
        message = f"in {place} everybody can remove what another store has left, which then is collected"
        yield Finding("clients", "bad", message, f"chmod 1777 {shlex.quote(place)}")
    if found.unread:
        message = f"what is older than these is kept, since they cannot be read: {_several(found.unread)}"
        yield Finding("clients", "note", message, "remove those that you know nobody needs")
    if found.guarded and not found.unread:
        yield Finding("clients", "good", f"{found.known} other stores borrow from this one")


def _options(facts: Facts) -> frozenset[str]:
    return frozenset() if facts.disk.mount is None else facts.disk.mount.options


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def _several(names: Iterable[str], shown: int = 5) -> str:
    """Return names for a sentence; of many, the first."""
    everything = list(names)
    more = f" and {len(everything) - shown} more" if len(everything) > shown else ""
    return ", ".join(everything[:shown]) + more
