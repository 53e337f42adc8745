"""Real boxes: languages, tests of every kind, limits, and a few attacks. The whole list is in tests/sandbox."""

import contextlib
import os
import signal
import threading
import time

import pytest

from k15.config.sandbox import SandboxConfig
from k15.errors import ConfigError, SandboxError
from k15.sandbox.attacks import ATTACKS, run_attacks
from k15.sandbox.base import (
    AssertTest,
    CallTest,
    Comparison,
    Job,
    Limits,
    Program,
    RunVerdict,
    StdinTest,
)
from k15.sandbox.build import make_sandbox
from k15.sandbox.isolated import IsolatedSandbox
from k15.sandbox.languages import LANGUAGES

OK, WA, RE, TLE, MLE, PE, CE, XX = (
    RunVerdict(name) for name in ("OK", "WA", "RE", "TLE", "MLE", "PE", "CE", "XX")
)
DOUBLE = {
    "python": "print(int(input()) * 2)",
    "cpp": "#include <iostream>\nint main() { int a; std::cin >> a; std::cout << 2 * a << std::endl; }",
    "c": '#include <stdio.h>\nint main(void) { int a; scanf("%d", &a); printf("%d", 2 * a); return 0; }',
    "javascript": "console.log(2 * parseInt(require('fs').readFileSync(0, 'utf8')))",
    "java": "import java.util.*; public class Twice { public static void main(String[] a) {"
    " System.out.println(2 * new Scanner(System.in).nextInt()); } }",
    "bash": "read a; echo $((a * 2))",
    "go": 'package main\nimport "fmt"\nfunc main() { var a int; fmt.Scan(&a); fmt.Println(2 * a) }',
}
LIMITS = Limits(cpu_seconds=1.0, memory_mb=128)


def run(boxes, code, *tests, **more):
    more.setdefault("limits", LIMITS)
    return boxes.run(Job(Program("python", code), tests, **more))


@pytest.mark.parametrize("language", DOUBLE)
def test_a_program_in_each_language(boxes, language):
    if missing := LANGUAGES[language].missing(None):
        pytest.skip(f"not on this host: {', '.join(missing)}")
    tests = (StdinTest("21", "42"), StdinTest("4", "9"), StdinTest("-1", "-2"))
    result = boxes.run(Job(Program(language, DOUBLE[language]), tests))
    assert [test.verdict for test in result.tests] == [OK, WA, OK], result
    assert result.verdict is WA
    assert (result.compilation is not None) == bool(LANGUAGES[language].compile)


def test_every_language_is_tried():
    assert set(DOUBLE) == set(LANGUAGES)


def test_what_does_not_compile(boxes):
    if LANGUAGES["cpp"].missing(None):
        pytest.skip("not on this host: g++")
    result = boxes.run(Job(Program("cpp", "int main() { return x; }"), (StdinTest("", ""),)))
    assert (result.verdict, result.tests) == (CE, ())
    assert "was not declared" in result.compilation.stderr


def test_a_language_that_is_not_there_is_named_with_its_package(tmp_path):
    sandbox = IsolatedSandbox(SandboxConfig(images={"java": tmp_path}))
    with pytest.raises(ConfigError, match=r"java needs java, javac.*Install the package default-jdk"):
        sandbox.run(Job(Program("java", ""), (StdinTest(),)))


def test_a_function_is_called_with_json(boxes):
    code = (
        "def f(a, b):\n    print('noise')\n    return (a + b, [a])\n"
        "class Solution:\n    def g(self, s): return {s: None}"
    )
    assert run(boxes, code, CallTest((1, 2), [3, [1]]), entry_point="f").verdict is OK
    assert run(boxes, code, CallTest((1, 2), [4, [1]]), entry_point="f").verdict is WA
    assert run(boxes, code, CallTest(("x",), {"x": None}), entry_point="Solution.g").verdict is OK
    result = run(boxes, "def f(): return True", CallTest((), 1), entry_point="f")
    assert (result.verdict, result.tests[0].value) == (WA, True)
    near = Comparison(absolute=1e-9)
    assert run(boxes, "def f(): return 0.1 + 0.2", CallTest((), 0.3), entry_point="f").verdict is WA
    assert (
        run(
            boxes, "def f(): return 0.1 + 0.2", CallTest((), 0.3), entry_point="f", comparison=near
        ).verdict
        is OK
    )


def test_assertions_run_beside_the_program_not_in_it(boxes):
    code = (
        "def f(a, b=0):\n    if a is None: raise KeyError\n"
        "    return (a, {b}, b'x', 1 + 2j, {1: [a]}, frozenset([a]))"
    )
    right = "for i in range(20):\n    assert candidate(i, b=3) == (i, {3}, b'x', 1 + 2j, {1: [i]}, frozenset([i]))\n"
    verdicts = {
        right: OK,
        "assert f('é', 'b')[0] == 'é'": OK,
        "assert candidate(1) == 2": WA,
        "assert candidate(None)": RE,
        "try: candidate(None)\nexcept Exception: pass": RE,
        "raise ValueError": WA,
        "import sys; sys.exit(0)": WA,
        "candidate.__wrapped__": WA,
    }
    result = run(boxes, code, *map(AssertTest, verdicts), entry_point="f")
    assert [test.verdict for test in result.tests] == list(verdicts.values())
    assert "expected" not in str(result)


