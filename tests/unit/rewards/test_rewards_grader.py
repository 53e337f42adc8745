"""The router: each completion to the verifier its prompt names; our faults never become wrong answers."""

import os
import signal
from dataclasses import replace

import pytest

import k15.tasks
from k15.config.answers import read_rules
from k15.config.rl import RewardsConfig
from k15.errors import ConfigError, GraderFaultError
from k15.models.tokenizer import build_tokenizer
from k15.record.metrics import completion_metrics
from k15.record.rows import GradedGroup, rollout_rows
from k15.rewards.grader import Grader
from k15.stages.iteration import IterationLog
from k15.types import (
    DEFAULT_RULES,
    AnswerRules,
    Audit,
    Group,
    Outcome,
    Prompt,
    Segment,
    StopReason,
    Trajectory,
    Verdict,
)

TOKENIZER = build_tokenizer(["the answer is 1 2 3 so we think boxed"])
assert isinstance(TOKENIZER.eos_token_id, int)
END = TOKENIZER.eos_token_id


def prompt(
    verifier: str = "math",
    *,
    answer: str = "42",
    tail: str = "<|assistant|>",
    rules: AnswerRules = DEFAULT_RULES,
) -> Prompt:
    token_ids = ids("<|user|>a question" + tail)
    return Prompt("p", "a question", answer, verifier, "test", token_ids=token_ids, rules=rules)


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text, add_special_tokens=False))


def group(prompt: Prompt, *texts: str, stop: StopReason = StopReason.END, ordinal: int = 0) -> Group:
    """Completions in two segments each; one that ended has the end token as its last."""
    trajectories = []
    for index, text in enumerate(texts):
        tokens = ids(text) + ((END,) if stop is StopReason.END else ())
        cut = len(tokens) // 2
        segments = [
            Segment(ordinal, index, 0, tokens[:cut], (0.0,) * cut, 0, "f", None),
            Segment(ordinal, index, cut, tokens[cut:], (0.0,) * (len(tokens) - cut), 1, "g", stop),
        ]
        trajectories.append(Trajectory(ordinal, index, tuple(segments)))
    return Group(ordinal, prompt, 0, tuple(trajectories))


class FakeFamily:
    """Pays a reply equal to the answer; "break" breaks it, "break once 42" the first time only."""

    def __init__(self):
        self.seen = []

    def verify(self, problem_question: str, answer: str, reply: str) -> Verdict:
        is_new = (problem_question, answer, reply) not in self.seen
        self.seen.append((problem_question, answer, reply))
        if reply.startswith("break") and (is_new or not reply.startswith("break once")):
            raise RecursionError("a defect")
        reply = reply.removeprefix("break once ")
        return Verdict(Outcome.RIGHT if reply == answer else Outcome.WRONG, "compared")


class PaysAll:
    def verify(self, problem_question: str, answer: str, reply: str) -> Verdict:
        return Verdict(Outcome.RIGHT)


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


def test_a_fault_is_judged_again_before_it_is_left_out(grader, family):
    [row] = grader.grade([group(prompt("task:fake"), "break once 42", "break", "41", "42")])
    assert [v.outcome for v in row] == [Outcome.RIGHT, Outcome.FAULT, Outcome.WRONG, Outcome.RIGHT]
    replies = [reply for _, _, reply in family.seen]
    assert replies == ["break once 42", "break", "41", "42", "break once 42", "break"]


def test_without_retries_a_fault_is_one_at_once(family):
    config = RewardsConfig(max_fault_share=1.0, fault_retries=0)
    with Grader(config, TOKENIZER) as grader:
        [row] = grader.grade([group(prompt("task:fake"), "break once 42")])
    assert row[0].outcome is Outcome.FAULT


def test_a_grading_process_that_dies_is_replaced_and_its_answer_judged(grader):
    formula = prompt(answer="3x")
    grader.grade([group(formula, r"\boxed{x+x+x}")])
    for pid in grader._math.process_ids:
        os.kill(pid, signal.SIGKILL)
    [row] = grader.grade([group(formula, r"\boxed{4x-x}", r"\boxed{4x}")])
    assert [v.outcome for v in row] == [Outcome.RIGHT, Outcome.WRONG]


