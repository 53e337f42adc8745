"""A prompt whose gold answer is not right for itself is named and left out before a run starts."""

import pytest

from k15.config.answers import read_rules
from k15.config.rl import RewardsConfig
from k15.errors import DataError
from k15.models.tokenizer import build_tokenizer
from k15.prompts.load import PromptSet
from k15.rewards.grader import Grader
from k15.stages.launch import _without_refused
from k15.stages.watch import Watch
from k15.types import Prompt

CHOICE = read_rules({"type": "choice"})
GOOD = Prompt("good", "q", "B", "math", "f", rules=CHOICE)
BAD = tuple(Prompt(f"bad{n}", "q", "both", "math", "f", rules=CHOICE) for n in range(8))
FAMILY = Prompt("digit", "q", "6", "task:trial", "trial")


class Lines(Watch):
    def __init__(self) -> None:
        super().__init__("steps", 1, quiet=True)
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)


def judged(train, heldout=()):
    watch = Lines()
    with Grader(RewardsConfig(), build_tokenizer(["a"])) as grader:
        return _without_refused(grader, PromptSet(tuple(train), tuple(heldout)), watch), watch.said


def test_the_others_stay_in_their_order_and_the_reason_is_told():
    kept, said = judged([BAD[0], GOOD, FAMILY], [BAD[1], GOOD])
    assert kept.train == (GOOD, FAMILY)
    assert kept.heldout == (GOOD,)
    assert len(said) == 2
    assert "bad0 cannot be judged: the gold answer names no option" in said[0]


def test_nothing_is_said_where_all_is_well():
    kept, said = judged([GOOD, FAMILY])
    assert kept.train == (GOOD, FAMILY)
    assert said == []


def test_many_are_counted_and_none_left_is_an_error():
    _, said = judged([GOOD, *BAD])
    assert len(said) == 6
    assert "8 prompts in all" in said[-1]
    with pytest.raises(DataError, match="none of 8 is"):
        judged(BAD)
