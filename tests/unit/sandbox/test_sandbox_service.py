"""The HTTP service and its clients, around a sandbox that runs nothing."""

import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from k15.config.sandbox import SandboxConfig
from k15.errors import ConfigError
from k15.sandbox.base import (
    AssertTest,
    CallTest,
    Job,
    JobResult,
    Limits,
    Program,
    RunResult,
    RunVerdict,
    StdinTest,
    summarize,
)
from k15.sandbox.build import make_sandbox
from k15.sandbox.fusion_rows import fusion_reply, read_fusion
from k15.sandbox.openapi import document
from k15.sandbox.service import Service, ServiceSettings
from k15.testing.sandbox import ScriptedSandbox

JOB = {"id": 3, "language": "python", "code": "print(1)", "tests": [{"stdin": "", "expected": "1"}]}


def printing(text, **more):
    return JobResult(RunVerdict.OK, "", (RunResult(RunVerdict.OK, stdout=text, exit_code=0, **more),))


@contextmanager
def serving(answer=lambda job: printing("1\n"), **settings):
    sandbox = ScriptedSandbox(answer, num_slots=settings.pop("num_slots", 2))
    service = Service(sandbox, ServiceSettings(port=0, **settings))
    thread = threading.Thread(target=service.serve)
    thread.start()
    try:
        yield service, sandbox
    finally:
        service.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert sandbox.is_closed


def ask(service, path, body=None, *, method=None, headers=None, raw=None):
    """Status and answer of a request."""
    data = raw if raw is not None else (None if body is None else json.dumps(body).encode())
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.port}{path}",
        data,
        {"Content-Type": "application/json", **(headers or {})},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_a_job_goes_in_and_verdicts_come_out():
    with serving() as (service, sandbox):
        status, answer = ask(service, "/v1/jobs", JOB)
        assert (status, answer["id"], answer["verdict"], answer["correct"]) == (200, 3, "OK", True)
        assert answer["tests"][0]["stdout"] == "1\n"
        assert sandbox.jobs == [Job(Program("python", "print(1)"), (StdinTest("", "1"),))]


@pytest.mark.parametrize(
    ("path", "options", "status", "complaint"),
    [
        ("/v1/jobs", {"raw": b"{"}, 400, "Expecting"),
        ("/v1/jobs", {"body": {**JOB, "tests": []}}, 400, "at least one test"),
        ("/v1/jobs", {"body": {**JOB, "language": "cobol"}}, 400, "a language must be one of"),
        ("/v1/jobs", {"body": [JOB]}, 400, "must be a JSON object"),
        ("/run_code", {"body": {"code": "x"}}, 400, '"language" must be a text'),
        (
            "/run_code",
            {"body": {"code": "x", "language": "python", "fetch_files": ["a"]}},
            400,
            "not supported",
        ),
        ("/nothing", {"body": JOB}, 404, "there is no POST /nothing"),
        ("/v1/jobs", {"method": "GET"}, 405, "there is no GET"),
        ("/v1/jobs", {"body": JOB, "headers": {"Content-Type": "text/plain"}}, 415, "application/json"),
        ("/v1/jobs", {"body": JOB, "headers": {"Origin": "http://example.org"}}, 403, "web pages"),
        ("/v1/jobs", {"body": JOB, "headers": {"Host": "example.org"}}, 403, "Host"),
        ("/v1/jobs", {"raw": b"", "headers": {"Content-Length": str(1 << 40)}}, 413, "at most"),
    ],
)
def test_what_is_refused(path, options, status, complaint):
    with serving() as (service, sandbox):
        found, answer = ask(service, path, **options)
        assert (found, complaint in answer["error"]) == (status, True), answer
        assert sandbox.jobs == []