def test_a_checker_decides_where_many_outputs_are_right(boxes):
    # 0 right, 1 wrong, 2 unreadable, 3 the checker failed.
    checker = Program(
        "python",
        "import sys\ninput, output, answer = (open(name).read() for name in sys.argv[1:4])\n"
        "try: a, b = map(int, output.split())\nexcept ValueError: sys.exit(2)\n"
        "if answer != 'any': sys.exit(3)\nsys.exit(0 if a + b == int(input) else 1)",
    )
    for output, answer, verdict in (
        ("3 7", "any", OK),
        ("7 3", "any", OK),
        ("7 4", "any", WA),
        ("seven", "any", PE),
        ("3 7", "", XX),
    ):
        result = run(boxes, f"print({output!r})", StdinTest("10", answer), checker=checker)
        assert result.verdict is verdict, result


def test_files_stand_beside_the_program_and_cannot_be_changed(boxes):
    code = (
        "import helper, os\nprint(helper.x, open(os.path.dirname(__file__) + '/data.txt').read())\n"
        "try: open('/box/data.txt', 'w')\nexcept OSError: print('read-only')"
    )
    program = Program("python", code, {"helper.py": b"x = 1", "data.txt": "é".encode()})
    result = boxes.run(Job(program, (StdinTest("", "1 é\nread-only"),), limits=LIMITS))
    assert result.verdict is OK, result


def test_large_input_and_output_pass(boxes):
    text = "x" * 3_000_000
    result = run(
        boxes,
        "import sys; sys.stdout.write(sys.stdin.buffer.read().decode())",
        StdinTest(text, text),
        limits=Limits(output_bytes=1 << 22),
    )
    assert result.verdict is OK
    assert run(boxes, "print('done')", StdinTest(text, "done")).verdict is OK  # a program need not read


def test_the_numbers_of_a_run(boxes):
    code = (
        "import time\nkept = bytearray(40 << 20)\nend = time.process_time() + 0.2\n"
        "while time.process_time() < end: pass"
    )
    [test] = run(boxes, code, StdinTest("", "")).tests
    assert 0.2 <= test.cpu_seconds < 0.5
    assert test.wall_seconds >= 0.2
    assert test.memory_bytes == 0 or 40 << 20 <= test.memory_bytes < 90 << 20


def test_stop_at_first_failure(boxes):
    tests = (StdinTest("", "1"), StdinTest("", "2"), StdinTest("", "1"))
    assert len(run(boxes, "print(1)", *tests, stop_at_first_failure=True).tests) == 2
    assert len(run(boxes, "print(1)", *tests).tests) == 3


def test_results_come_in_the_order_of_the_jobs(boxes):
    jobs = [
        Job(
            Program("python", f"import time; time.sleep({0.2 if n == 0 else 0}); print({n})"),
            (StdinTest("", str(n)),),
        )
        for n in range(8)
    ]
    assert [(r.verdict, r.tests[0].stdout) for r in boxes.run_many(jobs)] == [
        (OK, f"{n}\n") for n in range(8)
    ]


def test_the_self_test_finds_nothing(boxes):
    results = run_attacks(boxes)
    overloaded = [r for r in results if "overloaded" in r.said]
    assert [r for r in results if not r.failed and r not in overloaded] == []
    assert len(results) == len(ATTACKS) + 1


def test_a_supervisor_that_dies_is_our_fault_and_is_replaced():
    sandbox = IsolatedSandbox(SandboxConfig())
    job = Job(
        Program("python", "import time; time.sleep(1); print(1)"), (StdinTest("", "1"),), limits=LIMITS
    )
    try:
        first = sandbox.client.start()
    except SandboxError as error:
        pytest.skip(f"this host cannot isolate: {error}")
    assert first["cgroups"] in ("v1", "v2", "none")
    before = sandbox.client.process_id
    assert before is not None
    killer = threading.Timer(0.5, os.kill, (before, signal.SIGKILL))
    killer.start()
    try:
        result = sandbox.run(job)
    finally:
        killer.join()
        sandbox.close()
    if result.verdict is XX:
        pytest.skip(f"this host cannot isolate: {result.reason}")
    assert result.verdict is OK  # it was tried again
    assert sandbox.client.process_id != before
    with pytest.raises(SandboxError, match="closed"):
        sandbox.run(job)


def test_closing_ends_a_run_and_every_process(boxes):
    sandbox = IsolatedSandbox(SandboxConfig())
    job = Job(
        Program("python", "import time; time.sleep(60)"), (StdinTest(),), limits=Limits(wall_seconds=60)
    )

    def work():
        with contextlib.suppress(SandboxError):
            sandbox.run(job)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.5)
    supervisor = sandbox.client.process_id
    sandbox.close()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(ProcessLookupError):
        os.kill(supervisor, 0)


def test_without_bubblewrap_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    from k15.sandbox.supervisor import make_launcher

    for backend in ("bubblewrap", "crun"):
        with pytest.raises(SandboxError, match=f"apt install {backend}"):
            make_launcher(backend)


def test_strict_refuses_where_something_is_missing():
    with pytest.raises(
        SandboxError, match=r"sandbox\.strict asks for whole isolation.*(control groups: none|boxes: )"
    ):
        make_sandbox(SandboxConfig(strict=True, cgroups="none"))


def test_unsafe_local_runs_and_warns(capfd):
    with make_sandbox(SandboxConfig(backend="unsafe-local")) as sandbox:
        job = Job(Program("python", "print(int(input()) * 2)"), (StdinTest("21", "42"),))
        assert sandbox.run(job).verdict is OK
        call = Job(Program("python", "def f(x): return x"), (CallTest((1,), 1),), entry_point="f")
        assert sandbox.run(call).verdict is OK
    assert "isolates nothing" in capfd.readouterr().err


def test_fusion_needs_an_address():
    with pytest.raises(ConfigError, match=r"set sandbox\.url"):
        make_sandbox(SandboxConfig(backend="fusion"))
