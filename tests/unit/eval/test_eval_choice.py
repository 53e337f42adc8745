"""Multiple choice: what a reply chooses. The numbers are those of the list of hard cases this was built against."""

import pytest

from k15.eval.choice import ask, chosen_letter, judge_choice
from k15.types import Outcome

FRACTIONS = ["3/7", "3/11", "8/11", "4/11"]


@pytest.mark.parametrize(
    "answer",
    ["(B)", "B.", "B) 3/11", "option B", "b", "(b)", "B", "**B**", r"\text{B}", r"\textbf{(B)}", "$B$",
     "B. 3/11", "B: 3/11", "B (3/11)", "(B) 3/11", "Option (B)", "选项B", "B）3/11", "B because 3/11 is it",
     "3/11", "$3/11$", "not A but B", "B。", "B) because (C) is worse"],
)  # fmt: skip
def test_one_option_is_chosen(answer):
    assert chosen_letter(answer, FRACTIONS) == "B"


@pytest.mark.parametrize(
    "answer",
    ["A or B", "A, B, C, D", "A and B", "(A) or (B)", "B. 8/11", "B or not", "E", "", "5/11", "A dog",
     "A is wrong, B is right", "not A but A"],
)  # fmt: skip
def test_a_hedge_or_a_stranger_chooses_nothing(answer):
    assert chosen_letter(answer, FRACTIONS) == ""


def test_the_text_of_two_options_chooses_neither():
    assert chosen_letter("Paris", ["Paris", "paris.", "Rome"]) == ""
    assert chosen_letter("B", ["Paris", "paris.", "Rome"]) == "B"


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("<think>A? B?</think> The answer is B.", Outcome.RIGHT),
        (r"So \boxed{B}", Outcome.RIGHT),
        ("Answer: C) 8/11", Outcome.WRONG),
        ("B", Outcome.RIGHT),
        ("(C)", Outcome.WRONG),
        ("<think>it is B", Outcome.NO_ANSWER),
        ("I like all of them", Outcome.NO_ANSWER),
        ("", Outcome.NO_ANSWER),
        (r"\boxed{A \text{ or } B}", Outcome.NO_ANSWER),
    ],
)
def test_verdicts_of_replies(reply, outcome):
    assert judge_choice("B", FRACTIONS, reply).outcome is outcome


def test_a_thought_that_the_prompt_opened_must_be_closed():
    assert judge_choice("B", FRACTIONS, "B", in_thought=True).outcome is Outcome.NO_ANSWER
    assert judge_choice("B", FRACTIONS, "hm</think>B", in_thought=True).outcome is Outcome.RIGHT


def test_the_question_shows_its_options():
    assert ask("Which?", ["x", "y"]) == "Which?\n\nA. x\nB. y"
