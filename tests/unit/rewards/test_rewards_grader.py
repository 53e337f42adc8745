"""The router: each completion to the verifier its prompt names; our faults never become wrong answers."""

import os

import pytest

import k15.tasks
from k15.config.rl import RewardsConfig
from k15.errors import ConfigError, GraderFaultError
from k15.models.tokenizer import build_tokenizer
from k15.rewards.grader import Grader
from k15.types import Group, Outcome, Prompt, Segment, StopReason, Trajectory, Verdict

TOKENIZER = build_tokenizer(["the answer is 1 2 3 so we think boxed"])


def prompt(verifier: str = "math", *, answer: str = "42", tail: str = "<|assistant|>") -> Prompt:
    return Prompt(
        "p", "a question", answer, verifier, "test", token_ids=ids("<|user|>a question" + tail)
    )


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def group(prompt: Prompt, *texts: str, stop: StopReason = StopReason.END, ordinal: int = 0) -> Group:
    """Completions in two segments each; one that ended has the end token as its last."""
    trajectories = []
    for index, text in enumerate(texts):
        tokens = ids(text) + ((TOKENIZER.eos_token_id,) if stop is StopReason.END else ())
        cut = len(tokens) // 2
        segments = [
            Segment(ordinal, index, 0, tokens[:cut], (0.0,) * cut, 0, "f", None),
            Segment(ordinal, index, cut, tokens[cut:], (0.0,) * (len(tokens) - cut), 1, "g", stop),
        ]
        trajectories.append(Trajectory(ordinal, index, tuple(segments)))
    return Group(ordinal, prompt, 0, tuple(trajectories))


class FakeFamily:
    """Pays a reply equal to the answer; anything that starts with "break" breaks it."""

    def __init__(self):
        self.seen = []

    def verify(self, problem_question: str, answer: str, reply: str) -> Verdict:
        self.seen.append((problem_question, answer, reply))
        if reply.startswith("break"):
            raise RecursionError("a defect")
        return Verdict(Outcome.RIGHT if reply == answer else Outcome.WRONG, "compared")


@pytest.fixture
def family(monkeypatch):
    fake = FakeFamily()

    def get_family(name: str) -> FakeFamily:
        if name != "fake":
            raise ConfigError(f"no family {name}")
        return fake

    monkeypatch.setattr(k15.tasks, "get_family", get_family, raising=False)
    return fake


@pytest.fixture(scope="module")
def grader():
    with Grader(RewardsConfig(max_fault_share=0.5), TOKENIZER) as grader:
        yield grader


def test_verdicts_stand_where_their_trajectories_stand(grader, family):
    rows = grader.grade(
        [
            group(prompt(), r"<think>hm</think>\boxed{42}", r"<think>\boxed{42}</think>", r"\boxed{41}"),
            group(prompt("task:fake"), "42", "41"),
            group(prompt(answer="x^2-1"), r"\boxed{(x-1)(x+1)}", ""),
        ]
    )
    assert [[v.outcome.value for v in row] for row in rows] == [
        ["right", "no_answer", "wrong"],
        ["right", "wrong"],
        ["right", "no_answer"],
    ]
    assert rows[0][0].extracted == "42"
    assert grader.grade([]) == []


def test_a_family_sees_the_question_the_answer_and_the_text_without_the_end_token(grader, family):
    grader.grade([group(prompt("task:fake"), "<think>so</think> 1")])
    assert family.seen == [("a question", "42", "<think>so</think> 1")]


@pytest.mark.parametrize("stop", [StopReason.LENGTH, StopReason.REPEAT])
def test_a_completion_that_was_cut_off_is_judged_by_the_same_rule(grader, stop):
    cut = group(
        prompt(), r"<think>so \boxed{42}", r"<think>so</think>\boxed{42}", r"\boxed{42", stop=stop
    )
    assert [v.outcome.value for v in grader.grade([cut])[0]] == ["no_answer", "right", "no_answer"]
    assert grader.completion_text(cut.trajectories[2]) == r"\boxed{42"  # no token is taken off


def test_a_prompt_that_opens_the_thought_needs_it_closed(grader):
    opened = prompt(tail="<|assistant|><think>\n")
    [row] = grader.grade([group(opened, r"\boxed{42}", r"so</think>\boxed{42}")])
    assert [v.outcome.value for v in row] == ["no_answer", "right"]


def test_a_verifier_that_breaks_is_our_fault_and_not_a_wrong_answer(grader, family):
    [row] = grader.grade([group(prompt("task:fake"), "break", "42")])
    assert [v.outcome for v in row] == [Outcome.FAULT, Outcome.RIGHT]
    assert row[0].reason == "task:fake broke: RecursionError: a defect"
    assert not row[0].is_valid


def test_too_many_faults_stop_the_run_and_name_the_commonest(grader, family):
    groups = [group(prompt("task:fake"), "break", "break", "42"), group(prompt(answer=" "), "1")]
    with pytest.raises(GraderFaultError, match=r"got 3 of 4.*2 times: task:fake broke: RecursionError"):
        grader.grade(groups)


def test_faults_up_to_the_share_are_let_through(grader, family):
    [row] = grader.grade([group(prompt("task:fake"), "break", "42")])
    assert row[0].outcome is Outcome.FAULT  # a share of 0.5, and 0.5 is allowed


@pytest.mark.parametrize(
    ("verifier", "message"),
    [("maths", 'must be "math", "code" or "task:NAME"'), ("", "must be"), ("task:x", "no family x")],
)
def test_an_unknown_verifier_is_refused_before_anything_is_generated(grader, family, verifier, message):
    with pytest.raises(ConfigError, match=message):
        grader.check([prompt(), prompt("task:fake"), prompt(verifier)])
    grader.check([prompt(), prompt("task:fake")])


def test_closing_ends_the_processes():
    grader = Grader(RewardsConfig(), TOKENIZER)
    grader.grade([group(prompt(answer="2x"), r"\boxed{x+x}")])
    [pid] = grader._math.process_ids
    grader.close()
    assert grader._math.process_ids == ()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
