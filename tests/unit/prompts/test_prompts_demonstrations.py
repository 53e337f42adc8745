"""Demonstrations: what is read from a file, what is refused and how, and what the families write."""

import gzip
import json

import pytest

from k15.config.sft import SFTDataConfig
from k15.errors import ConfigError, DataError
from k15.prompts.demonstrations import load_demonstrations
from k15.tasks import get_family
from k15.types import Outcome

GOOD = {"prompt": "What is 2 plus 2?", "completion": "<think>2, 3, 4</think>4"}


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def load(path, **settings):
    return load_demonstrations(SFTDataConfig(path=path, **settings))


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GOOD, (GOOD["prompt"], GOOD["completion"], "")),
        ({"question": "a", "answer": "b\n#### 4"}, ("a", "b\n#### 4", "")),
        ({"prompt": "a", "response": " b\n"}, ("a", " b\n", "")),
        ({"prompt": "a", "completion": "b", "system": "Be brief."}, ("a", "b", "Be brief.")),
        ({"prompt": "a", "completion": "b", "system": None, "id": 7}, ("a", "b", "")),
        (chat(("user", "a"), ("assistant", "b")), ("a", "b", "")),
        (chat(("system", "s"), ("user", "a"), ("assistant", "b")), ("a", "b", "s")),
    ],
)
def test_forms_of_a_row(write, row, expected):
    [item] = load(write(row)).items
    assert (item.question, item.completion, item.system) == expected
    assert item.source.endswith("rows.jsonl, line 1")


def test_the_settings_system_message_is_for_rows_without_one(write):
    rows = [GOOD, {**GOOD, "system": "own"}, chat(("user", "a"), ("assistant", "b"))]
    assert [item.system for item in load(write(*rows), system="all").items] == ["all", "own", "all"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_rows_stay_in_order_and_blank_lines_count(write, name):
    rows = [{"prompt": f"q{n}", "completion": f"c{n}"} for n in range(30)]
    items = load(write(*rows[:3], "", *rows[3:], name=name)).items
    assert [item.question for item in items] == [row["prompt"] for row in rows]
    assert [int(item.source.rpartition(" ")[2]) for item in items[:5]] == [1, 2, 3, 5, 6]


def test_a_json_array_is_a_file_too(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([GOOD, GOOD], indent=1))
    assert len(load(tmp_path / "rows.json").items) == 2


BAD = [
    ('{"prompt": ', "is not valid JSON"),
    ('"text"', "must be a JSON object; got 'text'"),
    ({"completion": "b"}, 'field "prompt" is missing: a row needs "prompt" or "question"'),
    ({"prompt": "a"}, 'field "completion" is missing'),
    ({"prompt": "", "completion": "b"}, 'field "prompt" must be a text that is not empty'),
    ({"prompt": "a", "completion": "  \n"}, 'field "completion" must be a text that is not empty'),
    (
        {"prompt": "a", "completion": ["b"]},
        'field "completion" must be a text that is not empty; got \'["b"]\'',
    ),
    ({"prompt": "a", "completion": None}, 'field "completion" must be a text'),
    ({"prompt": "a", "completion": 4}, 'field "completion" must be a text'),
    ({"prompt": "a", "completion": "b", "system": 4}, 'field "system" must be a text'),
    ('{"prompt": "a", "completion": "\\ud83d"}', 'field "completion" holds half a surrogate pair'),
    ({"messages": "a"}, 'field "messages" must be a list of objects with role and content'),
    ({"messages": [["user", "a"]]}, 'field "messages" must be a list of objects'),
    ({"messages": []}, 'field "messages" must be one question and one answer'),
    (chat(("user", "a")), "must be one question and one answer; got '[\"user\"]'"),
    (chat(("assistant", "b"), ("user", "a")), "must be one question and one answer"),
    (
        chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
        "must be one question and one answer",
    ),
    (chat(("user", "a"), ("assistant", None)), 'field "messages" must have texts as content'),
    (
        chat(("system", 3), ("user", "a"), ("assistant", "b")),
        'field "messages" must have texts as content',
    ),
    (chat(("user", "a"), ("assistant", "")), "must be a text that is not empty"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_a_malformed_row_is_named_or_skipped(write, row, message):
    path = write(GOOD, "", row, GOOD)
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value)
    assert "or set data.skip_bad_rows to skip and count such rows." in str(caught.value)
    result = load(path, skip_bad_rows=True)
    assert (len(result.items), result.num_skipped) == (2, 1)


def test_skipped_rows_are_counted_by_what_is_wrong(write):
    path = write(GOOD, {"prompt": "a"}, "{", "[1", {"prompt": "b"})
    skipped = load(path, skip_bad_rows=True).skipped
    assert sorted(skipped.values()) == [2, 2]
    assert "is not valid JSON" in skipped


def test_a_file_without_a_usable_row_is_refused(write):
    with pytest.raises(DataError, match="no usable row"):
        load(write("{", "{"), skip_bad_rows=True)
    with pytest.raises(DataError, match="is empty"):
        load(write())


def test_a_missing_file_is_refused_under_the_name_of_its_setting(tmp_path):
    with pytest.raises(DataError, match=r"data\.path must be a file; .*absent\.jsonl does not exist"):
        load(tmp_path / "absent.jsonl")


def generated(**settings):
    task = {"family": "trial", "levels": [1, 2], "num_train": 20}
    return load_demonstrations(SFTDataConfig.model_validate({"tasks": [task], **settings}))


def test_families_write_as_many_as_asked_for_and_always_the_same():
    first, again, other = generated(), generated(), generated(seed=1)
    assert len(first.items) == 20
    assert first == again != other
    assert first.num_skipped == 0


def test_families_follow_one_another_with_the_system_message():
    tasks = [{"family": name, "levels": [1], "num_train": 3} for name in ("trial", "countdown")]
    items = load_demonstrations(SFTDataConfig.model_validate({"tasks": tasks, "system": "Think."})).items
    assert [item.source for item in items] == [
        f"{name} {n}" for name in ("trial", "countdown") for n in range(3)
    ]
    assert {item.system for item in items} == {"Think."}


def verdicts(items):
    family = get_family("trial")
    answers = {p.question: p.answer for p in family.problems(0, [1, 2], 200, "train")}
    return [family.verify(i.question, answers[i.question], i.completion).outcome for i in items]


def test_verified_demonstrations_are_all_right_and_the_others_are_not():
    """Section 2.2 keeps what is verified; the warm-up of the demo keeps honest failures, too."""
    task = {"family": "trial", "levels": [1, 2], "num_train": 60}
    everything, verified = (
        load_demonstrations(SFTDataConfig.model_validate({"tasks": [task], "keep": keep})).items
        for keep in ("all", "verified")
    )
    assert set(verdicts(verified)) == {Outcome.RIGHT}
    assert set(verdicts(everything)) > {Outcome.RIGHT}


def test_short_demonstrations_are_shorter():
    long, short = (
        sum(len(i.completion) for i in generated(style=style).items) for style in ("long", "short")
    )
    assert short < long


def test_an_unknown_family_is_named():
    with pytest.raises(ConfigError, match="trial"):
        load_demonstrations(SFTDataConfig.model_validate({"tasks": [{"family": "trail"}]}))
