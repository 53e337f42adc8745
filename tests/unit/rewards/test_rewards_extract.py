"""Where the answer of a reply is found, and where there is none."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k15.rewards.extract import extract_answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"\boxed{42}", "42"),
        (r"first \boxed{41}, hence in the end \boxed{42}.", "42"),
        (r"\boxed{42}, which I take back: \boxed{41}", "41"),
        (r"<think>\boxed{1}</think> so \boxed{2}", "2"),
        (r"<think>a</think> \boxed{1} <think>b</think> \boxed{2}", "2"),
        (r"thought</think>\boxed{3}", "3"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x \mid x > 0\right\}}", r"\left\{x \mid x > 0\right\}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\\boxed{7}", "7"),
        (r"\boxed{\boxed{42}}", "{42}"),
        (r"\boxed{x = \boxed{3} + 1}", "x = {3} + 1"),
        (r"\boxed{42\}", "42"),
        (r"a stray { before, then \boxed{5}", "5"),
        (r"\boxed{1} and \boxed{2}, and \boxed{3}", "1, 2, 3"),
        (r"$\boxed{1}$, $\boxed{1}$", "1"),
        ("\\boxed{1}\n\n\\boxed{2}", "2"),
        ("Final answer: 42", "42"),
        ("**Answer:** 42", "42"),
        ("The answer is 17. (42)", "17"),
        ("The answer is 3.5.", "3.5"),
        ("She has 4 left.\n#### 4\n", "4"),
        ("Answer:\n\n  $x+1$\nI hope this helps.", "$x+1$"),
        ("The answer is 1. No: the answer is 2.", "2"),
        (r"#### 1, and \boxed{2}", "2"),
    ],
)
def test_the_final_answer_is_found(reply, answer):
    assert extract_answer(reply).text == answer


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "neither"),
        ("the result must be 42", "neither"),
        ("$41=42$", "neither"),
        (r"<think> the value is \boxed{42}", "never closed"),
        (r"<think>\boxed{42}</think> done", "neither"),
        (r"<think>a</think>\boxed{1}<think>on second thought", "never closed"),
        (r"\boxed{42", "never closed"),
        (r"\boxed{1} or rather \boxed{42", "never closed"),
        (r"\boxed{}", "empty"),
        ("The answer is", "nothing follows"),
        (r"\boxed{" + "9" * 1001 + "}", "longer than 1000"),
        ("#### " + "9" * 1001, "longer than 1000"),
    ],
)
def test_no_answer_says_why(reply, reason):
    extraction = extract_answer(reply)
    assert extraction.text == ""
    assert reason in extraction.reason


def test_a_reply_that_begins_inside_a_thought_must_close_it():
    assert extract_answer(r"\boxed{42}", in_thought=True).text == ""
    assert extract_answer(r"so </think> \boxed{42}", in_thought=True).text == "42"


@pytest.mark.parametrize(
    "reply",
    [
        r"\boxed{" * 10000,
        r"\boxed{" * 10000 + "1" + "}" * 10000,
        "}" * 100000,
        "{" * 100000,
        "\\" * 100000,
        "answer is " * 20000,
        "<think>" * 20000,
        r"\boxed{1} and " * 10000,
        (r"\boxed" + " " * 30) * 5000,
    ],
)
def test_long_hostile_replies_cost_little(reply):
    start = time.process_time()
    extract_answer(reply)
    assert time.process_time() - start < 1.0


pieces = st.sampled_from(
    [
        r"\boxed{",
        r"\fbox{",
        "{",
        "}",
        r"\{",
        r"\}",
        "\\",
        "42",
        "<think>",
        "</think>",
        "\n",
        " and ",
        "answer is ",
        "#### ",
    ]
)


@given(st.lists(pieces, max_size=30).map("".join) | st.text(max_size=60))
def test_an_extraction_has_either_an_answer_or_a_reason(reply):
    extraction = extract_answer(reply)
    assert bool(extraction.text) != bool(extraction.reason)


@given(st.text(alphabet="ab{}\\ 1", max_size=20))
def test_what_stands_in_balanced_braces_comes_out_whole(content):
    depth = 0
    escaped = False
    for char in content:
        depth += 0 if escaped else {"{": 1, "}": -1}.get(char, 0)
        escaped = char == "\\" and not escaped
        if depth < 0:
            return
    if depth or escaped or not content.strip():
        return
    assert extract_answer(rf"thus \boxed{{{content}}}").text == content.strip()
