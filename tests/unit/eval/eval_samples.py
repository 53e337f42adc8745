"""Samples for the tests of evaluation."""

from k15.eval.problem import Sample
from k15.types import Outcome

OUTCOMES = {
    "r": Outcome.RIGHT,
    "w": Outcome.WRONG,
    "n": Outcome.NO_ANSWER,
    "t": Outcome.TIMEOUT,
    "f": Outcome.FAULT,
}


def make_sample(problem="p", index=0, outcome="r", answer="", **fields):
    """A sample with the outcome of a letter: right, wrong, no answer, timeout, fault."""
    values = {
        "benchmark": "b",
        "problem": problem,
        "index": index,
        "question": "?",
        "gold": "1",
        "verifier": "math",
        "difficulty": "",
        "details": {},
        "reply": "",
        "in_thought": False,
        "num_tokens": 10,
        "stop": "end",
        "outcome": OUTCOMES[outcome],
        "extracted": answer,
        "reason": "",
    }
    return Sample(**values | fields)


def make_samples(**problems):
    """`make_samples(a="rrw", b="n")`: three samples of problem a, one of b."""
    return [
        make_sample(problem, index, letter)
        for problem, letters in problems.items()
        for index, letter in enumerate(letters)
    ]
