"""Programs that attack what judges them: A25, A27, A28, A30, A31, A44, A51-A58, A60, A62-A66, A70-A72, and
invariant I7. Each must end without pay, whatever it claims."""

import socket
import statistics
import threading
import time
from dataclasses import replace

import pytest

from k15.errors import ConfigError
from k15.sandbox.base import (
    AssertTest,
    CallTest,
    Job,
    Limits,
    Program,
    RunVerdict,
    StdinTest,
)
from k15.sandbox.wire import BoxSpec

OK, WA, RE, TLE, MLE, PE, SV, XX = (
    RunVerdict(name) for name in ("OK", "WA", "RE", "TLE", "MLE", "PE", "SV", "XX")
)
LIMITS = Limits(cpu_seconds=1.0, wall_seconds=5.0, memory_mb=128)
SECRET = "q7Xs9ZkLw2"


def prints(attacked, code, stdin="", expected="42"):
    return attacked.run(Job(Program("python", code), (StdinTest(stdin, expected),), limits=LIMITS))


def calls(attacked, code, *tests, entry_point="f"):
    return attacked.run(Job(Program("python", code), tests, entry_point=entry_point, limits=LIMITS))


@pytest.mark.parametrize(
    ("code", "verdicts"),
    [
        ("import os; os._exit(0)", {WA}),
        ("import sys; sys.exit(0)", {WA}),
        ("exit()", {WA}),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            {RE, WA},
        ),  # the first process of a box lives on
        ("import os; os._exit(137)", {RE}),
        ("raise SystemExit('42')", {RE}),
        ("print('42'); raise SystemExit(3)", {RE}),
        ("print('OK'); print('PASSED'); print('{\"exit-code\": 0}')", {WA}),
    ],
)
def test_a25_an_exit_code_is_no_answer(attacked, code, verdicts):
    assert prints(attacked, code).verdict in verdicts


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "def f(x):\n    import os; os._exit(0)",
        "def f(x):\n    raise SystemExit(0)",
        "import threading, os\ndef f(x):\n    threading.Thread(target=os._exit, args=(0,)).start()\n"
        "    while True: pass",
    ],
)
@pytest.mark.parametrize("test", [CallTest((1,), 1), AssertTest("assert candidate(1) == 1")])
def test_a25_a_function_that_ends_the_process_has_not_returned(attacked, code, test):
    result = calls(attacked, code, test)
    assert result.verdict is RE, result


def test_a27_what_is_expected_is_nowhere_in_the_box(attacked):
    # It looks through every file it may read, its environment, its arguments and its own memory.
    code = f"""
import glob, os, sys
secret = {SECRET[:5]!r} + {SECRET[5:]!r}
found = []
for folder in ("/box", "/tmp", "/dev/shm", "/etc", "/proc/self", "/proc/1", "/"):
    for path in glob.glob(folder + "/*"):
        if os.path.isfile(path) and not path.endswith(("/kmsg", "/kcore", "kpagecount", "kpageflags", "kpagecgroup",
                                                       "sysrq-trigger", "/pagemap", "/mem")):
            try: data = open(path, "rb").read(1 << 20)
            except OSError: continue
            if secret.encode() in data: found.append(path)
for line in open("/proc/self/maps"):
    low, high = (int(part, 16) for part in line.split()[0].split("-"))
    if "r" not in line.split()[1] or "[v" in line: continue
    try:
        with open("/proc/self/mem", "rb") as memory:
            memory.seek(low)
            data = memory.read(min(high - low, 1 << 24))
    except (OSError, ValueError, OverflowError): continue
    if data.count(secret.encode()) > 40: found.append("memory")
print(found)
"""
    result = prints(attacked, code, expected=SECRET * 100)
    assert result.verdict is WA
    assert result.tests[0].stdout == "[]\n", result.tests[0]


