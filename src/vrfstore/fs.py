"""Everything that vrfstore changes on a disk goes through here, one small function per effect.

Nothing in this module decides. Each function is one step that a kill can come before or after, and each
reports itself to ``on_effect`` first; that is how the tests kill a process at every step. Imports stay few:
the path of a hit comes through here.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader
    from types import TracebackType
    from typing import Self

__all__ = [
    "BLOCK",
    "COPY_LIMIT",
    "SEALED_AT",
    "NewFile",
    "append",
    "change_mode",
    "copy_file",
    "exchange",
    "hard_link",
    "hard_link_or_copy",
    "link_new",
    "make_directory",
    "open_regular",
    "overwrite",
    "read_file",
    "remove_directory",
    "remove_file",
    "remove_tree",
    "rename",
    "replace_file",
    "seal_directory",
    "set_times",
    "stamp",
    "stat_token",
    "symlink",
    "sync_filesystem",
    "unique_name",
    "write_file",
]

_CHUNK = 1 << 20
BLOCK = 512
"""Bytes of what ``st_blocks`` counts, whatever the file system's own blocks are (stat(3))."""

_SEALED = 0o555

_NOT_LINKABLE = frozenset([errno.EMLINK, errno.EPERM, errno.EXDEV, errno.EACCES, errno.ENOTSUP])
"""Of link(2): too many links; no hard links here, or fs.protected_hardlinks and not the owner; another mount."""

on_effect: Callable[[str, str], None] | None = None
"""Called with the name and the path of every effect just before it happens; for tests."""

COPY_LIMIT = 64 * 1024
"""Up to this many bytes a file that cannot be hard-linked is copied; a larger one becomes a symlink."""

SEALED_AT = 315_532_800 * 10**9
"""The mtime of sealed directories: the first day that a zip archive knows, nanoseconds since the epoch."""


def _effect(name: str, path: str) -> None:
    if on_effect is not None:
        on_effect(name, path)


def unique_name() -> str:
    """Return 16 hexadecimal digits that no other process comes up with."""
    return os.urandom(8).hex()


