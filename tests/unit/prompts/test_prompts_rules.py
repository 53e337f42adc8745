"""The rules of a row travel with its prompt: from the file, through a checkpoint, into the stored rows."""

import json

import pytest

from k15.config.answers import read_rules
from k15.config.parts import PromptsConfig
from k15.errors import DataError
from k15.models.tokenizer import build_tokenizer
from k15.prompts.load import load_prompts
from k15.record.rows import GradedGroup, rollout_rows
from k15.rollout.buffer import RolloutBuffer
from k15.types import DEFAULT_RULES, Group, Outcome, Segment, StopReason, Trajectory, Verdict

TOKENIZER = build_tokenizer(["what is the sum of"])
RULES = {"type": "number", "require": ["unit"], "decimals": 2, "accept": ["4 km"]}
ROWS = [
    {"id": "plain", "question": "What is 1 plus 1?", "answer": "2"},
    {"id": "ruled", "question": "How far is it?", "answer": "4000 m", "rules": RULES},
]


def load(tmp_path, rows, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_prompts(PromptsConfig(path=path, num_heldout=0, **settings), TOKENIZER)


def test_a_prompt_has_the_rules_of_its_row(tmp_path):
    plain, ruled = load(tmp_path, ROWS).train
    assert plain.rules is DEFAULT_RULES
    assert ruled.rules == read_rules(RULES)


def test_other_rules_are_another_data_set_and_none_change_nothing(tmp_path):
    before = load(tmp_path, [ROWS[0]]).fingerprint
    assert load(tmp_path, [ROWS[0] | {"rules": None}]).fingerprint == before
    assert load(tmp_path, [ROWS[0] | {"rules": {"type": "auto"}}]).fingerprint == before
    assert load(tmp_path, [ROWS[0] | {"rules": {"type": "list"}}]).fingerprint != before


def test_wrong_rules_name_file_line_and_field_or_are_counted(tmp_path):
    bad = [*ROWS, {"question": "Why?", "answer": "3", "rules": {"type": "numbers"}}]
    with pytest.raises(
        DataError, match=r'rows.jsonl, line 3: field "rules" cannot be used: "type" is unknown'
    ):
        load(tmp_path, bad)
    found = load(tmp_path, bad, skip_bad_rows=True)
    assert (len(found.train), found.num_skipped) == (2, 1)


def test_rules_survive_a_checkpoint_and_stand_in_the_stored_row(tmp_path):
    prompt = load(tmp_path, ROWS).train[1]
    buffer = RolloutBuffer(2, tmp_path / "journal", 1.0)
    buffer.open([(0, prompt)], 0)
    buffer.save_to(tmp_path)
    again = RolloutBuffer(2, tmp_path / "journal2", 1.0)
    again.load_from(tmp_path)
    for index in range(2):
        again.append(Segment(0, index, 0, (5, 1), (0.0, 0.0), 0, "f", StopReason.END))
    [group] = again.take_finished()
    assert group.prompt == prompt
    verdicts, zeros = [Verdict(Outcome.RIGHT, span=(3, 7))] * 2, [0.0, 0.0]
    graded = GradedGroup(group, verdicts, zeros, zeros, zeros, [1, 1])
    rows = [json.loads(json.dumps(row)) for row in rollout_rows(0, [graded], lambda ids: "")]
    assert [read_rules(row["rules"]) for row in rows] == [prompt.rules] * 2
    assert rows[0]["span"] == [3, 7]
    assert rows[0]["verifier"] == "math"
    plain = Group(
        1, load(tmp_path, ROWS).train[0], 0, (Trajectory(1, 0, group.trajectories[0].segments),)
    )
    [row] = rollout_rows(0, [GradedGroup(plain, verdicts[:1], [0.0], [0.0], [0.0], [1])], lambda ids: "")
    assert row["rules"] is None


def test_a_checkpoint_of_before_rules_is_read(tmp_path):
    prompt = load(tmp_path, ROWS).train[0]
    buffer = RolloutBuffer(1, tmp_path / "journal", 1.0)
    buffer.open([(0, prompt)], 0)
    buffer.save_to(tmp_path)
    row = json.loads((tmp_path / "groups.jsonl").read_text())
    del row["prompt"]["rules"]
    (tmp_path / "groups.jsonl").write_text(json.dumps(row) + "\n")
    again = RolloutBuffer(1, tmp_path / "journal2", 1.0)
    again.load_from(tmp_path)
    assert again.prompt_ids == {prompt.prompt_id}