def test_a28_a_link_in_the_place_of_the_compilers_result_brings_nothing_of_the_host(attacked):
    for trick in (
        "ln -s /etc/shadow /tmp/out",
        "ln -s /proc/1/root/etc/shadow /tmp/out",
        "mkdir /tmp/out",
        "ln -s /proc/self/environ /tmp/out",
    ):
        spec = BoxSpec(
            ("sh", "-c", f"{trick}; cat /tmp/out >&3"),
            LIMITS,
            env={"PATH": "/usr/bin:/bin"},
            result_bytes=1 << 20,
        )
        [raw] = attacked.sandbox.client.run([spec])
        assert not raw.fault
        assert b"root" not in raw.result


def test_a28_a_pipe_in_the_place_of_the_compilers_result_ends_at_the_limit(attacked):
    spec = BoxSpec(
        ("sh", "-c", "mkfifo /tmp/out; cat /tmp/out >&3"),
        replace(LIMITS, wall_seconds=1.0),
        env={"PATH": "/usr/bin:/bin"},
        result_bytes=1 << 20,
    )
    [raw] = attacked.sandbox.client.run([spec])
    assert raw.stopped_by == "wall"


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "a\nb", "-rf", "x" * 4096, "\udcff", "", ".", "..", "k15_call.py"]
)
def test_a30_a_file_beside_the_program_has_a_plain_name(attacked, name):
    job = Job(Program("python", "", {name: b""}), (StdinTest(),), limits=LIMITS)
    with pytest.raises(ConfigError, match="plain name"):
        attacked.run(job)


def test_a31_an_archive_is_not_unpacked(attacked):
    code = "import os\nprint(sorted(n for n in os.listdir('/box') if not n.startswith('k15')))"
    files = {"a.tar": b"../../etc/passwd\0", "b.zip": b"PK\x03\x04"}
    job = Job(
        Program("python", code, files), (StdinTest("", "['a.tar', 'b.zip', 'main.py']"),), limits=LIMITS
    )
    assert attacked.run(job).verdict is OK


def test_a44_services_of_the_host_cannot_be_reached(attacked):
    name = f"k15-test-{time.time_ns()}"
    servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
    servers[1].bind(f"\0{name}")
    servers[1].listen()
    code = f"""
import socket
for family, address in (
    (socket.AF_INET, ("127.0.0.1", {servers[0].getsockname()[1]})),
    (socket.AF_UNIX, "\\0{name}"),
):
    try:
        socket.socket(family).connect(address)
        print("in")
    except OSError as error: print("refused")
"""
    try:
        assert prints(attacked, code, expected="refused\nrefused").verdict is OK
        for server in servers:
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()
    finally:
        for server in servers:
            server.close()


ALWAYS_EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __len__(self): return 1
    def __iter__(self): return iter([self])
    def __bool__(self): return True
