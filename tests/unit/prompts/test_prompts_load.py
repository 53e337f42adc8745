"""Prompt files: what is read, what is refused and how, what is held out, and how it is rendered."""

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import k15.tasks
from k15.config.parts import PromptsConfig, TaskConfig
from k15.errors import ConfigError, DataError, ModelError
from k15.models.tokenizer import build_tokenizer
from k15.prompts.load import PromptSet, load_prompts
from k15.prompts.render import render_prompt

TOKENIZER = build_tokenizer(["what is plus the sum of"])
QUESTIONS = [f"What is {n} plus {n}?" for n in range(20)]
ROWS = [{"question": q, "answer": str(2 * n)} for n, q in enumerate(QUESTIONS)]


@pytest.fixture
def write(tmp_path):
    def write(content, name="sums.jsonl") -> Path:
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def load(path: Path, **settings) -> PromptSet:
    return load_prompts(PromptsConfig(path=path, **{"num_heldout": 0, **settings}), TOKENIZER)


def test_gsm8k_rows(write):
    row = {"question": "How many?", "answer": "He has 2+2 = <<2+2=4>>4.\nThen #1, so\n#### 1,004"}
    [prompt] = load(write([row], "gsm8k_train.jsonl")).train
    assert (prompt.question, prompt.answer, prompt.verifier) == ("How many?", "1,004", "math")
    assert (prompt.family, prompt.difficulty, prompt.system) == ("gsm8k_train", None, "")


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        ({"prompt": "a", "answer": "1"}, "a", "1"),
        ({"problem": "a", "answer": r"\frac{1}{2}", "solution": "long"}, "a", r"\frac{1}{2}"),
        ({"problem": "a", "solution": r"so \boxed{1}, no, \boxed{\frac{1}{2}}."}, "a", r"\frac{1}{2}"),
        ({"problem": "a", "solution": "so\n#### 7"}, "a", "7"),
        ({"question": " a ", "answer": 204}, "a", "204"),
        ({"question": "a", "gold": "x"}, "a", "x"),
        ({"question": "a", "answer": None, "solution": "#### 3"}, "a", "3"),
    ],
)
def test_names_of_the_fields(write, row, question, answer):
    [prompt] = load(write([row])).train
    assert (prompt.question, prompt.answer) == (question, answer)


def test_a_row_may_set_everything_itself(write):
    own = {"id": 7, "level": "Level 3", "family": "algebra", "verifier": "task:x", "system": "Be brief."}
    [prompt, other] = load(
        write([{"question": "a", "answer": "1", **own}, ROWS[0]]), system="Think."
    ).train
    assert (prompt.prompt_id, prompt.difficulty, prompt.family) == ("7", 3.0, "algebra")
    assert (prompt.verifier, prompt.system) == ("task:x", "Be brief.")
    assert (other.verifier, other.system, other.family) == ("math", "Think.", "sums")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz"])
@pytest.mark.parametrize("form", ["lines", "array", "crlf", "bom"])
def test_forms_of_a_file(write, name, form):
    text = "".join(
        json.dumps(row, ensure_ascii=False) + "\n"
        for row in [*ROWS, {"prompt": "né\u2028 ½", "answer": "1"}]
    )
    content = {
        "lines": text,
        "array": json.dumps([json.loads(line) for line in text.split("\n") if line], indent=1),
        "crlf": text.replace("\n", "\r\n\r\n"),
        "bom": "\ufeff" + text,
    }[form]
    prompts = load(write(content, name)).train
    assert [p.question for p in prompts] == [*QUESTIONS, "né\u2028 ½"]
    assert {p.family for p in prompts} == {"rows"}


