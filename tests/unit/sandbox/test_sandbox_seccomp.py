"""The filter of system calls, run by an interpreter that was written from the kernel's description of it."""

import struct

import pytest

from k15.sandbox.seccomp import MACHINES, filter_program

ALLOW, KILL = 0x7FFF0000, 0x80000000
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NUMBERS = {
    "x86_64": {
        "read": 0, "write": 1, "mmap": 9, "socket": 41, "clone": 56, "fork": 57, "execve": 59, "fcntl": 72, "flock": 73,
        "ptrace": 101, "personality": 135, "mount": 165, "reboot": 169, "ioctl": 16, "keyctl": 250, "unshare": 272,
        "bpf": 321, "execveat": 322, "io_uring_setup": 425, "clone3": 435, "socketpair": 53, "kill": 62, "futex": 202,
        "process_vm_writev": 311, "memfd_create": 319,
    },
    "aarch64": {
        "read": 63, "write": 64, "mmap": 222, "socket": 198, "clone": 220, "execve": 221, "fcntl": 25, "flock": 32,
        "ptrace": 117, "personality": 92, "mount": 40, "reboot": 142, "ioctl": 29, "keyctl": 219, "unshare": 97,
        "bpf": 280, "execveat": 281, "io_uring_setup": 425, "clone3": 435, "socketpair": 199, "kill": 129, "futex": 98,
        "process_vm_writev": 271, "memfd_create": 279,
    },
}  # fmt: skip


def errno(number):
    return 0x00050000 | number


def interpret(program, arch, number, arguments=()):
    """What a filter answers to a call: struct seccomp_data is nr, arch, instruction pointer, six arguments."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number, arch, 0, *(a & (2**64 - 1) for a in padded))
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    for _ in range(10_000):
        code, yes, no, value = instructions[at]
        at += 1
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            [accumulator] = struct.unpack_from("<I", data, value)
        elif code == 0x06:  # BPF_RET | BPF_K
            return value
        else:  # BPF_JMP with JEQ, JGE or JSET, against K
            test = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }
            at += yes if test[code] else no
    raise AssertionError("the filter does not end")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("read", (), ALLOW),
        ("write", (), ALLOW),
        ("mmap", (), ALLOW),
        ("execve", (), ALLOW),
        ("execveat", (), ALLOW),
        ("kill", (), ALLOW),
        ("futex", (), ALLOW),
        ("memfd_create", (), ALLOW),
        ("clone", (0x01200011,), ALLOW),  # fork
        ("clone", (0x003D0F00,), ALLOW),  # a thread
        ("clone", (0x10000011,), KILL),  # CLONE_NEWUSER
        ("clone", (0x00020011,), KILL),  # CLONE_NEWNS
        ("clone", (0x40000011,), KILL),  # CLONE_NEWNET
        ("clone3", (), errno(38)),
        ("unshare", (0x10000000,), KILL),
        ("ptrace", (16, 1), KILL),
        ("process_vm_writev", (), KILL),
        ("mount", (), KILL),
        ("keyctl", (), KILL),
        ("bpf", (), KILL),
        ("reboot", (), errno(1)),
        ("io_uring_setup", (), errno(38)),
        ("socket", (1, 1), ALLOW),
        ("socket", (2, 1), ALLOW),
        ("socket", (10, 2), ALLOW),
        ("socket", (16, 3), errno(97)),
        ("socket", (40, 1), KILL),  # AF_VSOCK
        ("socket", (38, 5), KILL),  # AF_ALG
        ("socket", (17, 3), KILL),  # AF_PACKET
        ("socket", (2**32 + 2, 1), ALLOW),  # the kernel looks at the low half
        ("socket", (2**32 + 40, 1), KILL),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (40, 1), KILL),
        ("ioctl", (0, 0x5401), ALLOW),  # TCGETS
        ("ioctl", (0, 0x5412), errno(1)),  # TIOCSTI
        ("ioctl", (0, 2**32 + 0x5412), errno(1)),
        ("personality", (0xFFFFFFFF,), ALLOW),
        ("personality", (0,), ALLOW),
        ("personality", (0x0040000,), errno(1)),  # ADDR_NO_RANDOMIZE
        ("fcntl", (3, 1), ALLOW),  # F_GETFD
        ("fcntl", (3, 6), errno(1)),  # F_SETLK
        ("fcntl", (3, 1024), errno(1)),  # F_SETLEASE
        ("flock", (3, 2), errno(1)),
    ],
)
def test_calls(machine, name, arguments, answer):
    program = filter_program("run", machine)
    assert interpret(program, ARCHES[machine], NUMBERS[machine][name], arguments) == answer


@pytest.mark.parametrize("machine", MACHINES)
def test_a_compiler_may_lock_files_and_nothing_else(machine):
    run, build = filter_program("run", machine), filter_program("compile", machine)
    for number in range(460):
        for argument in (0, 1, 6, 7, 37, 38, 1024):
            call = (ARCHES[machine], number, (3, argument))
            if number in (NUMBERS[machine]["flock"], NUMBERS[machine]["fcntl"]) and argument not in (
                0,
                1,
                1024,
            ):
                assert interpret(build, *call) == ALLOW
                assert interpret(run, *call) == errno(1)
            elif number != NUMBERS[machine]["flock"]:
                assert interpret(build, *call) == interpret(run, *call)


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_processor_mode_are_killed(machine):
    program = filter_program("run", machine)
    assert interpret(program, 0x40000003, 1) == KILL  # 32-bit x86
    if machine == "x86_64":
        assert interpret(program, ARCHES[machine], 0x40000000 + 1) == KILL  # x32


def test_an_unknown_processor_has_no_filter():
    assert filter_program("run", "riscv64") is None