def test_a_token_is_asked_for_where_there_is_one():
    with serving(token="s3cret") as (service, sandbox):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer s3cretx"}):
            assert ask(service, "/v1/jobs", JOB, headers=headers)[0] == 401
        assert sandbox.jobs == []
        assert ask(service, "/v1/jobs", JOB, headers={"Authorization": "Bearer s3cret"})[0] == 200
        assert ask(service, "/healthz")[0] == 200


def test_beyond_this_machine_only_with_a_token():
    with pytest.raises(ConfigError, match="needs a token"):
        Service(ScriptedSandbox(lambda job: printing("")), ServiceSettings(host="0.0.0.0", port=0))


def test_a_port_that_is_taken_is_named():
    with serving() as (service, _), pytest.raises(ConfigError, match=f"127.0.0.1:{service.port}"):
        Service(ScriptedSandbox(lambda job: printing("")), ServiceSettings(port=service.port))


def test_the_queue_is_bounded_and_a_stop_lets_the_work_end():
    release, started = threading.Event(), threading.Semaphore(0)

    def answer(job):
        started.release()
        assert release.wait(10)
        return printing("1\n")

    sandbox = ScriptedSandbox(answer, num_slots=1)
    service = Service(sandbox, ServiceSettings(port=0, max_queued=1))
    thread = threading.Thread(target=service.serve)
    thread.start()
    found = []
    callers = [
        threading.Thread(target=lambda: found.append(ask(service, "/v1/jobs", JOB)[0])) for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    for _ in callers:
        assert started.acquire(timeout=10)
    status, answered = ask(service, "/v1/jobs", JOB)
    assert (status, "try again" in answered["error"]) == (503, True)
    assert ask(service, "/healthz")[0] == 200
    service.stop()
    time.sleep(0.3)
    assert not sandbox.is_closed
    release.set()
    thread.join(10)
    for caller in callers:
        caller.join(10)
    assert found == [200, 200]
    assert sandbox.is_closed


def test_the_openapi_document_describes_every_path_and_resolves():
    with serving() as (service, _):
        status, answer = ask(service, "/openapi.json")
    assert status == 200
    assert answer == json.loads(json.dumps(document()))
    assert set(answer["paths"]) == {"/v1/jobs", "/run_code", "/healthz", "/openapi.json"}

    def references(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for reference in references(answer):
        node = answer
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    limits = answer["components"]["schemas"]["Job"]["properties"]["limits"]["properties"]
    assert limits["wall_seconds"] == {"type": ["number", "null"], "default": None}
    assert limits["memory_mb"] == {"type": "integer", "default": 256}


def test_a_fusion_request_is_a_job():
    row = {
        "language": "nodejs",
        "code": "x",
        "stdin": "in",
        "run_timeout": 3,
        "compile_timeout": 7.5,
        "memory_limit_MB": 99,
        "files": {"a.txt": "aGk="},
    }
    job = read_fusion(row)
    assert job.program == Program("nodejs", "x", {"a.txt": b"hi"})
    assert job.tests == (StdinTest("in"),)
    assert (job.limits.wall, job.limits.cpu_seconds, job.limits.memory_mb) == (3, 3, 99)
    assert job.compile_limits.cpu_seconds == 7.5
    for change in (
        {"run_timeout": 0},
        {"run_timeout": "3"},
        {"files": {"a": "!"}},
        {"stdin": 3},
        {"files": {"../a": ""}},
    ):
        with pytest.raises(ValueError):
            read_fusion({**row, **change})


@pytest.mark.parametrize(
    ("result", "status", "run_status", "code"),
    [
        (printing("x"), "Success", "Finished", 0),
        (summarize((RunResult(RunVerdict.RE, "", exit_code=3),)), "Failed", "Finished", 3),
        (summarize((RunResult(RunVerdict.RE, "", signal=11),)), "Failed", "Finished", 139),
        (summarize((RunResult(RunVerdict.TLE, "late", signal=9),)), "Failed", "TimeLimitExceeded", None),
        (summarize((RunResult(RunVerdict.MLE, "big", signal=9),)), "Failed", "Finished", 137),
        (summarize((RunResult(RunVerdict.XX, "no box"),)), "SandboxError", "Error", None),
    ],
)
def test_a_result_in_fusions_words(result, status, run_status, code):
    reply = fusion_reply(result)
    assert (reply["status"], reply["run_result"]["status"], reply["run_result"]["return_code"]) == (
        status,
        run_status,
        code,
    )


def test_the_client_sends_the_program_and_keeps_what_is_expected():
    def answer(job):
        [test] = job.tests
        assert "4242" not in str(job)
        return printing(f"{2 * int(test.stdin)}\n", wall_seconds=0.5)

    with serving(answer, token="t") as (service, sandbox):
        config = SandboxConfig(backend="fusion", url=f"http://127.0.0.1:{service.port}/", token="t")
        with make_sandbox(config) as client:
            tests = (StdinTest("2121", "4242"), StdinTest("4", "9"))
            result = client.run(
                Job(Program("py", "x", {"a": b"\xff"}), tests, limits=Limits(memory_mb=77))
            )
        assert [test.verdict for test in result.tests] == [RunVerdict.OK, RunVerdict.WA]
        assert sandbox.jobs[0].program == Program("python", "x", {"a": b"\xff"})
        assert sandbox.jobs[0].limits.memory_mb == 77


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (summarize((RunResult(RunVerdict.RE, "", exit_code=3),)), "RE"),
        (summarize((RunResult(RunVerdict.TLE, "late", signal=9),)), "TLE"),
        (summarize((RunResult(RunVerdict.RE, "", exit_code=1, stderr="MemoryError"),)), "MLE"),
        (summarize((), RunResult(RunVerdict.CE, "", exit_code=1, stderr="line 1")), "CE"),
    ],
)
def test_the_client_reads_every_end(result, verdict):
    with serving(lambda job: result) as (service, _):
        client = make_sandbox(SandboxConfig(backend="fusion", url=f"http://127.0.0.1:{service.port}"))
        assert client.run(Job(Program("cpp", "x"), (StdinTest(),))).verdict == verdict