def test_the_rules_of_the_prompt_decide(grader):
    ordered = prompt(answer="1, 2", rules=read_rules({"require": ["order"]}))
    rows = grader.grade([group(prompt(answer="1, 2"), r"\boxed{2, 1}"), group(ordered, r"\boxed{2, 1}")])
    assert [row[0].outcome for row in rows] == [Outcome.RIGHT, Outcome.WRONG]


def test_a_verdict_says_where_the_answer_stands(grader):
    texts = (
        r"<think>\boxed{1}</think> so \boxed{ 42 }!",
        "the answer is 42. yes",
        r"\boxed{42",
        r"\boxed{4\}",
    )
    finished = group(prompt(), *texts)
    [row] = grader.grade([finished])
    read = [text[slice(*v.span)] if v.span else None for text, v in zip(texts, row, strict=True)]
    assert read == ["42", "42", None, "4"]
    assert [grader.completion_text(t) for t in finished.trajectories] == list(texts)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_sample_drawn_by_the_seed_is_audited(share):
    texts = [r"\boxed{42}", r"\boxed{41}", "42", r"\boxed{42 \pm 0}"] * 10
    groups = [group(prompt(), *texts, ordinal=ordinal) for ordinal in range(10)]

    def audits(seed: int, groups: list[Group]) -> dict:
        with Grader(RewardsConfig(audit_share=share), TOKENIZER, seed=seed) as grader:
            rows = grader.grade(groups)
        return {
            (g.ordinal, i): v.audit
            for g, row in zip(groups, rows, strict=True)
            for i, v in enumerate(row)
        }

    found = audits(0, groups)
    assert found == audits(0, groups[::-1])  # whatever else is graded, in whatever order
    asked = {place for place, audit in found.items() if audit is not None}
    assert abs(len(asked) - share * 400) < 40
    expected = [Audit.RIGHT, Audit.WRONG, Audit.WRONG, Audit.UNSURE]
    assert all(found[place] is expected[place[1] % 4] for place in asked)
    if 0 < share < 1:
        assert asked != {place for place, audit in audits(1, groups).items() if audit is not None}


def test_no_opinion_on_faults_and_on_families_that_the_auditor_does_not_know(family):
    config = RewardsConfig(max_fault_share=1.0, audit_share=1.0)
    with Grader(config, TOKENIZER) as grader:
        [row] = grader.grade([group(prompt("task:fake"), "break", "42")])
    assert [v.audit for v in row] == [None, None]


def test_a_verdict_that_the_auditor_disputes_is_stored_counted_and_told(monkeypatch):
    """A family that pays everything under the name of a real one: the auditor notices."""
    question = "Find a digit k so that 63 + k * 37 ends in 5."
    real = replace(prompt("task:trial", answer="6"), question=question)
    with Grader(RewardsConfig(audit_share=1.0), TOKENIZER) as grader:
        monkeypatch.setattr(k15.tasks, "get_family", lambda name: PaysAll())
        [row] = grader.grade([group(real, "<think>a</think>\nAnswer: 6", "<think>a</think>\nAnswer: 7")])
    assert [v.is_disputed for v in row] == [False, True]
    graded = GradedGroup(group(real, "a", "b"), row, [1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [1, 1])
    stored = list(rollout_rows(0, [graded], lambda ids: ""))
    assert [entry["audit"] for entry in stored] == ["right", "wrong"]
    metrics = completion_metrics(stored)
    assert (metrics["audit/num_asked"], metrics["audit/num_disputed"]) == (2, 1)
    assert metrics["audit/disputed_share"] == 0.5
    log = IterationLog(0, rows=stored)
    log._check()
    [(kind, message)] = log.warnings
    assert kind == "disputed"
    assert "disputes 1 verdicts" in message
    assert "p sample 1" in message


def test_prompts_whose_gold_is_not_right_for_itself_are_named(grader):
    good, bad = (
        prompt(),
        replace(prompt(answer="maybe"), prompt_id="bad", rules=read_rules({"type": "choice"})),
    )
    kept, refused = grader.without_refused([good, bad])
    assert kept == [good]
    assert list(refused) == ["bad"]
    assert "names no option" in refused["bad"]


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
