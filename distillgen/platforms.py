"""What Linux, macOS and Windows do differently: locks, processor cores, limits, processes."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import re
import signal
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

try:
    import fcntl
    import resource
except ImportError:
    WINDOWS = True
else:
    WINDOWS = False

NETWORK_FILE_SYSTEMS = (
    "nfs", "cifs", "smb", "ceph", "lustre", "gpfs", "beegfs", "afs", "ocfs2", "gfs2", "glusterfs",
    "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.juicefs",
)  # fmt: skip
"""How the types of file systems begin on which files of several machines may lie, as Linux calls them."""

_OCTAL = re.compile(r"\\([0-7]{3})")  # how mountinfo writes a space
_RETRY_S = 0.1
_LOCKED_BYTE = 1 << 30  # a byte that no file has: a locked byte cannot be read on Windows


def lock(file: int | None, *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file until it is closed; raise BlockingIOError when another process holds the lock.

    On Windows every lock is exclusive. None stands for a folder on Windows, which cannot be locked.
    """
    if file is None:
        return
    if not WINDOWS:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        return
    msvcrt = importlib.import_module("msvcrt")
    os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
    while True:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if not wait:
                raise BlockingIOError(*error.args) from error
            time.sleep(_RETRY_S)
        else:
            return


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[int | None]:
    """Open a folder, to lock it; give None on Windows, where a folder cannot be opened."""
    if WINDOWS:
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_cores() -> int:
    """Return how many cores were busy in the last minute; 0 on Windows, which does not count them."""
    return round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0


def allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may: each connection is one."""
    if not WINDOWS:
        _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError):  # macOS refuses "unlimited"
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))


def network_file_system(folder: Path, mounts: str | None = None) -> str:
    """Return the type of the network file system that a folder is on, such as "nfs4", or an empty text.

    Linux tells it in `mounts`, the text of /proc/self/mountinfo; elsewhere the answer is always empty.
    """
    try:
        mounts = mounts or Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    place, deepest, kind = folder.resolve(), -1, ""
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        point = Path(_OCTAL.sub(lambda code: chr(int(code[1], 8)), mount.split()[4]))
        if len(point.parts) >= deepest and place.is_relative_to(point):
            deepest, kind = (
                len(point.parts),
                source.split()[0],
            )  # of two mounts on one folder, the later is seen
    return kind if kind.startswith(NETWORK_FILE_SYSTEMS) else ""


def kills_for_memory(counters: str | None = None) -> int | None:
    """Return how many processes the kernel has killed because memory ran out; None where it does not say.

    Linux tells it in `counters`, the text of /proc/vmstat, for all containers of the machine.
    """
    try:
        counters = counters or Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return None
    counts = dict(line.split() for line in counters.splitlines())
    return int(counts["oom_kill"]) if "oom_kill" in counts else None


def how_ended(code: int, kills_before: int | None) -> str:
    """Say how a process ended, by its exit code, negative for a signal, and the kernel's count before it."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
    if name != "SIGKILL":
        return f"crashed ({name})"
    kills = kills_for_memory()
    if kills is None or kills_before is None:
        return "was killed (was there enough memory?)"
    if kills > kills_before:
        return "was killed by the kernel because memory ran out: take a smaller batch, model or max_length"
    return "was killed by somebody (SIGKILL); memory had not run out"


@cache
def machine() -> str:
    """Return a name that two processes share if the numbers of processes mean the same to both: of the last
    start of the machine and the container on Linux, else of the machine.
    """
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{start} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def has_ended(process: int) -> bool:
    """Whether the process of this number on this machine is known to have ended. Windows does not say."""
    if WINDOWS:  # where os.kill(process, 0) would send Ctrl-C
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        pass
    return False
