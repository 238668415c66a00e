"""Where a node listens, as text: `tcp:HOST:PORT` and `unix:PATH`; and the sockets of the latter.

Decides how an address is read, and what happens to a socket file that is there already: one that
nobody listens on is replaced, a live one is an error that names it, anything else is left alone.

Invariants: a socket file appears under its name only once its socket listens, so whoever finds the
name and is refused knows that its owner is dead; of two starting at once, one gets the name.

Paths of any length work: the operating system allows only about a hundred bytes in a socket
address, so longer ones are reached through an open directory. Does not know: event loops, messages.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final

from bokilog.errors import InvalidSettings

# The length of `sun_path`, less its terminating zero.
UNIX_PATH_BYTES_MAX: Final = 107 if sys.platform == "linux" else 103
_OPEN_FILES = "/proc/self/fd"
_TRIES_MAX: Final = 8  # each failure needs another process that started or stopped in between
_PORT_MAX: Final = 2**16 - 1

_numbers = count(1)  # makes the names of temporary files in this process differ


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host (name or number) and a port; port 0 lets the operating system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Read `tcp:HOST:PORT` (IPv6 in brackets) or `unix:PATH`.

    >>> parse_address("tcp:[::1]:7300")
    TcpAddress(host='::1', port=7300)

    Raises:
        InvalidSettings: it is neither.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest and "\0" not in rest:
        return UnixAddress(rest)
    host, _, port = rest.rpartition(":")
    if scheme == "tcp" and host and port.isascii() and port.isdigit() and int(port) <= _PORT_MAX:
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed or ":" not in host:
            return TcpAddress(host[1:-1] if bracketed else host, int(port))
    raise InvalidSettings("address", repr(text), "is neither tcp:HOST:PORT nor unix:PATH")


def in_use(address: str) -> OSError:
    """The error of listening where another process does."""
    return OSError(errno.EADDRINUSE, f"{address} is in use: another process listens there")


def listen_unix(path: str, *, backlog: int) -> socket.socket:
    """A socket that listens at `path`, replacing what a dead process left there.

    Raises:
        OSError: another process listens there (EADDRINUSE), a file of another kind is there
            (EEXIST), or the directory does not allow it.
    """
    temporary = _beside(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _reachable(temporary) as short:
            listening.bind(short)
        try:
            listening.listen(backlog)
            listening.setblocking(False)
            _publish(temporary, path)
        finally:
            _remove(temporary)
    except BaseException:
        listening.close()
        raise
    return listening


def connect_unix(path: str) -> socket.socket:
    """A socket connected to `path`, without waiting.

    Raises:
        BlockingIOError: the listener's queue is full for now.
        OSError: nobody listens there.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        with _reachable(path) as short:
            connected.connect(short)
    except BaseException:
        connected.close()
        raise
    return connected


def file_identity(path: str) -> tuple[int, int] | None:
    """What tells the file at `path` from a later one of that name; None if there is none."""
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def remove_if_same(path: str, identity: tuple[int, int] | None) -> None:
    """Remove the socket file at `path` unless another process has put its own there."""
    if identity is not None and file_identity(path) == identity:
        _remove(path)


def _publish(temporary: str, path: str) -> None:
    """Give the listening socket its name, which is the moment it can be found."""
    for _ in range(_TRIES_MAX):
        try:
            _move_exclusively(temporary, path)
            return
        except FileExistsError:
            if _someone_listens(path):
                raise in_use(f"unix:{path}") from None
            _remove_stale(path)
    raise in_use(f"unix:{path}")


def _move_exclusively(temporary: str, path: str) -> None:
    try:
        os.link(temporary, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # No hard links here: a rename would replace a live socket, so look first.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.rename(temporary, path)


def _someone_listens(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is no socket; it is left alone", path)
        connect_unix(path).close()
    except BlockingIOError:
        return True
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    return True


def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on.

    1. We find the file stale. 2. Another process, starting too, replaces it by its own. 3. We must
    not remove that one: so it is taken aside first, looked at again, and put back if it lives.
    """
    aside = _beside(path)
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    try:
        if _someone_listens(aside):
            _move_exclusively(aside, path)
    except FileExistsError:
        pass  # a third process took the name meanwhile; it is the one that keeps it
    finally:
        _remove(aside)


def _beside(path: str) -> str:
    """A short free name in the directory of `path`."""
    return os.path.join(os.path.dirname(path), f".{os.getpid():x}-{next(_numbers):x}.sock")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


@contextmanager
def _reachable(path: str) -> Iterator[str]:
    """A path to the same file that fits into a socket address, valid inside the block."""
    if len(os.fsencode(path)) <= UNIX_PATH_BYTES_MAX:
        yield path
        return
    directory, name = os.path.split(path)
    if os.path.isdir(_OPEN_FILES):
        descriptor = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield _checked(f"{_OPEN_FILES}/{descriptor}/{name}", path)
        finally:
            os.close(descriptor)
        return
    # The default directory for temporary files is itself long on some systems.
    root = "/tmp" if os.path.isdir("/tmp") else None
    with tempfile.TemporaryDirectory(prefix="bokilog-", dir=root) as private:
        link = os.path.join(private, "d")
        os.symlink(os.path.abspath(directory), link)
        yield _checked(f"{link}/{name}", path)


def _checked(short: str, path: str) -> str:
    if len(os.fsencode(short)) > UNIX_PATH_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, "the file name is too long for a unix socket", path)
    return short
