"""Which system calls a box may make: a seccomp filter, assembled here so that no library is needed.

A deny list, after the default profile of container runtimes and that of the `isolate` judge. What no
honest program needs kills the process (verdict SV); what runtimes probe for fails with an error.
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass
from typing import Literal

Profile = Literal["run", "compile"]

# name: (x86-64, AArch64); -1 where the processor does not have the call
_KILLED = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "setns": (308, 268),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_REFUSED = {
    "_sysctl": (156, -1),
    "acct": (163, 89),
    "clock_settime": (227, 112),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, -1),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "process_madvise": (440, 440),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "vhangup": (153, 58),
}
# As on a kernel without them: runtimes fall back. The flags of clone3 lie in memory that a filter cannot read.
_MISSING = {
    "clone3": (435, 435),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
}
_BY_ARGUMENT = {
    "clone": (56, 220),
    "fcntl": (72, 25),
    "flock": (73, 32),
    "ioctl": (16, 29),
    "personality": (135, 92),
    "socket": (41, 198),
    "socketpair": (53, 199),
}

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: the box's own loopback
_NETLINK = 16  # probed by C libraries; they go on without
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_PERSONALITIES = (0, 0xFFFFFFFF)  # Linux as usual; a question
# Locks and leases on files that other boxes see too would carry messages between them.
_LEASES = (1024, 1026)  # F_SETLEASE, F_NOTIFY
_LOCKS = (6, 7, 37, 38)  # F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW

_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def _errno(number: int) -> int:
    return 0x00050000 | number


@dataclass(frozen=True, slots=True)
class Machine:
    """What differs between processors: the audit name, and the column of the table above."""

    audit: int
    column: int


MACHINES = {"x86_64": Machine(0xC000003E, 0), "aarch64": Machine(0xC00000B7, 1)}


def filter_program(profile: Profile, machine: str | None = None) -> bytes | None:
    """The filter as an array of `struct sock_filter`, or None for a processor that has no table here.

    Args:
        profile: "compile" lets the build tools lock files; everything else is the same.
        machine: as `platform.machine()` says it; None = this one.
    """
    known = MACHINES.get(machine or platform.machine())
    return None if known is None else _Assembler(known).assemble(profile)


class _Assembler:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._code: list[bytes] = []

    def assemble(self, profile: Profile) -> bytes:
        self._load(4)  # the processor's mode: no 32-bit calls
        self._emit(_JUMP_EQUAL, self._machine.audit, yes=1)
        self._return(_KILL)
        self._load(0)
        if self._machine.column == 0:  # nor those of x32
            self._emit(_JUMP_GREATER_EQUAL, 0x40000000, no=1)
            self._return(_KILL)
        for table, action in ((_KILLED, _KILL), (_REFUSED, _errno(_EPERM)), (_MISSING, _errno(_ENOSYS))):
            for numbers in table.values():
                self._deny(numbers, action)
        self._arguments(profile)
        self._return(_ALLOW)
        return b"".join(self._code)

    def _arguments(self, profile: Profile) -> None:
        """The calls whose arguments decide."""
        self._inspect("clone", 0, _JUMP_ANY_BIT, (_NEW_NAMESPACES,), _KILL)
        for name in ("socket", "socketpair"):
            self._inspect(name, 0, _JUMP_EQUAL, (_NETLINK,), _errno(_EAFNOSUPPORT))
            self._inspect(name, 0, _JUMP_EQUAL, _FAMILIES, _ALLOW, otherwise=_KILL)
        self._inspect("ioctl", 1, _JUMP_EQUAL, (_TIOCSTI, _TIOCLINUX), _errno(_EPERM))
        self._inspect("personality", 0, _JUMP_EQUAL, _PERSONALITIES, _ALLOW, otherwise=_errno(_EPERM))
        locks = _LOCKS if profile == "run" else ()
        self._inspect("fcntl", 1, _JUMP_EQUAL, _LEASES + locks, _errno(_EPERM))
        if profile == "run":
            self._deny(_BY_ARGUMENT["flock"], _errno(_EPERM))

    def _deny(self, numbers: tuple[int, int], action: int) -> None:
        number = numbers[self._machine.column]
        if number >= 0:
            self._emit(_JUMP_EQUAL, number, no=1)
            self._return(action)

    def _inspect(
        self,
        name: str,
        argument: int,
        test: int,
        values: tuple[int, ...],
        action: int,
        *,
        otherwise: int | None = None,
    ) -> None:
        """`action` if the low half of an argument passes the test for one of the values."""
        number = _BY_ARGUMENT[name][self._machine.column]
        # load; two instructions a value; then the other action, or the number again for what follows
        self._emit(_JUMP_EQUAL, number, no=2 * len(values) + 2)
        self._load(16 + 8 * argument)
        for value in values:
            self._emit(test, value, no=1)
            self._return(action)
        if otherwise is None:
            self._load(0)
        else:
            self._return(otherwise)

    def _load(self, offset: int) -> None:
        self._emit(_LOAD, offset)

    def _return(self, action: int) -> None:
        self._emit(_RETURN, action)

    def _emit(self, code: int, value: int, *, yes: int = 0, no: int = 0) -> None:
        self._code.append(struct.pack("<HBBI", code, yes, no, value))
