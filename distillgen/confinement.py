"""Processes with almost no rights (Linux): for code that nobody trusts, and for files from anywhere.

The process may read the files of Python and write only into its empty working directory (Landlock). It may
not open a connection, start a process, send a signal or change the attributes of a file (seccomp). Its time,
its memory and the size of its files are limited. It starts without environment variables and without the file
descriptors of its parent. It can still find out whether a path exists.

This needs no user namespaces, which many containers and distributions forbid. The process runs this file,
too, so the file imports only the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import runpy
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

with suppress(ImportError):  # Windows, which cannot confine a process, has no such module
    import resource


MOST = sys.maxsize // 2  # of any limit; the system takes no larger number


@dataclass(frozen=True)
class Limits:
    """The limits of one process: `timeout_s` is wall-clock time; `written_mb` holds for each file and for all
    together.
    """

    timeout_s: float = 10.0
    cpu_s: int = 5
    memory_mb: int = 1024
    written_mb: int = 16
    open_files: int = 64
    threads: bool = False
    """Whether it may begin threads where it cannot be confined, and so also processes."""


class Unconfined(Exception):
    """The process could not be confined, and was ended."""


FINISHED, EXITED, TIMED_OUT, WROTE_TOO_MUCH = (
    "finished",
    "left before the end of the tests",
    "ran out of time",
    "wrote too much",
)


def lacking() -> list[str]:
    """Return what this machine lacks to confine a process; nothing if it can."""
    if platform.system() != "Linux":
        return [f"Linux (this is {platform.system()})"]
    missing = (
        []
        if _landlock_version() > 0
        else ["Landlock (Linux 5.13 or newer, with 'landlock' among its security modules)"]
    )
    return missing if _seccomp() else [*missing, "libseccomp.so.2 (apt install libseccomp2)"]


def run(
    program: Path,
    job: Mapping[str, Any],
    *,
    limits: Limits,
    stdin: IO[bytes] | None = None,
    confined: bool = True,
    environment: Mapping[str, str] | None = None,
) -> tuple[str, str, bytes]:
    """Return how a process ended, its output and its report. Raise Unconfined if it could not be confined.

    `program` is a Python file with a function `start`. It gets the job before the process is confined, and
    returns what is called afterwards, with the file descriptor of the report. Job, output and report pass
    through files, because a pipe can block.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="distillgen-"))
        job_file, report_file, output_file = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        job_file.write(
            json.dumps(
                {
                    **job,
                    "limits": asdict(limits),
                    "confined": confined,
                    "folder": folder,
                    "parent": os.getpid(),
                }
            ).encode()
        )
        job_file.seek(0)
        descriptors = (job_file.fileno(), report_file.fileno())
        isolation = ["-s", "-P"] if environment else ["-I"]  # -I ignores the environment
        command = [sys.executable, *isolation, "-B", "-X", "utf8", __file__, str(program)]
        process = subprocess.Popen(
            [*command, *map(str, descriptors)],
            cwd=folder,
            env=dict(environment or {}),
            stdin=stdin or subprocess.DEVNULL,
            stdout=output_file,
            stderr=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
        )
        ending = _watch(process, Path(folder), limits)
        report_file.seek(0)
        output_file.seek(0)
        report = report_file.read(limits.written_mb << 20)
        if "unconfined" in (problem := message(report[:10_000])):
            raise Unconfined(problem["unconfined"])
        return ending, output_file.read(limits.written_mb << 20).decode("utf-8", "replace"), report


def _watch(process: subprocess.Popen[bytes], folder: Path, limits: Limits) -> str:
    """Wait until the process ends, or kill it at its limits; return how it ended."""
    deadline, pause = time.monotonic() + limits.timeout_s, 0.002
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                return TIMED_OUT
            if _size(folder) > limits.written_mb << 20:
                return WROTE_TOO_MUCH
            time.sleep(pause)
            pause = min(0.05, 1.3 * pause)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode == -signal.SIGXCPU:
        return TIMED_OUT
    return FINISHED if process.returncode == 0 else EXITED


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += 4096 + os.lstat(os.path.join(parent, name)).st_size
    return total


def message(content: bytes) -> Mapping[str, Any]:
    """Return the JSON object in a report; an empty one if it is none."""
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# In the confined process


def _inside(program: str, job_fd: int, report_fd: int) -> NoReturn:
    with os.fdopen(job_fd) as file:
        job = json.load(file)
    _end_with(job["parent"])
    work = runpy.run_path(program)["start"](job)
    try:
        limit(Limits(**job["limits"]))
        if job["confined"]:
            confine(job["folder"])
        elif not job["limits"]["threads"]:
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    except OSError as error:
        os.write(report_fd, json.dumps({"unconfined": str(error)}).encode())
        os._exit(1)
    work(report_fd)
    sys.stdout.flush()
    os._exit(0)


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent is killed, which then cannot do it. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def limit(limits: Limits) -> None:
    """Set the limits of this process."""
    limit_memory(limits.memory_mb)
    _limit(
        resource.RLIMIT_CPU, limits.cpu_s, spare=1
    )  # a second to spare, so that SIGXCPU comes before SIGKILL and tells the reason
    _limit(resource.RLIMIT_FSIZE, limits.written_mb << 20)
    _limit(resource.RLIMIT_NOFILE, limits.open_files)
    _limit(resource.RLIMIT_MEMLOCK, 0)


