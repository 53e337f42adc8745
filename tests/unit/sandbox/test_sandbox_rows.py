"""Jobs as JSON: what is read, what is refused and how."""

import json

import pytest

from k15.errors import ConfigError
from k15.sandbox.base import (
    AssertTest,
    CallTest,
    Comparison,
    Job,
    JobResult,
    Limits,
    Program,
    RunResult,
    RunVerdict,
    StdinTest,
    summarize,
)
from k15.sandbox.rows import check_job, read_job, result_row

ROW = {"language": "python", "code": "pass", "tests": [{"stdin": "1", "expected": "2"}]}


def test_a_whole_job_is_read():
    row = {
        "id": 7,
        "language": "cpp",
        "code": "int main() {}",
        "files": {"a.h": "é"},
        "tests": [{"stdin": "1"}, {"expected": "2"}, {"stdin": "1", "expected": None}],
        "limits": {"cpu_seconds": 3, "memory_mb": 64, "wall_seconds": None},
        "compile_limits": {"cpu_seconds": 5},
        "comparison": {"mode": "tokens", "relative": 1e-9},
        "checker": {"language": "py", "code": "x"},
        "stop_at_first_failure": True,
    }
    job = read_job(json.loads(json.dumps(row)))
    assert job.program == Program("cpp", "int main() {}", {"a.h": "é".encode()})
    assert job.tests == (StdinTest("1"), StdinTest("", "2"), StdinTest("1"))
    assert job.limits == Limits(cpu_seconds=3, memory_mb=64)
    assert job.compile_limits.cpu_seconds == 5
    assert job.comparison == Comparison(mode="tokens", relative=1e-9)
    assert job.checker == Program("py", "x")
    assert job.stop_at_first_failure


def test_calls_and_assertions_are_read():
    tests = [{"args": [1, [2]], "expected": None}, {"assert": "assert candidate(1)"}]
    job = read_job({**ROW, "tests": tests, "entry_point": "f"})
    assert job.tests == (CallTest((1, [2]), None), AssertTest("assert candidate(1)"))
    assert job.entry_point == "f"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"language": 3}, '"language" must be a text; got 3'),
        ({"language": "cobol"}, "a language must be one of python"),
        ({"code": None}, '"code" must be a text'),
        ({"tests": []}, '"tests" must be a list with at least one test'),
        ({"tests": [{}]}, "test 1 must be"),
        ({"tests": [{"stdin": "1"}, {"stdin": 1}]}, "test 2 must be"),
        ({"tests": [{"args": [1]}]}, "test 1 must be"),
        ({"tests": [{"stdin": "1", "expect": "2"}]}, "test 1 must be"),
        ({"tests": [{"args": [1], "expected": 1}]}, "entry_point"),
        ({"tests": [{"assert": "x"}], "language": "cpp", "entry_point": "f"}, "need a Python program"),
        ({"limit": {}}, "a job has no field 'limit'"),
        ({"limits": {"cpu": 3}}, "\"limits\" has no field 'cpu'"),
        ({"limits": {"cpu_seconds": "3"}}, '"limits.cpu_seconds" must be float'),
        ({"limits": {"cpu_seconds": True}}, '"limits.cpu_seconds" must be float'),
        ({"limits": {"cpu_seconds": 0}}, "must be above 0 and at most 600"),
        ({"limits": {"cpu_seconds": float("nan")}}, "must be float"),
        ({"limits": {"memory_mb": 10**9}}, "must be above 0 and at most 65536"),
        ({"limits": {"open_files": 4}}, "must be above 16"),
        ({"limits": []}, '"limits" must be an object'),
        ({"comparison": {"mode": "fuzzy"}}, "must be lines, tokens or exact"),
        ({"files": {"a": 1}}, '"files" must be an object of texts'),
        ({"files": {"../a": ""}}, "plain name"),
        ({"checker": "x"}, "checker: must be an object"),
        ({"stop_at_first_failure": 1}, '"stop_at_first_failure" must be true or false'),
        ({"entry_point": 3}, '"entry_point" must be the name of a function'),
    ],
)
def test_what_makes_no_sense_is_refused(change, complaint):
    with pytest.raises(ValueError) as error:
        read_job({**ROW, **change})
    assert complaint in str(error.value)


def test_a_checker_judges_only_what_is_printed():
    checker = Program("python", "")
    with pytest.raises(ConfigError, match="tests must have stdin"):
        check_job(Job(Program("python", ""), (CallTest((1,), 1),), entry_point="f", checker=checker))


def test_a_result_as_a_row_has_no_expected_value_and_null_for_our_fault():
    ok = RunResult(RunVerdict.OK, stdout="2\n", exit_code=0, cpu_seconds=0.25, wall_seconds=0.5)
    wrong = RunResult(RunVerdict.WA, "the output is not the expected one", wall_seconds=0.25)
    row = result_row(summarize((ok, wrong)))
    assert (row["verdict"], row["correct"], row["seconds"]) == ("WA", False, 0.75)
    assert row["reason"] == "test 2: the output is not the expected one"
    assert [test["verdict"] for test in row["tests"]] == ["OK", "WA"]
    assert "stdout" not in row["tests"][0]
    assert result_row(summarize((ok,)), with_outputs=True)["tests"][0]["stdout"] == "2\n"
    assert result_row(JobResult(RunVerdict.XX, "no box"))["correct"] is None
    compilation = RunResult(RunVerdict.CE, "does not compile", stderr="line 1")
    assert result_row(summarize((), compilation))["compilation"]["stderr"] == "line 1"
