"""Boxes with Python already started. Each is used once.

This program runs in a box of its own that has the rights to make namespaces, and nothing else. Asked on
file descriptor 3, it forks: the child makes a box inside of this one (mounts, network, process table and
all other namespaces of its own), says that it is ready, and waits. When its job comes it becomes another
user, gives up every right, takes its limits and its filter of system calls, and is the program.

    a job    one message: file descriptors (the content, standard input, output, error, and 3 and 4 if
             there are any), and a JSON object about them
    reply    one JSON object a message: {"ready": true}, {"started": true}, and, from this program,
             {"exit-code": N, "cpu": seconds}; or {"error": "..."}
"""

import atexit
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import types

NEW_PROCESSES, NEW_USER = 0x20000000, 0x10000000
NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x40000000  # all others
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    32,
    4096,
    16384,
    1 << 18,
)
PR_CAPBSET_DROP, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 22, 38, 47
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
    """Until the other end is closed: one prepared box for each socket that comes; and how each box ended."""
    channel = socket.socket(fileno=3)
    with open("/box/filter", "rb") as file:
        program = file.read()
    for name in PRELOADED.split():
        __import__(name)
    own_processes = os.open("/proc/self/ns/pid", os.O_RDONLY)
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()  # collections in the children need not write to what they share
    channel.send(b"ready")
    boxes = {}
    while True:
        readable, _, _ = select.select([channel, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            report_ended(boxes)
        if channel in readable:
            data, files, _, _ = socket.recv_fds(channel, 16, 8)
            if not data:
                return
            box = socket.socket(fileno=files[0])
            # The next child, and nobody else, is the first process of a new process table.
            check(libc.unshare(NEW_PROCESSES), "unshare")
            child = os.fork()
            if child == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                is_placed = enter(files[1:])
                os.dup2(box.detach(), 3, inheritable=False)
                os.closerange(4, 1024)  # the sockets of other boxes are among them
                be_a_box(socket.socket(fileno=3), program, is_placed)
            check(libc.setns(own_processes, NEW_PROCESSES), "setns")
            boxes[child] = box
            for door in files[1:]:
                os.close(door)


def report_ended(boxes):
    """Tell how boxes ended that have."""
    while boxes:
        child, status, usage = os.wait4(-1, os.WNOHANG)
        if child == 0:
            return
        box = boxes.pop(child)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        with contextlib.suppress(OSError):  # nobody listens any more
            report(box, {"exit-code": code, "cpu": usage.ru_utime + usage.ru_stime})
        box.close()


def enter(doors):
    """Into the slot's control group, if its files were sent and the kernel lets their holder in."""
    try:
        for door in doors:
            os.write(door, b"0")
    except OSError:
        return False
    return bool(doors)


def be_a_box(channel, program, is_placed):
    """The box's first process: namespaces and mounts; then it waits for its job, and becomes the program."""
    try:
        prepare()
        report(channel, {"ready": True, "placed": is_placed})
        data, files, _, _ = socket.recv_fds(channel, 1 << 16, 8)
        if not data:
            os._exit(0)
        job = json.loads(data.decode())
        unpack(job, files[0])
        give_up(program)
        become(job, files[1:], channel)
    except Exception as error:
        report(channel, {"error": repr(error)})
        os._exit(1)
    run(job["argv"])


def prepare():
    """Everything of its own. The new user comes last, so that it has no right to undo what was mounted."""
    check(libc.unshare(NEW_NAMESPACES), "unshare")
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV)
    for name in ("tmp", "dev/shm", "box", "dev/pts"):
        size = "size=4k" if name == "dev/pts" else f"size={DEFAULT_DISK_MB}m"
        owner = f",mode=755,uid={os.getuid()},gid={os.getgid()}"
        mount("tmpfs", "/" + name, "tmpfs", MS_NOSUID | MS_NODEV, size + owner)
    with socket.socket() as probe:  # the loopback device is down in a new network
        fcntl.ioctl(probe, 0x8914, struct.pack("16sh22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    os.chdir("/tmp")


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
    """Another user, no rights from here on, and the filter of system calls."""
    user, group = os.getuid(), os.getgid()
    check(libc.unshare(NEW_USER), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{BOX_USER} {user} 1"),
        ("gid_map", f"{BOX_USER} {group} 1"),
    ):
        with open("/proc/self/" + name, "w") as file:
            file.write(text)
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


def become(job, files, channel):
    """The program's files, limits and environment; from here on what goes wrong is the program's."""
    os.setsid()
    os.environ.clear()
    os.environ.update(job["env"])
    for kind, value in job["limits"]:
        most = resource.getrlimit(kind)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))
    report(channel, {"started": True})
    for number, file in enumerate(files):
        os.dup2(file, number + 100, inheritable=False)
    for number in range(len(files)):
        os.dup2(number + 100, number)
    os.closerange(len(files), 1024)


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
