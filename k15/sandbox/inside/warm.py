"""Boxes with Python already started. Each is used once.

This program runs in a box of its own that has the rights to make namespaces, and nothing else. Asked on
file descriptor 3, it forks: the child makes a box inside of this one (user, mount, process, network and
all other namespaces, files and process table of its own), says that it is ready, and waits. When its job
comes it gives up every right, installs its filter of system calls, and forks once more; that process
takes its limits and becomes the program. The box's first process stays behind only to report how it ended.

    a job    one message: file descriptors (the content, standard input, output, error, and 3 and 4 if
             there are any), and a JSON object about them
    reply    one JSON object a line: {"ready": true}, {"started": true}, {"exit-code": N, "cpu": seconds}
"""

import atexit
import ctypes
import fcntl
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
import traceback
import types

NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    32,
    4096,
    16384,
    1 << 18,
)
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 22, 38, 47
BOX_USER = 1000
DEFAULT_DISK_MB = 16
# What most programs import, so that they need not read it again.
PRELOADED = (
    "argparse array base64 bisect collections copy dataclasses datetime decimal enum fractions functools "
    "hashlib heapq importlib.util inspect io itertools json math numbers operator queue random re "
    "statistics string struct textwrap time typing unicodedata"
)

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), what + ": " + os.strerror(ctypes.get_errno()))


def mount(source, target, kind, flags, data=""):
    check(
        libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()),
        "mount " + target,
    )


def serve():
    """Until the other end is closed: one prepared box for each socket that comes."""
    channel = socket.socket(fileno=3)
    with open("/box/filter", "rb") as file:
        program = file.read()
    for name in PRELOADED.split():
        __import__(name)
    gc.collect()
    gc.freeze()  # collections in the children need not write to what they share
    channel.send(b"ready")
    while True:
        data, files, _, _ = socket.recv_fds(channel, 16, 1)
        if not data:
            return
        child = os.fork()
        if child == 0:
            channel.close()
            try:
                separate(socket.socket(fileno=files[0]), program)
            finally:
                os._exit(1)
        os.close(files[0])
        os.waitpid(child, 0)


def separate(channel, program):
    """New namespaces; their first process prepares the box, this one is done."""
    user, group = os.getuid(), os.getgid()
    try:
        check(libc.unshare(NEW_NAMESPACES), "unshare")
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{BOX_USER} {user} 1"),
            ("gid_map", f"{BOX_USER} {group} 1"),
        ):
            with open("/proc/self/" + name, "w") as file:
                file.write(text)
        if os.fork() == 0:
            prepare(channel, program)
    except OSError as error:
        report(channel, {"error": str(error)})
    os._exit(0)


def prepare(channel, program):
    """The box's first process: mounts, then waits for its job."""
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
    for name in ("tmp", "dev/shm", "box", "dev/pts"):
        size = "size=4k" if name == "dev/pts" else f"size={DEFAULT_DISK_MB}m"
        mount("tmpfs", "/" + name, "tmpfs", MS_NOSUID | MS_NODEV, size + ",mode=755")
    with socket.socket() as probe:  # the loopback device is down in a new network
        fcntl.ioctl(probe, 0x8914, struct.pack("16sh22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    os.chdir("/tmp")
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    report(channel, {"ready": True})
    data, files, _, _ = socket.recv_fds(channel, 1 << 16, 8)
    if not data:
        os._exit(0)
    job = json.loads(data.decode())
    unpack(job, files[0])
    give_up(program)
    program_id = os.fork()
    if program_id == 0:
        become(job, files[1:])
    for file in files:
        os.close(file)
    report(channel, {"started": True})
    while True:
        ended, status = os.wait()
        if ended == program_id:
            break
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    report(channel, {"exit-code": code, "cpu": spent.ru_utime + spent.ru_stime})
    os._exit(0)


def unpack(job, content):
    """The job's files into /box, which is read-only from then on."""
    for name, length, mode in job["files"]:
        target = os.open("/box/" + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        while length:
            length -= os.sendfile(target, content, None, length)
        os.close(target)
    mount("none", "/box", "none", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    if job["disk_mb"] != DEFAULT_DISK_MB:
        for name in ("/tmp", "/dev/shm"):
            mount("none", name, "none", MS_REMOUNT | MS_NOSUID | MS_NODEV, f"size={job['disk_mb']}m")


def give_up(program):
    """No rights from here on, for this process and those to come, and the filter of system calls."""
    for number in range(64):
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)  # PR_CAP_AMBIENT_CLEAR_ALL
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    check(libc.capset(header, b"\0" * 24), "capset")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if program:
        code = ctypes.create_string_buffer(program, len(program))
        filters = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
        check(libc.prctl(PR_SET_SECCOMP, 2, filters, 0, 0), "seccomp")


def become(job, files):
    """The program's process: its limits, files and environment; then the program."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number + 100, inheritable=False)
    for number in range(len(files)):
        os.dup2(number + 100, number)
    os.closerange(len(files), 1024)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # as a program started anew has them
        signal.signal(number, signal.SIG_IGN)
    for kind, value in job["limits"]:
        most = resource.getrlimit(kind)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    os.environ.clear()
    os.environ.update(job["env"])
    run(job["argv"])


def run(argv):
    """The file argv[0] as the main program, and the end of the process as the interpreter would end it."""
    code = 1
    try:
        code = execute(argv)
    finally:
        try:
            threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                if stream is not None and not stream.closed:
                    stream.flush()
        except BaseException:
            code = code or 120
        os._exit(code)


def execute(argv):
    sys.argv = argv
    sys.path[0] = os.path.dirname(argv[0])
    main = types.ModuleType("__main__")
    main.__file__ = argv[0]
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    try:
        with open(argv[0], "rb") as file:
            code = compile(file.read(), argv[0], "exec")
        exec(code, main.__dict__)
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        behind = error.__traceback__.tb_next if error.__traceback__ else None  # without this function
        traceback.print_exception(type(error), error, behind)
        return 1
    return 0


def report(channel, message):
    channel.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    serve()
