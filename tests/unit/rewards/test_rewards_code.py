"""The code reward: which program a reply has, and what its tests are worth."""

import json

import pytest

from k15.errors import ConfigError
from k15.rewards.code import (
    CodeItem,
    CodeVerifier,
    check_tests,
    code_verdict,
    extract_program,
)
from k15.sandbox.base import JobResult, RunResult, RunVerdict, summarize
from k15.testing.sandbox import ScriptedSandbox
from k15.types import Outcome

TESTS = json.dumps({"tests": [{"stdin": "1", "expected": "2"}]})


@pytest.mark.parametrize(
    ("reply", "program"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("Text.\n```py\na\n```\nBetter:\n```python\nb\n```\nDone.", "b\n"),
        ("no fence: x = 1", ""),
        ("```python\nx = 1", ""),
        ("```python\na\n```\n```python\nb", "a\n"),
        ("<think>```python\na\n```</think>", ""),
        ("<think>```python\na\n```</think>\n```python\nb\n```", "b\n"),
        ("```python\na\n```\n<think>```python\nb\n```", ""),
        (
            '```python\ns = """\n````\n"""\n```',
            's = """\n',
        ),  # a longer fence of the same sign closes, too
        ('````python\ns = """\n```\n"""\n````', 's = """\n```\n"""\n'),
        ("~~~python\nx = '```'\n~~~", "x = '```'\n"),
        ("```python title=x\nx\n```", "x\n"),
        ("   ```python\nx\n   ```", "x\n"),
        ("    ```python\nx\n    ```", ""),  # indented by four: no fence
        ("```python\n  x\n\n  y\n```", "  x\n\n  y\n"),
        ("`x`", ""),
        ("```x```", ""),
        ("", ""),
    ],
)
def test_the_program_is_the_last_complete_block_after_the_thought(reply, program):
    assert extract_program(reply) == program


def test_a_prompt_that_opens_a_thought_needs_its_end():
    assert extract_program("```\nx\n```", in_thought=True) == ""
    assert extract_program("hm</think>\n```\nx\n```", in_thought=True) == "x\n"


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        ("OK", Outcome.RIGHT),
        ("WA", Outcome.WRONG),
        ("RE", Outcome.WRONG),
        ("MLE", Outcome.WRONG),
        ("OLE", Outcome.WRONG),
        ("PE", Outcome.WRONG),
        ("CE", Outcome.WRONG),
        ("SV", Outcome.WRONG),
        ("TLE", Outcome.TIMEOUT),
        ("XX", Outcome.FAULT),
    ],
)
def test_every_verdict_has_its_outcome(verdict, outcome):
    found = code_verdict(summarize((RunResult(RunVerdict(verdict), "why", wall_seconds=0.5),)))
    assert found.outcome is outcome
    assert found.correct == (outcome is Outcome.RIGHT)
    assert found.is_valid == (verdict != "XX")
    assert found.seconds == 0.5


def test_verdicts_come_in_the_order_of_the_items():
    def answer(job):
        return JobResult(RunVerdict.OK if "good" in job.program.code else RunVerdict.WA)

    replies = ["nothing", "```\ngood\n```", "```\nbad\n```", "```\n \n```", "```\ngood\n```", "x"]
    sandbox = ScriptedSandbox(answer)
    with CodeVerifier(sandbox) as verifier:
        items = [CodeItem(TESTS, reply) for reply in replies]
        items.insert(2, CodeItem("{", "```\ngood\n```"))
        outcomes = [verdict.outcome.value for verdict in verifier.judge(items)]
    assert outcomes == ["no_answer", "right", "fault", "wrong", "no_answer", "right", "no_answer"]
    assert [job.program.language for job in sandbox.jobs] == ["python"] * 3
    assert all(job.stop_at_first_failure for job in sandbox.jobs)
    assert sandbox.is_closed


def test_nothing_to_judge():
    with CodeVerifier(ScriptedSandbox(lambda job: JobResult(RunVerdict.OK))) as verifier:
        assert list(verifier.judge([])) == []


@pytest.mark.parametrize(
    ("tests", "complaint"),
    [
        ("{", "Expecting"),
        ("[]", "must be a JSON object"),
        ("{}", '"tests" must be a list'),
        ('{"tests": [{"args": [1], "expected": 1}]}', "entry_point"),
        ('{"language": "cobol", "tests": [{"stdin": ""}]}', "a language must be one of"),
    ],
)
def test_tests_that_cannot_be_read_are_refused_before_anything_is_generated(tests, complaint):
    check_tests(TESTS, "prompt 'p'")
    with pytest.raises(ConfigError) as error:
        check_tests(tests, "prompt 'p'")
    assert complaint in str(error.value)
    assert "prompt 'p'" in str(error.value)
