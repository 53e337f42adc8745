"""Who judges what, which golds are refused, and that our own errors are never the model's."""

import sys
import types

import pytest
from eval_samples import make_sample

from k15.config.rl import RewardsConfig
from k15.errors import ConfigError
from k15.eval import judge as judge_module
from k15.eval.judge import Judge, Reply
from k15.eval.problem import Problem
from k15.eval.scores import judge_samples
from k15.tasks import get_family
from k15.types import Outcome

TEXT = {"rules": {"type": "text"}}


@pytest.fixture
def judge():
    with Judge(RewardsConfig(num_workers=1)) as own:
        yield own


def trial():
    problem = get_family("trial").problem(0, 1, 0, "heldout")
    return Problem("t", problem.question, problem.answer, "task:trial"), problem


def test_each_verifier_judges_its_own(judge):
    task, problem = trial()
    solved = get_family("trial").solve_briefly(problem)
    pairs = [
        (Problem("1", "?", "1/2", "math"), Reply(r"so \boxed{0.5}")),
        (Problem("2", "?", "1/2", "math"), Reply(r"so \boxed{0.25}")),
        (Problem("3", "?", "The Nile", "math", details=TEXT), Reply("The answer is nile.")),
        (Problem("4", "?", "The Nile", "math", details=TEXT), Reply("The answer is the Rhine.")),
        (Problem("5", "?", "The Nile", "math", details=TEXT), Reply("Nile, I think")),
        (Problem("6", "?", "B", "choice", details={"options": ["x", "y"]}), Reply("Answer: y")),
        (task, Reply(solved)),
        (task, Reply("hm")),
        (Problem("7", "?", "", "input"), Reply("```\n3 4\n```")),
        (Problem("8", "?", "", "input"), Reply("3 4")),
    ]
    assert [v.outcome.value for v in judge.judge(pairs)] == [
        "right", "wrong", "right", "wrong", "no_answer", "right", "right", "no_answer", "right", "no_answer",
    ]  # fmt: skip


def test_a_thought_must_be_closed_for_every_verifier(judge):
    problems = [
        Problem("1", "?", "1", "math"),
        Problem("2", "?", "one", "math", details=TEXT),
        Problem("3", "?", "A", "choice", details={"options": ["x", "y"]}),
    ]
    open_thought = [(p, Reply(rf"\boxed{{{p.gold}}}", in_thought=True)) for p in problems]
    closed = [(p, Reply(rf"</think> \boxed{{{p.gold}}}", in_thought=True)) for p in problems]
    assert {v.outcome for v in judge.judge(open_thought)} == {Outcome.NO_ANSWER}
    assert {v.outcome for v in judge.judge(closed)} == {Outcome.RIGHT}


def test_golds_are_tried_on_themselves(judge):
    refused = judge.refused_golds(
        [
            Problem("fine", "?", r"\frac{1}{2}", "math"),
            Problem("empty", "?", " ", "math"),
            Problem("word", "?", "Nile", "math", details=TEXT),
            Problem("twice", "?", "A", "choice", details={"options": ["x", "X.", "z"]}),
            Problem("once", "?", "C", "choice", details={"options": ["x", "X.", "z"]}),
            trial()[0],
            Problem("stranger", "How many?", "3", "task:trial"),
            Problem("code", "?", "", "code", details={"kind": "stdin"}),
        ]
    )
    assert [gold.problem for gold in refused] == ["empty", "twice", "stranger"]
    assert "another letter" in refused[1].reason


def test_a_problem_whose_gold_is_refused_is_our_fault_whatever_the_reply(judge):
    options = {"options": ["x", "X"]}
    problems = {
        "bad": Problem("bad", "?", "A", "choice", details=options),
        "good": Problem("good", "?", "1", "math"),
    }
    samples = [
        make_sample("bad", 0, verifier="choice", reply=r"\boxed{A}"),
        make_sample("good", 0, reply=r"\boxed{1}"),
        make_sample("bad", 1, verifier="choice", reply="nothing"),
    ]
    judged = judge_samples(judge, problems, samples, judge.refused_golds(list(problems.values())))
    assert [s.outcome.value for s in judged] == ["fault", "right", "fault"]
    assert "refused" in judged[0].reason