BAD = [
    ("{", "Expecting property name", "is not valid JSON"),
    ("[1, 2]", "[1, 2]", "must be a JSON object"),
    ('"text"', "text", "must be a JSON object"),
    (b'{"question": "caf\xe9", "answer": "1"}', r"caf\\xe9", "is not valid UTF-8"),
    (
        '{"answer": "1"}',
        '["answer"]',
        'field "question" is missing: a row needs "question" or "prompt" or "problem"',
    ),
    ('{"question": "a"}', '["question"]', 'field "answer" is missing'),
    ('{"question": null, "answer": "1"}', "null", 'field "question" must be a text'),
    ('{"question": ["a"], "answer": "1"}', '["a"]', 'field "question" must be a text'),
    ('{"question": 3, "answer": "1"}', "3", 'field "question" must be a text'),
    ('{"question": "  ", "answer": "1"}', "  ", 'field "question" must not be empty'),
    ('{"question": "a", "answer": ""}', "", 'field "answer" must not be empty'),
    ('{"question": "a", "answer": true}', "true", 'field "answer" must be a text'),
    (
        '{"question": "a", "answer": "so 4 ####  "}',
        "so 4 ####",
        'field "answer" must have the gold answer after',
    ),
    (
        '{"question": "a", "solution": "so it is 4"}',
        "so it is 4",
        'field "solution" must end in "#### N"',
    ),
    (
        '{"question": "a", "solution": "\\\\boxed{4"}',
        "\\boxed{4",
        'field "solution" must end in "#### N"',
    ),
    ('{"question": "a\\ud800", "answer": "1"}', "a\\\\ud800", "half a surrogate pair"),
    ('{"question": "a", "answer": "1", "level": "hard"}', "hard", 'field "level" must be a number'),
    (
        '{"question": "a", "answer": "1", "difficulty": NaN}',
        "NaN",
        'field "difficulty" must be a number',
    ),
    (
        '{"question": "a", "answer": "1", "difficulty": true}',
        "true",
        'field "difficulty" must be a number',
    ),
    ('{"question": "a", "answer": "1", "verifier": 1}', "1", 'field "verifier" must be a text'),
    ('{"question": "a", "answer": "1", "id": "one"}', "one", 'field "id" stands on line 1 too'),
    ('{"question": "a", "answer": "1", "id": ""}', "", 'field "id" must not be empty'),
    (
        '{"question": "' + "w " * 2000 + '", "answer": "1"}',
        " tokens: w w w",
        "longer than 1024 tokens",
    ),
    (
        '{"question": "a <|end|> b", "answer": "1"}',
        "a <|end|> b",
        "holds the model's control token <|end|>",
    ),
    ('{"question": "<|assistant|>", "answer": "1"}', "<|assistant|>", "control token <|assistant|>"),
    ("[" * 100_000, "[[[", "is not valid JSON"),
    ('{"question": "a", "answer": ' + "9" * 5000 + "}", "999", "is not valid JSON"),
]


@pytest.mark.parametrize(("line", "value", "rule"), BAD)
def test_a_malformed_row_is_named_by_file_line_field_value_and_cure(write, line, value, rule):
    good = json.dumps({"question": "fine", "answer": "1", "id": "one"}).encode()
    line = line if isinstance(line, bytes) else line.encode()
    path = write(good + b"\n\n" + line + b"\n" + json.dumps(ROWS[0]).encode())
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 3: ")
    assert rule in message
    assert value in message
    assert message.endswith("or set prompts.skip_bad_rows to skip and count such rows.")
    assert len(message) < 500

    skipped = load(path, skip_bad_rows=True)
    assert [p.question for p in skipped.train] == ["fine", QUESTIONS[0]]
    assert skipped.num_skipped == 1
    assert sum(skipped.skipped.values()) == 1


def test_skipped_rows_are_counted_by_reason(write):
    rows = [
        ROWS[0],
        {"question": "a"},
        {"question": "b"},
        {"question": "c", "answer": 1.5, "level": "x"},
        [1],
    ]
    loaded = load(write(rows), skip_bad_rows=True)
    assert loaded.num_skipped == 4
    assert loaded.skipped == {
        '"answer" is missing: a row needs "answer" or "gold" or "solution"': 2,
        '"level" must be a number, or a text such as "Level 3"': 1,
        "must be a JSON object": 1,
    }


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "a.jsonl", "is empty"),
        ("\n \n", "a.jsonl", "is empty"),
        ("", "a.jsonl.gz", "is empty"),
        ("[]", "a.json", "at least one prompt must be left to train on"),
        ("{}\n{}", "a.jsonl", "Skipped were 2 x"),
    ],
)
def test_a_file_without_a_usable_row_is_refused(write, content, name, message):
    with pytest.raises(DataError, match=message):
        load(write(content, name), skip_bad_rows=True)


