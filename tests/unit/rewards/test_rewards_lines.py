"""`k15 grade math`: one line in, one line out, whatever the line holds."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k15.rewards.lines import grade_math_lines


def test_pairs_and_replies_in_order():
    lines = [
        {"id": "a", "gold": "1/2", "answer": "0.5"},
        {"id": 7, "gold": "42", "reply": r"<think>\boxed{42}</think> hm"},
        {"id": None, "gold": "x^2-1", "answer": "(x-1)(x+1)"},
        {"id": "d", "gold": 42, "reply": r"\boxed{41}"},
    ]
    rows = list(grade_math_lines(json.dumps(line) + "\n" for line in lines))
    assert [row["id"] for row in rows] == ["a", 7, None, "d"]
    assert [row["verdict"] for row in rows] == ["right", "no_answer", "right", "wrong"]
    assert [row["correct"] for row in rows] == [True, False, True, False]
    assert all(set(row) == {"id", "verdict", "correct", "reason", "span", "seconds"} for row in rows)
    json.dumps(rows)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 1 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"id": 3, "gold": "1"}', 'either "answer" or "reply"'),
        ('{"id": 3, "gold": "1", "answer": "1", "reply": "1"}', 'either "answer" or "reply"'),
        ('{"id": 3, "answer": "1"}', '"gold" must be a text; got null'),
        ('{"id": 3, "gold": " ", "answer": "1"}', '"gold" must be a text'),
        ('{"id": 3, "gold": "1", "answer": null}', '"answer" must be a text; got null'),
        ('{"id": 3, "gold": "1", "reply": ["1"]}', '"reply" must be a text'),
    ],
)
def test_a_malformed_line_is_a_fault_and_the_next_is_graded(line, reason):
    first, second = grade_math_lines([line, '{"id": "next", "gold": "1", "answer": "1"}'])
    assert (first["verdict"], first["correct"]) == ("fault", None)
    assert reason in first["reason"]
    assert first["id"] == (3 if '"id": 3' in line else None)
    assert (second["id"], second["correct"]) == ("next", True)


def test_each_verdict_comes_before_the_next_line_is_read():
    read = []

    def lines():
        for number in range(3):
            read.append(number)
            yield json.dumps({"id": number, "gold": "1", "answer": "1"})

    for row in grade_math_lines(lines()):
        assert read[-1] == row["id"]


def test_blank_lines_are_passed_over():
    assert list(grade_math_lines(["\n", "  "])) == []


def test_lone_surrogates_survive_the_way_to_a_process_and_back():
    [row] = grade_math_lines(['{"id": "\\ud800", "gold": "x\\ud800", "answer": "x\\udfff + 1 + y"}'])
    assert row["verdict"] in ("wrong", "no_answer")


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2)
)


@given(st.dictionaries(st.sampled_from(["id", "gold", "answer", "reply", "x"]), values) | values)
def test_any_json_line_has_one_verdict(value):
    [row] = grade_math_lines([json.dumps(value)])
    assert row["verdict"] in ("right", "wrong", "no_answer", "timeout", "fault")
    assert (row["correct"] is None) == (row["verdict"] == "fault")


def test_no_file_descriptor_is_left():
    line = json.dumps({"id": 1, "gold": "x", "answer": "2x - x"})
    list(grade_math_lines([line]))
    before = len(os.listdir("/proc/self/fd"))
    list(grade_math_lines([line]))
    assert len(os.listdir("/proc/self/fd")) == before