def limit_memory(memory_mb: int) -> None:
    """Limit the memory of this process, and forbid core dumps."""
    _limit(resource.RLIMIT_AS, memory_mb << 20)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(name: int, most: int, spare: int = 0) -> None:
    _, before = resource.getrlimit(name)
    most = min(most, MOST)
    hard = most + spare if before == resource.RLIM_INFINITY else min(most + spare, before)
    resource.setrlimit(name, (min(most, hard), hard))


def confine(folder: str | None = None) -> None:
    """Leave this process only the rights to compute, to read the files of Python, and to write into `folder`.

    Raise OSError if the system refuses one of the steps.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _need(libc.prctl(38, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    _restrict_files(folder)
    nothing = struct.pack(
        "<IiIIIIII", 0x20080522, 0, 0, 0, 0, 0, 0, 0
    )  # capset: version 3, this process, no capabilities
    _need(libc.capset(nothing[:8], nothing[8:] + bytes(8)), "capset")
    _restrict_calls()


_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on all architectures
_READ, _READ_FILE, _WRITE_FILE, _TRUNCATE = 0b1100, 0b100, 0b10, 0x4000
_ALL_BY_VERSION = (0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF)  # access rights that versions 1, 2, … know


def _landlock(number: int, *arguments: Any) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments))


def _landlock_version() -> int:
    return _landlock(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)


def _restrict_files(folder: str | None) -> None:
    version = _landlock_version()
    everything = _ALL_BY_VERSION[max(0, min(version, len(_ALL_BY_VERSION)) - 1)]
    # files; from version 4 TCP; from version 6 abstract sockets and signals to other processes
    rules = struct.pack("<QQQ", everything, 0b11, 0b11)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules_fd = _need(
        _landlock(_LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), 0), "landlock_create_ruleset"
    )
    readable = {
        sys.prefix,
        sys.base_prefix,
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/share/zoneinfo",
    }
    allowed = {
        **dict.fromkeys(readable, _READ),
        "/dev/null": _READ_FILE | _WRITE_FILE | _TRUNCATE,
        "/dev/urandom": _READ_FILE,
    }
    for path, access in {**allowed, **({folder: everything} if folder else {})}.items():
        with suppress(FileNotFoundError):
            path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("<Qi", access & everything, path_fd)
            _need(_landlock(_LANDLOCK_ADD, rules_fd, 1, rule, 0), f"landlock_add_rule {path}")
            os.close(path_fd)
    _need(_landlock(_LANDLOCK_RESTRICT, rules_fd, 0), "landlock_restrict_self")
    os.close(rules_fd)


_REFUSED = """socket io_uring_setup fork vfork execve execveat kill tkill tgkill rt_sigqueueinfo
    rt_tgsigqueueinfo pidfd_open pidfd_send_signal pidfd_getfd ptrace process_vm_readv
    process_vm_writev process_madvise kcmp unshare setns truncate chmod fchmod fchmodat chown fchown
    lchown fchownat utime utimes utimensat futimesat setxattr lsetxattr fsetxattr removexattr
    lremovexattr fremovexattr open_by_handle_at name_to_handle_at setpriority sched_setaffinity
    sched_setscheduler sched_setparam sched_setattr ioprio_set migrate_pages move_pages shmget msgget
    semget mq_open memfd_create memfd_secret userfaultfd bpf perf_event_open keyctl add_key
    request_key sync syncfs""".split()
_REFUSED_BY_NUMBER = (
    452,
    463,
    466,
    469,
)  # fchmodat2, setxattrat, removexattrat, file_setattr: too new for some libseccomp
_THREAD = 0x10000  # CLONE_THREAD
_EQUAL, _NOT_EQUAL, _MASKED_EQUAL = 4, 1, 7
_REFUSED_WITH = (
    ("clone", 0, _MASKED_EQUAL, _THREAD, 0),
    ("prlimit64", 0, _NOT_EQUAL, 0, 0),
    *(
        ("fcntl", 1, _EQUAL, command, 0) for command in (8, 10, 15)
    ),  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals to others
)
"""Calls that are refused with certain arguments: name, argument, comparison, its two operands."""


class _Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def _seccomp() -> Any:
    """Return libseccomp; None if it is not installed."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    return library


def _restrict_calls() -> None:
    """Refuse the system calls that the process does not need with EPERM, and clone3 with ENOSYS, on which
    libc uses clone.
    """
    library = _seccomp()
    if library is None:
        raise OSError("libseccomp.so.2 is missing")
    allow, refuse = ctypes.c_uint32(0x7FFF0000), 0x00050000
    context = ctypes.c_void_p(library.seccomp_init(allow))
    numbers = [library.seccomp_syscall_resolve_name(name.encode()) for name in _REFUSED]
    rules: list[tuple[int, int, list[_Comparison]]] = [
        (n, errno.EPERM, []) for n in (*numbers, *_REFUSED_BY_NUMBER)
    ]
    rules += [(library.seccomp_syscall_resolve_name(b"clone3"), errno.ENOSYS, [])]
    rules += [
        (library.seccomp_syscall_resolve_name(n.encode()), errno.EPERM, [_Comparison(*c)])
        for n, *c in _REFUSED_WITH
    ]
    for number, error, comparisons in rules:
        if number == -1:  # a call that this libseccomp does not know
            continue
        comparison_array = (_Comparison * len(comparisons))(*comparisons)
        action = ctypes.c_uint32(refuse | error)
        _need(
            library.seccomp_rule_add_array(context, action, number, len(comparison_array), comparison_array),
            "seccomp_rule_add",
        )
    _need(library.seccomp_load(context), "seccomp_load")


def _need(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno() or -result
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    _inside(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