def test_files_that_cannot_be_read(write, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="cannot read the file"):
        load(tmp_path)
    path = write(ROWS, "cut.jsonl.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot read the file"):
        load(path)
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot read the file"):
        load(path)


def test_repeated_questions_are_kept_once(write):
    again = [{"question": "  What is 3\n plus 3? ", "answer": "6"}, ROWS[3]]
    loaded = load(write([*ROWS, *again]))
    assert len(loaded.train) == 20
    assert loaded.num_duplicates == 2
    assert len({p.prompt_id for p in loaded.train}) == 20


def test_held_out_rows_do_not_depend_on_the_order_of_the_file(write):
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    first, second = load(write(ROWS), num_heldout=6), load(write(shuffled), num_heldout=6)
    assert first.heldout == second.heldout
    assert len(first.heldout) == 6
    assert [p.question for p in first.train] == [
        q for q in QUESTIONS if q in {p.question for p in first.train}
    ]
    assert {p.question for p in first.train} | {p.question for p in first.heldout} == set(QUESTIONS)
    assert len(first.train) == 14


def test_held_out_rows_stay_held_out_when_rows_are_added(write):
    before = load(write(ROWS[:15]), num_heldout=5).heldout
    after = load(write(ROWS), num_heldout=5)
    assert len({p.question for p in before} & {p.question for p in after.heldout}) >= 2
    # a suffix or a system message does not change who is held out, nor anybody's name
    asked = load(write(ROWS), num_heldout=5, suffix="Box it.", system="Think.")
    assert [p.prompt_id for p in asked.heldout] == [p.prompt_id for p in after.heldout]


def test_a_file_of_its_own_is_held_out_and_not_trained_on(write):
    heldout = write([ROWS[4], {"question": "new", "answer": "1"}], "test.jsonl")
    loaded = load(write(ROWS), heldout_path=heldout, num_heldout=3)
    assert [p.question for p in loaded.heldout] == [QUESTIONS[4], "new"]
    assert [p.question for p in loaded.train] == [q for q in QUESTIONS if q != QUESTIONS[4]]


def test_held_out_settings_that_leave_nothing_are_refused(write):
    with pytest.raises(DataError, match=r"has 20 usable rows, and prompts\.num_heldout is 20"):
        load(write(ROWS), num_heldout=20)
    with pytest.raises(DataError, match="to evaluate on"):
        load(write(ROWS), heldout_path=write("[]", "test.json"))
    with pytest.raises(DataError, match="has none"):
        load(write(ROWS[:2]), heldout_path=write(ROWS, "test.jsonl"))


def test_the_fingerprint_names_the_data_and_not_its_rendering(write):
    path = write(ROWS)
    other = build_tokenizer(["another corpus"])
    base = load(path, num_heldout=4).fingerprint
    assert base == load_prompts(PromptsConfig(path=path, num_heldout=4), other).fingerprint
    changed = [*ROWS[:-1], {**ROWS[-1], "answer": "39"}]
    assert (
        len(
            {
                base,
                load(write(changed), num_heldout=4).fingerprint,
                load(path, num_heldout=5).fingerprint,
            }
        )
        == 3
    )


def test_a_prompt_is_rendered_by_the_chat_template_up_to_the_policys_turn(write):
    [prompt] = load(write([ROWS[2]]), system="Be brief.", suffix="Box it.").train
    assert prompt.question == "What is 2 plus 2?\nBox it."
    text = TOKENIZER.decode(list(prompt.token_ids))
    assert text == "<|system|>Be brief.<|end|><|user|>What is 2 plus 2?\nBox it.<|end|><|assistant|>"
    assert TOKENIZER.convert_tokens_to_ids("<|assistant|>") == prompt.token_ids[-1]


def test_without_a_chat_template_a_prompt_is_plain_text():
    tokenizer = build_tokenizer(["what is"])
    tokenizer.chat_template = None
    assert (
        tokenizer.decode(list(render_prompt(tokenizer, "what is 1?", "Think.")))
        == "Think.\n\nwhat is 1?\n\n"
    )
    assert tokenizer.decode(list(render_prompt(tokenizer, "what is 1?"))) == "what is 1?\n\n"