def test_the_clients_calls_need_one_json_line():
    replies = iter(['{"value": [1, 2]}\n', '{"value": 3}\n', "no\n", "", '{"value": 1}\n{"value": 1}\n'])
    with serving(lambda job: printing(next(replies))) as (service, sandbox):
        client = make_sandbox(SandboxConfig(backend="fusion", url=f"http://127.0.0.1:{service.port}"))
        tests = tuple(CallTest((1,), [1, 2]) for _ in range(5))
        result = client.run(Job(Program("python", "def f(x): ..."), tests, entry_point="f"))
        assert [test.verdict.value for test in result.tests] == ["OK", "WA", "PE", "PE", "PE"]
        assert sandbox.jobs[0].program.files["solution_under_test.py"] == b"def f(x): ..."
        with pytest.raises(ConfigError, match="two boxes"):
            client.run(Job(Program("python", ""), (AssertTest(""),), entry_point="f"))


def test_a_service_that_does_not_answer_is_our_fault(monkeypatch):
    monkeypatch.setattr("k15.sandbox.fusion._PAUSES", (0.0, 0.0))
    client = make_sandbox(SandboxConfig(backend="fusion", url="http://127.0.0.1:9"))
    result = client.run(Job(Program("python", ""), (StdinTest(),)))
    assert result.verdict is RunVerdict.XX
    assert "127.0.0.1:9" in result.reason
    asked = []

    def broken(job):
        asked.append(job)
        return summarize((RunResult(RunVerdict.XX, "no box"),))

    with serving(broken) as (service, _):
        client = make_sandbox(SandboxConfig(backend="fusion", url=f"http://127.0.0.1:{service.port}"))
        assert client.run(Job(Program("python", ""), (StdinTest(),))).verdict is RunVerdict.XX
    assert len(asked) == 3