def test_a_verifier_that_breaks_is_our_fault(judge, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("oops")

    monkeypatch.setattr(judge_module, "judge_choice", broken)
    problem = Problem("1", "?", "B", "choice", details={"options": ["x", "y"]})
    (verdict,) = judge.judge([(problem, Reply("B"))])
    assert verdict.outcome is Outcome.FAULT
    assert "KeyError" in verdict.reason


def test_an_unknown_verifier_is_refused_before_anything_runs(judge):
    with pytest.raises(ConfigError, match="vibes"):
        judge.check(["math", "vibes"])
    with pytest.raises(ConfigError, match="no task family"):
        judge.check(["task:sudoku"])


def test_votes_go_together_where_answers_are_equal(judge):
    def votes(verifier, one, other):
        return judge.same(
            *(make_sample(outcome=o, answer=a, verifier=verifier) for o, a in (one, other))
        )

    assert votes("math", ("w", "1/2"), ("w", "0.5"))
    assert not votes("math", ("w", "1/2"), ("w", "0.25"))
    assert not votes("math", ("r", "7"), ("w", "8"))
    assert votes("math", ("r", "7"), ("r", "7.0"))
    # several expressions are right there: they are different answers all the same
    assert not votes("task:countdown", ("r", "1 + 2"), ("r", "2 + 1"))
    assert not votes("choice", ("w", "A"), ("w", "B"))


# -- IFEval -------------------------------------------------------------------------------------------

IFEVAL = Problem(
    "1",
    "Write without commas, twice.",
    "",
    "ifeval",
    details={
        "instructions": [{"id": "no_comma", "arguments": {}}, {"id": "twice", "arguments": {"n": 2}}]
    },
)


@pytest.fixture
def checkers(monkeypatch):
    """The interface of lm-evaluation-harness's module, with two instructions of our own."""

    class InputExample:
        def __init__(self, key, instruction_id_list, prompt, kwargs):
            self.names, self.prompt, self.kwargs = instruction_id_list, prompt, kwargs

    def strict(example, response):
        rules = {
            "no_comma": lambda _: "," not in response,
            "twice": lambda k: response.count("x") == k["n"],
        }
        followed = [rules[name](k) for name, k in zip(example.names, example.kwargs, strict=True)]
        return types.SimpleNamespace(follow_instruction_list=followed)

    module = types.ModuleType("lm_eval.tasks.ifeval.utils")
    module.InputExample = InputExample
    module.test_instruction_following_strict = strict
    for name in ("lm_eval", "lm_eval.tasks", "lm_eval.tasks.ifeval"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize(
    ("reply", "outcome", "reason"),
    [
        ("x x", Outcome.RIGHT, ""),
        ("<think>x, x, x</think> x x", Outcome.RIGHT, ""),
        ("x, x", Outcome.WRONG, "no_comma"),
        ("x", Outcome.WRONG, "twice"),
        ("<think>x x", Outcome.NO_ANSWER, "closed"),
        ("<think>hm</think>", Outcome.NO_ANSWER, "empty"),
    ],
)
@pytest.mark.usefixtures("checkers")
def test_ifeval_wants_every_instruction_after_the_thought(judge, reply, outcome, reason):
    judge.check(["ifeval"])
    (verdict,) = judge.judge([(IFEVAL, Reply(reply))])
    assert verdict.outcome is outcome
    assert reason in verdict.reason


def test_ifeval_names_the_package_that_it_needs(judge, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"lm-eval\[ifeval\]"):
        judge.check(["ifeval"])


@pytest.mark.filterwarnings("ignore")
def test_ifeval_as_the_harness_judges_it(judge):
    pytest.importorskip("lm_eval", reason="the rules of IFEval are lm-evaluation-harness's")
    instructions = [
        {"id": "punctuation:no_comma", "arguments": {}},
        {"id": "length_constraints:number_words", "arguments": {"relation": "at least", "num_words": 4}},
        {"id": "detectable_format:number_highlighted_sections", "arguments": {"num_highlights": 1}},
    ]
    problem = Problem("1", "Write.", "", "ifeval", details={"instructions": instructions})
    replies = ["*one* two three four", "*one* two", "*one*, two three four", "one two three four"]
    verdicts = judge.judge([(problem, Reply(text)) for text in replies])
    assert [v.outcome.value for v in verdicts] == ["right", "wrong", "wrong", "wrong"]
    assert "number_words" in verdicts[1].reason
    assert "no_comma" in verdicts[2].reason
    assert "highlighted" in verdicts[3].reason