"""


@pytest.mark.parametrize(
    "code",
    [
        ALWAYS_EQUAL + "def f(x): return Equal()",
        ALWAYS_EQUAL + "def f(x): return [Equal()]",
        ALWAYS_EQUAL.replace("class Equal:", "class Equal(int):") + "def f(x): return Equal(7)",
        ALWAYS_EQUAL.replace("class Equal:", "class Equal(str):") + "def f(x): return Equal('7')",
        "from unittest.mock import MagicMock\ndef f(x): return MagicMock()",
        "def f(x):\n    import sys\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in list(frame.f_locals.values()):\n"
        "            if isinstance(value, dict) and 'expected' in value: return value['expected']\n"
        "        frame = frame.f_back\n    return 7",
        "def f(x):\n    import gc\n    for o in gc.get_objects():\n"
        "        if isinstance(o, dict) and 'expected' in o: return o['expected']\n    return 7",
    ],
)
@pytest.mark.parametrize("test", [CallTest((1,), 12345), AssertTest("assert candidate(1) == 12345")])
def test_a51_a52_what_is_expected_is_not_in_that_process(attacked, code, test):
    assert calls(attacked, code, test).verdict in (WA, RE)


@pytest.mark.parametrize(
    "code",
    [
        "import json\njson.dumps = lambda *a, **k: '{\"value\": true}'\ndef f(x): return 7",
        "import builtins, sys\nbuiltins.print = lambda *a: None\nsys.stdout = None\ndef f(x): return 7",
        "import unittest, sys\nunittest.TestCase.assertEqual = lambda *a: None\nsys.modules['pytest'] = None\n"
        "def f(x): return 7",
        "import os\ndef f(x):\n    for n in range(3, 64):\n"
        "        try: os.write(n, b'{\"value\": true}\\n')\n        except OSError: pass\n    return 7",
        "import os\ndef f(x):\n    for n in range(3, 64):\n"
        '        try: os.write(n, b\'["value", {"list": [true]}]\\n\' * 100)\n'
        "        except OSError: pass\n    return 7",
        "import sys\nfor name in list(sys.modules): sys.modules.get('k15_values')\n"
        "m = sys.modules.get('k15_values')\nif m: m.pack = lambda v: b'{\"list\": [\"value\", true]}\\n'\n"
        "def f(x): return 7",
        "def f(x):\n    print('passed'); print('<testsuite failures=\"0\"/>'); print('OK'); return 7",
        "open('/tmp/conftest.py', 'w').write('x')\nopen('/tmp/pytest.ini', 'w').write('x')\ndef f(x): return 7",
        "import os\nfor name in os.listdir('/box'):\n    try: os.unlink('/box/' + name)\n    except OSError: pass\n"
        "    try: open('/box/' + name, 'w')\n    except OSError: pass\ndef f(x): return 7",
    ],
)
@pytest.mark.parametrize(
    "test",
    [CallTest((1,), 12345), AssertTest("assert candidate(1) == 12345\nassert candidate(1) == 12345")],
)
def test_a53_to_a58_a_harness_that_was_tampered_with_brings_no_pay(attacked, code, test):
    assert calls(attacked, code, test).verdict in (WA, RE, PE)


def test_a60_every_test_sees_the_same_box(attacked):
    code = "import os, sys\nprint(sorted(os.environ.items()), sys.argv, os.getcwd(), sorted(os.listdir('/box')))"
    job = Job(Program("python", code), (StdinTest("1"), StdinTest("2"), StdinTest("3")), limits=LIMITS)
    assert len({test.stdout for test in attacked.run(job).tests}) == 1


@pytest.mark.parametrize(
    "code",
    [
        "def g(x): return 1",
        "f = 5",
        "class Solution: pass",
        "f = 'def f(x): return 1'",
        "def f(): return 1",
        "def f(x:",
    ],
)
@pytest.mark.parametrize("test", [CallTest((1,), 1), AssertTest("assert candidate(1) == 1")])
def test_a62_without_the_function_there_is_no_answer(attacked, code, test):
    assert calls(attacked, code, test).verdict is RE


@pytest.mark.parametrize(
    ("code", "verdicts"),
    [
        ("import itertools\ndef f(x): return itertools.count()", {RE}),
        ("def f(x): return (i for i in range(3))", {RE}),
        ("class A:\n    def __repr__(self): return 'x' * 10**12\ndef f(x): return A()", {RE}),
        (
            "class A(dict):\n    def items(self):\n        while True: yield ('a', 1)\ndef f(x): return A(a=1)",
            {TLE, MLE, RE, WA},
        ),
        ("class A(float):\n    def __repr__(self): return '12345'\ndef f(x): return A(7)", {WA}),
        ("def f(x):\n    a = []\n    a.append(a)\n    return a", {RE}),
        ("def f(x): return [[]] * 3 + [float('nan')]", {WA}),
        ("def f(x): return 'x' * 10**8", {MLE, RE, RunVerdict.OLE}),
        ("def f(x): return lambda: 12345", {RE}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("test", [CallTest((1,), 12345), AssertTest("assert candidate(1) == 12345")])
def test_a63_values_that_are_no_plain_data(attacked, code, verdicts, test):
    assert calls(attacked, code, test).verdict in verdicts


def test_a63_deep_data_does_not_break_the_tester(attacked):
    code = "def f(x):\n    v = []\n    for _ in range(5000): v = [v]\n    return v"
    for test in (CallTest((1,), 12345), AssertTest("assert candidate(1) == 12345")):
        assert calls(attacked, code, test).verdict in (RE, WA, PE)


def test_a65_a_right_answer_among_ten_million_blanks(attacked):
    job = Job(
        Program("python", "import sys\nsys.stdout.write(' ' * 10**7 + '42' + '\\r\\n' * 1000)"),
        (StdinTest("", "42"),),
        limits=replace(LIMITS, output_bytes=1 << 24),
    )
    assert attacked.run(job).verdict is OK


def test_a66_a_wrong_answer_is_not_tried_again(attacked):
    code = "import time\nprint(time.time_ns())"
    result = prints(attacked, code)
    assert result.verdict is WA
    assert len(result.tests) == 1


def test_a70_all_tests_or_nothing(attacked):
    result = attacked.run(
        Job(Program("python", "print(42)"), (StdinTest("1", "42"), StdinTest("2", "43")), limits=LIMITS)
    )
    assert (result.verdict, result.num_passed) == (WA, 1)


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nprint('bwrap: Creating new namespace failed', file=sys.stderr); sys.exit(1)",
        "import sys\nprint('k15: OSError: no', file=sys.stderr); sys.exit(127)",
        "import os, signal\nos.kill(-1, signal.SIGKILL); os.kill(os.getpid(), signal.SIGKILL)",
        "import os\nfor n in range(64):\n    try: os.close(n)\n    except OSError: pass\nos._exit(1)",
        'import os\nfor n in range(64):\n    try: os.write(n, b\'{"error": "ours"}\\n\')\n    except OSError: pass',
        "import os, signal\nos.kill(1, signal.SIGSEGV); os.kill(os.getppid(), signal.SIGABRT)\nos._exit(1)",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1, 1))\nkept = bytearray(10**7)",
        "import ctypes\nctypes.string_at(0)",
    ],
)
def test_a71_breaking_the_box_does_not_make_it_our_fault(attacked, code):
    assert prints(attacked, code).verdict in (WA, RE, MLE, SV, TLE)


def test_a71_an_output_that_breaks_the_checker_is_to_blame_for_it(attacked):
    checker = Program("python", "import sys\nprint(int(open(sys.argv[2]).read()))\nsys.exit(0)")
    for output, verdict in (("42", OK), ("x", PE)):
        job = Job(
            Program("python", f"print({output!r})"),
            (StdinTest("", "7"),),
            limits=LIMITS,
            checker=checker,
        )
        assert attacked.run(job).verdict is verdict
    broken = Program("python", "raise ValueError")
    job = Job(Program("python", "print(1)"), (StdinTest("", "7"),), limits=LIMITS, checker=broken)
    assert attacked.run(job).verdict is XX


def test_a72_time_on_the_wall_is_not_judged(attacked):
    code = "import time\ntime.sleep(1.0)\nprint(42)"
    job = Job(
        Program("python", code), (StdinTest("", "42"),), limits=Limits(cpu_seconds=0.5, wall_seconds=8.0)
    )
    assert attacked.run(job).verdict is OK


def test_i7_a_neighbour_hardly_notices(attacked):
    # CPU time is what is judged: that of an ordinary run beside a box that does its worst.
    work = "sum(i * i for i in range(300000)); print(42)"
    alone = [prints(attacked, work).tests[0].cpu_seconds for _ in range(7)]
    hog = Job(
        Program(
            "python",
            "import os\nfor _ in range(20):\n    if os.fork() == 0: break\nwhile True: bytearray(1 << 20)",
        ),
        (StdinTest("", ""),),
        limits=Limits(cpu_seconds=20.0, wall_seconds=4.0, memory_mb=256),
    )
    thread = threading.Thread(target=attacked.run, args=(hog,))
    thread.start()
    time.sleep(0.5)
    beside = []
    while thread.is_alive() and len(beside) < 7:
        result = prints(attacked, work)
        if result.verdict is OK:
            beside.append(result.tests[0].cpu_seconds)
    thread.join()
    assert beside
    assert statistics.median(beside) < 1.5 * statistics.median(alone) + 0.02
