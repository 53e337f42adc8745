"""Choosing a program by vote on inputs that the model wrote (App. C)."""

import random

import pytest
from eval_samples import make_sample

from k15.eval.load import load_benchmark
from k15.eval.problem import Benchmark, Problem
from k15.eval.vote import choose_by_vote, input_in, input_questions, majority_choice, vote_scores
from k15.sandbox.base import JobResult, Limits, Program, RunResult, RunVerdict, Sandbox


@pytest.mark.parametrize(
    ("outputs", "index", "agreements", "expected"),
    [
        ([["1"], ["2"], ["2"]], 1, (0, 1, 1), ("2",)),
        ([["1", "5"], ["2", "5"], ["2", "6"], ["2", "5"]], 1, (1, 2, 1, 2), ("2", "5")),
        ([["1\n"], [" 1"], ["2"]], 0, (1, 1, 0), ("1",)),
        ([[None], ["1"]], 1, (0, 1), ("1",)),
        ([[None, None], [None, None]], None, (0, 0), (None, None)),
        ([["1"], ["2"]], 0, (0, 0), (None,)),  # a tie decides nothing, the earliest is taken
        ([["1", "x"], ["2", "y"], ["2", "y"], ["1", "y"]], 1, (0, 1, 1, 1), (None, "y")),
        # equally often with the majority: the one whose other outputs have more votes
        ([["9", "5"], ["1", "5"], ["1", "6"], ["2", "5"], ["2", "7"]], 1, (1, 1, 0, 1, 0), (None, "5")),
    ],
)
def test_the_program_that_agrees_with_most_is_chosen(outputs, index, agreements, expected):
    choice = choose_by_vote(outputs)
    assert (choice.index, choice.agreements, choice.expected) == (index, agreements, expected)


def test_every_program_needs_every_output():
    with pytest.raises(ValueError, match=r"\[2, 1\]"):
        choose_by_vote([["1", "2"], ["1"]])


def test_failing_everywhere_is_never_a_majority():
    assert choose_by_vote([[None, "3"], [None, "4"], ["7", "4"]]).index == 2


class Interpreter(Sandbox):
    """Runs one-line programs over `x`, the number read; "crash" fails, "broken" does not compile."""

    def __init__(self):
        self.num_runs = 0

    def run(self, job):
        if job.program.code == "broken":
            return JobResult(RunVerdict.CE)
        results = []
        for test in job.tests:
            self.num_runs += 1
            if job.program.code == "crash":
                results.append(RunResult(RunVerdict.RE))
            else:
                results.append(
                    RunResult(RunVerdict.OK, stdout=str(eval(job.program.code, {"x": int(test.stdin)})))
                )
        return JobResult(RunVerdict.OK, "", tuple(results))

    def close(self):
        pass


def programs(*sources):
    return [Program("python", source) if source is not None else None for source in sources]


def test_programs_are_run_once_on_each_distinct_input():
    sandbox = Interpreter()
    choice = majority_choice(
        sandbox,
        programs(None, "x + 1", "crash", "x * 2", "2 * x", "broken"),
        ["2", "3", "2"],
        limits=Limits(),
    )
    assert choice == 3
    assert sandbox.num_runs == 2 * 4


def test_without_inputs_the_first_program_is_taken():
    assert majority_choice(Interpreter(), programs(None, "x"), [], limits=Limits()) == 1
    assert majority_choice(Interpreter(), programs(None, None), ["1"], limits=Limits()) is None


def test_the_vote_beats_a_single_sample_on_programs_with_different_bugs():
    """Row 80: 40 problems x 8 programs, three in eight right, the bugs drawn from a dozen, inputs at random."""
    bugs = [f"x * 2 + {k}" for k in range(1, 6)] + [
        "x ** 2",
        "x + 2",
        "x",
        "-x",
        "x * 2 if x < 5 else 0",
        "x * 3",
        "crash",
    ]
    rng = random.Random(3)
    single = chosen = 0.0
    for _ in range(40):
        sources = [
            rng.choice(["x * 2", "x + x"]) if rng.random() < 3 / 8 else rng.choice(bugs)
            for _ in range(8)
        ]
        right = [source in ("x * 2", "x + x") for source in sources]
        inputs = [str(rng.randrange(1, 10)) for _ in range(4)]
        place = majority_choice(Interpreter(), programs(*sources), inputs, limits=Limits())
        single += sum(right) / 8
        chosen += place is not None and right[place]
    assert single / 40 < 0.45
    assert chosen / 40 > 0.7


def test_inputs_come_from_the_last_block_after_the_thought():
    assert input_in("<think>```\n1\n```</think>\nHere:\n```\n3\n1 2 3\n```") == "3\n1 2 3\n"
    assert input_in("3\n1 2 3") is None
    assert input_in("```\n\n```") is None
    assert input_in("```\n" + "1 " * 9000 + "\n```") is None


def test_only_problems_that_read_input_are_asked_for_one():
    details = {"kind": "stdin", "entry_point": "", "statement": "Double it."}
    benchmark = Benchmark(
        "lcb",
        (
            Problem("a", "Double it.\n\nWrite a program.", "", "code", details=details),
            Problem(
                "b", "Complete it.", "", "code", details=details | {"kind": "call", "statement": ""}
            ),
            Problem("c", "1+1?", "2", "math"),
        ),
        "here",
    )
    asked = input_questions(benchmark)
    assert [(p.problem_id, p.question, p.verifier) for p in asked.problems] == [
        ("a", "Double it.", "input")
    ]
    assert asked.name == "lcb/inputs"
    assert "Do not solve" in asked.suffix


def test_own_problems_vote_too(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"question": "Double.", "verifier": "code", "answer": {"tests": [{"stdin": "1", "expected": "2"}]}}\n'
    )
    assert len(input_questions(load_benchmark(str(path), None)).problems) == 1


def test_the_score_of_the_vote():
    tests = '{"tests": [{"stdin": "1", "expected": "2"}]}'
    details = {"kind": "tests", "tests": tests, "statement": "Double."}
    problems = [Problem(name, "Double.", "", "code", details=details) for name in ("a", "b", "c")]

    def solution(problem, index, code, outcome):
        return make_sample(problem, index, outcome, verifier="code", reply=f"```python\n{code}\n```")

    samples = [
        solution("a", 0, "x + 9", "w"), solution("a", 1, "x * 2", "r"), solution("a", 2, "x + x", "r"),
        solution("b", 0, "x * 2", "r"), solution("b", 1, "x + 1", "w"), solution("b", 2, "1 + x", "w"),
        make_sample("c", 0, "n", verifier="code", reply="no idea"),
    ]  # fmt: skip
    inputs = [make_sample(name, 0, verifier="input", reply="```\n7\n```") for name in ("a", "b", "c")]
    scores = vote_scores(problems, samples, inputs, Interpreter())
    assert scores["chosen"] == {"a": 1, "b": 1, "c": None}
    assert scores["pass@1"] == pytest.approx(1 / 3)
    assert scores["num_inputs"] == 3