def stat_token(path: str) -> str:
    """Return what tells that ``path`` (links followed) is still the same: ``device:inode:size:mtime:ctime``.

    Times are nanoseconds. The text is compared as a whole, also by clients in other languages, whose numbers
    may not hold 64 bits. A path that is not there gives ``-``, one that cannot be looked at ``!`` and the errno.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "-"
    except OSError as error:
        return f"!{error.errno}"
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def open_regular(path: str) -> BufferedReader:
    """Open a regular file to read it.

    Never waits: a FIFO that somebody put in the place of a file would hold us up for ever.

    Args:
        path: The file; links are followed.

    Raises:
        OSError: It cannot be read, or is not a regular file (``EINVAL``).
    """
    return open(_regular(path), "rb")


def _regular(path: str, flags: int = 0) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def read_file(path: str, limit: int = 1 << 26) -> bytes:
    """Return the content of a regular file; see ``open_regular``.

    Args:
        path: The file; links are followed.
        limit: Bytes; a larger file is refused.

    Raises:
        OSError: It cannot be read, is not a regular file (``EINVAL``), or is too large (``EFBIG``).
    """
    descriptor = _regular(path)
    try:
        # Of a file that grows meanwhile, no more than the limit either.
        wanted = min(os.fstat(descriptor).st_size, limit) + 1
        data = os.read(descriptor, wanted)
        while len(data) <= limit and len(data) >= wanted:
            wanted = min(2 * wanted, limit + 1)
            data += os.read(descriptor, wanted - len(data))
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data


def make_directory(path: str, mode: int = 0o755) -> None:
    """Make one directory (mkdir(2)); its parent is there and it is not."""
    _effect("mkdir", path)
    os.mkdir(path, mode)


def symlink(target: str, path: str) -> None:
    """Make a fresh symlink at ``path``."""
    _effect("symlink", path)
    os.symlink(target, path)


def rename(source: str, target: str) -> None:
    """Rename (rename(2)); a file or an empty directory at ``target`` is replaced."""
    _effect("rename", target)
    os.rename(source, target)


_AT_CURRENT_DIRECTORY = -100
_RENAME_EXCHANGE = 2


def exchange(one: str, other: str) -> bool:
    """Let two paths of one directory change places, so that neither is ever missing (renameat2(2)).

    Where the kernel or the file system cannot do that, ``other`` is missing for the moment between two renames.

    Returns:
        Whether it was done in one step.
    """
    import ctypes  # noqa: PLC0415 - 5 ms that only a repair pays

    _effect("exchange", other)
    library = ctypes.CDLL(None, use_errno=True)
    code = errno.ENOSYS
    if hasattr(library, "renameat2"):
        places = (_AT_CURRENT_DIRECTORY, os.fsencode(one), _AT_CURRENT_DIRECTORY, os.fsencode(other))
        if library.renameat2(*places, _RENAME_EXCHANGE) == 0:
            return True
        code = ctypes.get_errno()
    if code not in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}:
        raise OSError(code, os.strerror(code), other)
    aside = f"{one}.aside"
    os.rename(other, aside)
    try:
        _effect("exchange", other)
        os.rename(one, other)
    except BaseException:
        os.rename(aside, other)
        raise
    _effect("exchange", one)
    os.rename(aside, one)
    return False


def change_mode(path: str, mode: int) -> None:
    """Set the permission bits of a file or directory."""
    _effect("chmod", path)
    os.chmod(path, mode)


def seal_directory(path: str) -> None:
    """Let nobody but root change what names a directory has, and date it: its mtime then tells of what root did."""
    _effect("chmod", path)
    os.utime(path, ns=(SEALED_AT, SEALED_AT))
    os.chmod(path, _SEALED)


def remove_file(path: str) -> bool:
    """Remove one name (unlink(2)). Returns whether it was there."""
    _effect("unlink", path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def remove_directory(path: str) -> bool:
    """Remove a directory (rmdir(2)) unless there is something in it. Returns whether it is gone."""
    _effect("rmdir", path)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        return False
    return True


def write_file(path: str, data: bytes, *, mode: int = 0o644, sync: bool = False) -> None:
    """Write a new file; ``mode`` is exact, whatever the umask.

    Raises:
        FileExistsError: ``path`` is there already.
    """
    with NewFile(path, mode=mode) as file:
        file.write(data)
        if sync:
            file.sync()


def append(path: str, data: bytes) -> int:
    """Write bytes at the end of a file in one go (write(2), O_APPEND), made where it is not there.

    Returns:
        How many bytes it has now.

    Raises:
        OSError: That cannot be done, or not with all of them.
    """
    _effect("append", path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o644)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def replace_file(path: str, data: bytes) -> None:
    """Put a file in the place of another, or where none is, in one step; one that is there lends its mode.

    Raises:
        OSError: That cannot be done; what was there is as it was.
    """
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        mode = 0o644
    temporary = f"{path}.{unique_name()}"
    try:
        write_file(temporary, data, mode=mode)
        rename(temporary, path)
    except BaseException:
        remove_file(temporary)
        raise


def append_line(path: str, data: bytes) -> None:
    """Add a line to a file, which is made where there is none, in one write(2): lines of many do not mix.

    Args:
        path: The file.
        data: The line, with its end.

    Raises:
        OSError: It cannot be opened, is a link, or has no room for all of the line.
    """
    _effect("append", path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o640)
    try:
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(descriptor)


class NewFile:
    """A new file, open for writing in a ``with`` block; ``mode`` is exact, whatever the umask.

    Raises:
        FileExistsError: ``path`` is there already, also as a dangling symlink.
    """

    __slots__ = ("_descriptor", "_mode", "_path", "size")

    def __init__(self, path: str, *, mode: int = 0o644) -> None:
        _effect("write", path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, 0o600)
        self._mode = mode
        self._path = path
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes; ``size`` counts them."""
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._descriptor, view)
                self.size += written
                view = view[written:]
        except OSError as error:
            error.filename = self._path
            raise

    def allocate(self, size: int) -> None:
        """Take ``size`` bytes from the disk, which are then the file's, whatever comes (posix_fallocate(3)).

        A file system that only promises them, as one that copies on write may, gets bytes that it cannot compress.

        Raises:
            OSError: There is no room.
        """
        _effect("allocate", self._path)
        try:
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
                error.filename = self._path
                raise
        if os.fstat(self._descriptor).st_blocks * BLOCK < size:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self.write(os.urandom(size))

    @property
    def descriptor(self) -> int:
        """The open file."""
        return self._descriptor

    def sync(self) -> None:
        """Bring what was written onto the disk (fsync(2))."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            error.filename = self._path
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                os.fchmod(self._descriptor, self._mode)
        finally:
            os.close(self._descriptor)


def overwrite(descriptor: int, path: str, data: bytes) -> None:
    """Write over the beginning of an open file, which neither grows nor shrinks where it is long enough."""
    _effect("overwrite", path)
    view = memoryview(data)
    offset = 0
    while offset < len(view):
        offset += os.pwrite(descriptor, view[offset:], offset)


def stamp(path: str) -> bool:
    """Set both times of a file to now (utimensat(2)); returns whether it is there.

    On a file that may not be changed, because it is somebody else's or the mount is read-only, it does nothing.
    """
    _effect("stamp", path)
    try:
        os.utime(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise
        return os.path.exists(path)
    return True


def set_times(path: str, accessed: int, modified: int) -> None:
    """Set both times of a file (utimensat(2)), nanoseconds since the epoch."""
    _effect("utime", path)
    os.utime(path, ns=(accessed, modified))


def hard_link(source: str, path: str, *, place: str | None = None) -> None:
    """Give ``source`` (a regular file or a symlink, itself) a further name ``path``.

    ``place`` is where that is going to be renamed to, if it is.

    Where the file system or the kernel does not let us (too many links, another owner, another device), a
    symlink is made anew, a regular file of up to 64 KiB is copied, and a larger one is linked to by a symlink.

    Raises:
        FileExistsError: ``path`` is there already.
    """
    if not _try_to_link(source, path):
        _imitate_link(source, path, place or path)


def _try_to_link(source: str, path: str) -> bool:
    _effect("link", path)
    try:
        os.link(source, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NOT_LINKABLE:
            raise
        return False
    return True


def _imitate_link(source: str, path: str, place: str) -> None:
    found = os.lstat(source)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source), path)
    elif found.st_size <= COPY_LIMIT:
        with open(source, "rb") as stream, NewFile(path, mode=stat.S_IMODE(found.st_mode)) as file:
            file.write(stream.read())
    else:
        # Relative, so that the store can be moved as a whole. The directory of `place` may have been renamed
        # into place by then; both parents lie at the depth that they will have.
        os.symlink(os.path.relpath(source, os.path.dirname(place)), path)


def hard_link_or_copy(source: str, path: str) -> None:
    """Give a regular file a further name, or make a copy of it where that is not possible; see ``hard_link``.

    Raises:
        FileExistsError: ``path`` is there already.
    """
    if not _try_to_link(source, path):
        # Never setuid or setgid: the copy may have another owner.
        copy_file(source, path, mode=stat.S_IMODE(os.lstat(source).st_mode) & 0o777)


_CLONE = 0x40049409
"""ioctl_ficlone(2): let a file share the blocks of another until one of them is written."""


def copy_file(source: str, path: str, *, mode: int | None = None, follow: bool = False) -> None:
    """Copy a regular file, as a clone where the file system can share blocks.

    Args:
        source: The file.
        path: The new file.
        mode: Its permission bits; by default those of the source, and writable for the owner.
        follow: The source may be a link to the file, as in an entry that is borrowed.

    Raises:
        FileExistsError: ``path`` is there already.
    """
    import fcntl  # noqa: PLC0415 - not on the path of a hit

    with open(_regular(source, 0 if follow else os.O_NOFOLLOW), "rb") as stream:
        found = os.fstat(stream.fileno())
        bits = stat.S_IMODE(found.st_mode) & 0o777 | stat.S_IWUSR if mode is None else mode
        with NewFile(path, mode=bits) as file:
            try:
                fcntl.ioctl(file.descriptor, _CLONE, stream.fileno())
            except OSError:  # EOPNOTSUPP, EXDEV, EINVAL, ENOTTY: as many reasons as file systems
                while data := stream.read(_CHUNK):
                    file.write(data)


def link_new(source: str, path: str) -> None:
    """Give a file a further name (link(2)), which nobody has taken yet.

    Raises:
        FileExistsError: ``path`` is there already.
    """
    _effect("link", path)
    os.link(source, path)


def sync_filesystem(path: str, descriptor: int | None = None) -> None:
    """Bring everything written so far to the file system of ``path`` onto its disk (syncfs(2), else sync(2)).

    Args:
        path: A directory there.
        descriptor: The same, opened before anything was written: the kernel tells each open file once of what could
            not be written since it was opened, so that one that is opened now may be told nothing.
    """
    _effect("sync", path)
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if descriptor is None else descriptor
    try:
        _syncfs(opened)
    except OSError as error:
        error.filename = path
        raise
    finally:
        if descriptor is None:
            os.close(opened)


def _syncfs(descriptor: int) -> None:
    import ctypes  # noqa: PLC0415 - 5 ms that only a publication pays

    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError):  # a libc without it
        os.sync()
        return
    if call(descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


_DEEPEST = 64
"""How many directories are open at a time while a tree is removed."""

_ROUNDS = 8
"""How often a tree is emptied again into which somebody was still putting something."""

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str, *, freed: Callable[[int], object] | None = None) -> None:
    """Remove a directory and all below it, sealed or not, or a single file, without ever following a symlink.

    Works through descriptors (openat(2), unlinkat(2)), so that a directory swapped for a link between looking
    and removing leads nowhere. Does nothing where ``path`` is not there. A tree may be of any depth, and have any
    names in it.

    What is mounted in the tree, be it the same file system once more, is not gone into, nor is a subvolume. That,
    and what else cannot be removed, is left, and all the rest goes.

    Args:
        path: What is to go.
        freed: Told of everything that has gone how many bytes came back: its blocks, if that was its last link.

    Raises:
        OSError: Something is left; the error is about the first such thing, and ``filename`` says where it is.
            ``EXDEV`` or ``EBUSY`` where something is mounted.
    """
    parent = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _Removal(parent, freed).remove(os.path.basename(path), path)
    except FileNotFoundError:
        pass
    finally:
        os.close(parent)


class _Removal:
    """The removal of one tree, which stays on the mount and on the file system of the directory that it is in."""

    __slots__ = ("_failure", "_freed", "_parent", "_place", "_top")

    def __init__(self, parent: int, freed: Callable[[int], object] | None) -> None:
        self._parent = parent
        self._freed = freed
        self._place = _place(parent)
        self._top = -1
        self._failure: OSError | None = None

    def remove(self, name: str, path: str) -> None:
        """Remove ``name`` of the parent directory; ``path`` is what errors and effects call it."""
        descriptor = self._open(self._parent, name, path)
        if descriptor is None:
            self._unlink(self._parent, name, path)
            return
        self._top = descriptor
        try:
            size = self._size(descriptor)
            for _ in range(_ROUNDS):
                self._empty_all(path)
                _effect("rmdir", path)
                try:
                    os.rmdir(name, dir_fd=self._parent)
                except OSError as error:
                    # A rename that had found its way before the tree got its dead name, as of a pyc.
                    if error.errno != errno.ENOTEMPTY:
                        raise
                else:
                    self._count(size)
                    return
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        finally:
            os.close(descriptor)

    def _empty_all(self, path: str) -> None:
        # Whatever is too deep comes back up here, to be emptied in the next round.
        moved = True
        while moved:
            self._failure = None
            moved = self._empty(self._top, path, depth=0)
        if self._failure is not None:
            raise self._failure

    def _empty(self, descriptor: int, path: str, *, depth: int) -> bool:
        """Remove all that is in an open directory; returns whether something was moved to the top instead."""
        moved = False
        # An ordinary user can only remove from a directory with write permission; entries are sealed 0555. Where
        # that cannot be given, as of somebody else's, removing will tell whether it matters.
        try:  # noqa: SIM105 - contextlib is not on the path of a hit
            os.fchmod(descriptor, 0o700)
        except OSError:
            pass
        with os.scandir(descriptor) as found:
            children = [(child.name, child.is_dir(follow_symlinks=False)) for child in found]
        for name, is_directory in children:
            child = f"{path}/{name}"
            try:
                inner = self._open(descriptor, name, child) if is_directory else None
                if inner is None:
                    self._unlink(descriptor, name, child)
                    continue
                try:
                    size = self._size(inner)
                    if depth >= _DEEPEST:
                        # Moving a directory changes its `..`, for which an ordinary user has to be able to write to it.
                        os.fchmod(inner, 0o700)
                        _effect("rename", child)
                        os.rename(name, unique_name(), src_dir_fd=descriptor, dst_dir_fd=self._top)
                        moved = True
                        continue
                    moved = self._empty(inner, child, depth=depth + 1) or moved
                finally:
                    os.close(inner)
                _effect("rmdir", child)
                os.rmdir(name, dir_fd=descriptor)
                self._count(size)
            except OSError as error:
                self._left(error, child)
        return moved

    def _unlink(self, parent: int, name: str, path: str) -> None:
        size = 0
        if self._freed is not None:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            size = found.st_blocks * BLOCK if found.st_nlink == 1 else 0
        _effect("unlink", path)
        os.unlink(name, dir_fd=parent)
        self._count(size)

    def _size(self, descriptor: int) -> int:
        """Return the bytes of an open directory, which has to be asked before it is emptied."""
        return 0 if self._freed is None else os.fstat(descriptor).st_blocks * BLOCK

    def _count(self, size: int) -> None:
        if self._freed is not None and size:
            self._freed(size)

    def _left(self, error: OSError, path: str) -> None:
        """Note that something stays. What is gone already is no failure; what is not empty was, or has one below."""
        if self._failure is None and error.errno not in {errno.ENOENT, errno.ENOTEMPTY}:
            error.filename = path
            self._failure = error

    def _open(self, parent: int, name: str, path: str) -> int | None:
        """Open a directory itself; None for anything else, a symlink to a directory among it.

        Raises:
            OSError: ``EXDEV``: it is on another mount or file system, and nothing of it was touched.
        """
        try:
            descriptor = os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=parent)
        except PermissionError:
            self._open_up(parent, name, path)
            descriptor = os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                return None
            raise
        try:
            self._check_place(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _open_up(self, parent: int, name: str, path: str) -> None:
        """Give the owner of a directory back the permission that somebody took away."""
        found = os.open(name, os.O_PATH | _DIRECTORY, dir_fd=parent)
        try:
            self._check_place(found, path)
            _effect("chmod", path)
            # chmod(2) on a path follows links, and there is no fchmod(2) for what cannot be read.
            os.chmod(f"/proc/self/fd/{found}", 0o700)
        finally:
            os.close(found)

    def _check_place(self, descriptor: int, path: str) -> None:
        if _place(descriptor) != self._place:
            raise OSError(errno.EXDEV, "it is a mount point or a subvolume, and is left alone", path)


def _place(descriptor: int) -> tuple[int, int | bytes]:
    """Return on which file system and on which mount an open directory is: its device, and what names its mount.

    The device alone does not tell a file system that is mounted a second time. What the kernel says of the open
    file itself does, whatever is renamed, mounted or swapped meanwhile: statx(2), since Linux 5.8; before that
    proc(5), at three times the price. Without either the device has to do.
    """
    device = os.fstat(descriptor).st_dev
    mount = _Statx.mount(descriptor)
    if mount is not None:
        return device, mount
    try:
        information = os.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return device, b""
    try:
        lines = os.read(information, 1024).splitlines()
    finally:
        os.close(information)
    return device, next((line for line in lines if line.startswith(b"mnt_id:")), b"")


class _Statx:
    """statx(2), which Python has no name for before 3.15; loaded when the first tree is removed."""

    _EMPTY_PATH = 0x1000
    _MOUNT = 0x1000
    _MASK = slice(0, 4)
    _MOUNT_FIELD = slice(0x90, 0x98)

    _call: Callable[[int, bytes, int, int, object], int] | None = None
    _loaded = False

    @classmethod
    def mount(cls, descriptor: int) -> int | None:
        """Return the number of the mount that an open file was reached by; None where nobody can tell."""
        if not cls._loaded:
            cls._loaded = True
            cls._call = cls._load()
        if cls._call is None:
            return None
        import ctypes  # noqa: PLC0415

        found = ctypes.create_string_buffer(256)
        if cls._call(descriptor, b"", cls._EMPTY_PATH, cls._MOUNT, found) != 0:
            return None
        if not int.from_bytes(found.raw[cls._MASK], sys.byteorder) & cls._MOUNT:
            return None
        return int.from_bytes(found.raw[cls._MOUNT_FIELD], sys.byteorder)

    @staticmethod
    def _load() -> Callable[[int, bytes, int, int, object], int] | None:
        try:
            import ctypes  # noqa: PLC0415 - 5 ms that only a removal pays

            return getattr(ctypes.CDLL(None), "statx", None)
        except (ImportError, OSError, MemoryError):  # not built, or not allowed to make memory executable
            return None