def test_plain_text_keeps_the_tokens_at_the_start_and_drops_those_at_the_end():
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer(["what is"])
    tokenizer.chat_template = None
    start, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|system|>", "<|end|>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A <|end|>", special_tokens=[("<|system|>", start), ("<|end|>", end)]
    )
    assert tokenizer("a")["input_ids"][-1] == end
    token_ids = render_prompt(tokenizer, "what is 1?")
    assert (token_ids[0], end in token_ids) == (start, False)


def test_a_template_that_refuses_a_system_message_is_named(write):
    tokenizer = build_tokenizer(["what is"])
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    )
    render_prompt(tokenizer, "a")
    with pytest.raises(ModelError, match=r"it says: no system.*Set prompts.system"):
        render_prompt(tokenizer, "a", "Think.")


@dataclass(frozen=True)
class FakeProblem:
    question: str
    answer: str
    level: int
    key: str


class FakeFamily:
    """Level L asks for L + n; a level above 9 has a long question."""

    def problems(self, seed, levels, count, split):
        start = 0 if split == "train" else 1000
        chosen = [(levels[i % len(levels)], start + i) for i in range(count)]
        words = ["sum" * (400 if level > 9 else 1) for level, _ in chosen]
        return [
            FakeProblem(f"{word} {level} {n} {seed}", str(level + n), level, f"{level}.{n}")
            for word, (level, n) in zip(words, chosen, strict=True)
        ]


@pytest.fixture
def family(monkeypatch):
    monkeypatch.setattr(k15.tasks, "get_family", lambda name: FakeFamily(), raising=False)


def test_generated_families(family):
    task = TaskConfig(family="fake", levels=(1, 2), num_train=6, num_heldout=2)
    loaded = load_prompts(PromptsConfig(tasks=(task,), seed=5, suffix="not for these"), TOKENIZER)
    assert [p.question for p in loaded.train] == [f"sum {1 + n % 2} {n} 5" for n in range(6)]
    assert [(p.prompt_id, p.difficulty) for p in loaded.heldout] == [
        ("fake-1.1000", 1.0),
        ("fake-2.1001", 2.0),
    ]
    assert {(p.verifier, p.family) for p in loaded.train} == {("task:fake", "fake")}
    assert all(p.token_ids for p in (*loaded.train, *loaded.heldout))


def test_a_family_that_is_named_twice_gives_each_problem_once(family):
    task = TaskConfig(family="fake", levels=(1,), num_train=4, num_heldout=1)
    loaded = load_prompts(PromptsConfig(tasks=(task, task)), TOKENIZER)
    assert (len(loaded.train), len(loaded.heldout), loaded.num_duplicates) == (4, 1, 5)


def test_settings_that_do_not_fit_generated_families(family, tmp_path):
    task = TaskConfig(family="fake", levels=(10,), num_train=2, num_heldout=1)
    with pytest.raises(
        DataError, match=r"tokens \(prompts.max_prompt_tokens\); got 12\d\d for problem fake-10.1000"
    ):
        load_prompts(PromptsConfig(tasks=(task,)), TOKENIZER)
    with pytest.raises(ConfigError, match=r"heldout_path belongs to prompts\.path"):
        load_prompts(PromptsConfig(tasks=(task,), heldout_path=tmp_path / "x"), TOKENIZER)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    ["question", "prompt", "answer", "solution", "id", "level", "family", "verifier", "system", "x"]
)
lines = st.binary(max_size=40) | st.dictionaries(names, json_values).map(
    lambda row: json.dumps(row).encode()
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines, max_size=6))
def test_any_file_gives_prompts_or_one_data_error(tmp_path, content):
    path = tmp_path / "any.jsonl"
    path.write_bytes(b"\n".join(content))
    errors = []
    for skip in (False, True):
        try:
            loaded = load(path, skip_bad_rows=skip)
        except DataError as error:
            errors.append(str(error))
        else:
            assert all(p.question.strip() and p.answer and p.token_ids for p in loaded.train)
            assert skip or loaded.num_skipped == 0
    assert all(str(path) in error for error in errors)
