"""`k15 sandbox` and `k15 grade code`, as a person calls them."""

import io
import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from k15.cli import main
from k15.sandbox.attacks import AttackResult
from k15.sandbox.base import RunVerdict
from k15.sandbox.doctor import Diagnosis, Finding, describe


@pytest.fixture
def k15(capsys, monkeypatch):
    """Call the command with a text on standard input: exit code, standard output, standard error."""

    def call(*words, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


def test_one_program(boxes, k15, tmp_path):
    given = tmp_path / "input"
    given.write_text("olleh\n")
    code, out, err = k15("sandbox", "run", "--input", given, stdin="print(input()[::-1])")
    answer = json.loads(out)
    assert (code, err, answer["verdict"], answer["stdout"]) == (0, "", "OK", "hello\n")
    code, out, _ = k15(
        "sandbox", "run", "--time-limit", "0.3", "--memory-mb", "64", stdin="import sys; sys.exit(3)"
    )
    assert (code, json.loads(out)["verdict"], json.loads(out)["exit_code"]) == (0, "RE", 3)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("sandbox",), "say what to do"),
        (("sandbox", "run", "--language", "cobol"), "a language must be one of"),
        (("sandbox", "run", "--time-limit", "0"), "must be above 0"),
        (("sandbox", "run", "--backend", "docker"), "'bubblewrap', 'crun'"),
        (("sandbox", "run", "--num_slot", "3"), "num_slot"),
        (("sandbox", "run", "--input", "/no/such/file"), "cannot read --input"),
        (("sandbox", "serve", "--host", "0.0.0.0"), "needs a token"),
        (("sandbox", "serve", "--token-file", "/no/such/file"), "cannot read --token-file"),
        (("grade", "math", "--backend", "crun"), "grade does not know"),
    ],
)
def test_what_is_refused(k15, monkeypatch, words, complaint):
    monkeypatch.delenv("K15_SANDBOX_TOKEN", raising=False)
    code, out, err = k15(*words)
    assert (code, out) == (2, "")
    assert complaint in err


def test_settings_are_listed(k15):
    code, out, _ = k15("sandbox", "--keys")
    assert code == 0
    assert "--backend (default: bubblewrap)" in out


def test_the_doctor_says_what_is_there(boxes, k15):
    code, out, _ = k15("sandbox", "doctor", "--json", "--cgroups", "none", "--strict")
    found = json.loads(out)
    assert code == 1  # strict, and without control groups it falls short
    assert found["cgroups"] == "none"
    assert any("control groups: none" in text for text in found["shortfalls"])
    assert {"name", "failed", "verdict", "said"} == set(found["attacks"][0])
    assert found["languages"]["python"] == []


def test_the_doctors_page():
    diagnosis = Diagnosis(
        "bubblewrap",
        "v2",
        (Finding("kernel", True, "Linux 6.1"), Finding("user", False, "nobody")),
        (
            AttackResult("fly", False, RunVerdict.OK, "in"),
            AttackResult("sing", True, RunVerdict.TLE, ""),
        ),
        {"python": [], "go": ["go"]},
    )
    page = describe(diagnosis)
    assert "ok  kernel: Linux 6.1" in page
    assert "NO  fly: OK" in page
    assert "NO  go: go not found; install golang-go" in page
    assert page.endswith("falls short in 2 of its promises")
    assert diagnosis.shortfalls == ["user: nobody", "a program can fly (OK: in)"]


def test_lines_of_jobs(boxes, k15):
    lines = [
        {"id": "a", "language": "python", "code": "print(1)", "tests": [{"expected": "1"}]},
        "",
        "no json",
        {"id": "b", "reply": "```python\nprint(2)\n```", "tests": [{"expected": "1"}]},
        {"id": "c", "reply": "print(1)", "tests": [{"expected": "1"}]},
        {"id": "d", "language": "python", "tests": [{"expected": "1"}]},
        [1],
    ]
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    code, out, _ = k15("grade", "code", "--workers", "2", "--outputs", stdin=text)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(row["id"], row["verdict"], row["correct"]) for row in rows] == [
        ("a", "OK", True),
        (None, "XX", None),
        ("b", "WA", False),
        ("c", "CE", False),
        ("d", "XX", None),
        (None, "XX", None),
    ]
    assert rows[0]["tests"][0]["stdout"] == "1\n"
    assert "line 3 is not JSON" in rows[1]["reason"]


def test_the_service_answers_and_stops_when_asked(boxes):
    process = subprocess.Popen(
        [sys.executable, "-m", "k15.cli", "sandbox", "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "K15_SANDBOX_TOKEN": "t"},
    )
    try:
        assert process.stderr is not None
        address = process.stderr.readline().split()[-1]
        job = {"language": "python", "code": "print(6 * 7)", "tests": [{"expected": "42"}]}
        request = urllib.request.Request(
            f"{address}/v1/jobs",
            json.dumps(job).encode(),
            {"Content-Type": "application/json", "Authorization": "Bearer t"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert json.loads(response.read())["verdict"] == "OK"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
