"""`k15 regrade`: equal settings give equal verdicts; a changed rule or a changed answer shows (RWD-15)."""

import json
from dataclasses import replace

import pytest

from k15.cli import main
from k15.config.answers import read_rules
from k15.config.rl import RewardsConfig, RLConfig
from k15.errors import ConfigError, RunFolderError
from k15.models.tokenizer import build_tokenizer
from k15.prompts.render import render_prompt
from k15.record.rows import GradedGroup, rollout_rows
from k15.rewards.grader import Grader
from k15.stages.regrade import regrade
from k15.types import Group, Prompt, Segment, StopReason, Trajectory

TOKENIZER = build_tokenizer(["what is the answer so think boxed"])
assert isinstance(TOKENIZER.eos_token_id, int)
END = TOKENIZER.eos_token_id
TRIAL = "Find a digit k so that 63 + k * 37 ends in 5."
PROMPTS = (
    Prompt("number", "what is 1/2", "0.5", "math", "sums"),
    Prompt("pair", "which two", "1, 2", "math", "sums", rules=read_rules({"require": ["order"]})),
    Prompt("formula", "expand", "x^2-1", "math", "sums", system="Be brief."),
    Prompt("digit", TRIAL, "6", "task:trial", "trial"),
)
REPLIES = (
    (r"<think>a</think>\boxed{1/2}", r"\boxed{2}", "none"),
    (r"\boxed{1, 2}", r"\boxed{2, 1}", r"\boxed{1"),
    (r"\boxed{(x-1)(x+1)}", r"\boxed{x-1}", r"<think>\boxed{x^2-1}"),
    ("<think>a</think>\nAnswer: 6", "<think>a</think>\nAnswer: 7", "Answer: 6"),
)


def group(ordinal: int) -> Group:
    prompt = PROMPTS[ordinal]
    prompt = replace(prompt, token_ids=render_prompt(TOKENIZER, prompt.question, prompt.system))
    trajectories = []
    for index, text in enumerate(REPLIES[ordinal]):
        encoded = TOKENIZER.encode(text, add_special_tokens=False)
        token_ids = (*(int(i) for i in encoded), END)  # pyright: ignore[reportArgumentType]
        segment = Segment(ordinal, index, 0, token_ids, (0.0,) * len(token_ids), 0, "f", StopReason.END)
        trajectories.append(Trajectory(ordinal, index, (segment,)))
    return Group(ordinal, prompt, 0, tuple(trajectories))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with two iterations of two groups, as `k15 rl` writes them."""
    path = tmp_path_factory.mktemp("run")
    config = RLConfig.model_validate(
        {"num_iterations": 2, "model": {"path": str(path / "model")}, "prompts": {"path": "rows.jsonl"}}
    )
    (path / "config.json").write_text(config.model_dump_json())
    TOKENIZER.save_pretrained(path / "model")
    (path / "rollouts").mkdir()
    with Grader(config.rewards, TOKENIZER) as grader:
        for iteration in range(2):
            groups = [group(2 * iteration), group(2 * iteration + 1)]
            zeros = [0.0] * 3
            graded = [
                GradedGroup(g, verdicts, zeros, zeros, zeros, [1] * 3)
                for g, verdicts in zip(groups, grader.grade(groups), strict=True)
            ]
            rows = rollout_rows(iteration, graded, lambda ids: TOKENIZER.decode(ids))  # pyright: ignore[reportArgumentType]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (path / "rollouts" / f"{iteration:06d}.jsonl").write_text(text)
    return path


def edited(run, tmp_path, change):
    """A copy of the run with every stored row changed."""
    for iteration in range(2):
        name = f"rollouts/{iteration:06d}.jsonl"
        rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
        (tmp_path / "rollouts").mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(change(row)) + "\n" for row in rows))
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    return tmp_path


def test_nothing_changes_where_nothing_changed(run):
    found = regrade(run)
    assert (found.num_completions, found.num_right_before, found.num_right) == (12, 4, 4)
    assert found.changes == ()
    assert "12 completions judged again: 0 verdicts changed" in found.describe()


def test_a_changed_rule_shows_in_the_rows_that_it_touches(run, tmp_path):
    changed = edited(run, tmp_path, lambda row: row | {"rules": None})
    [change] = regrade(changed).changes
    assert (change["prompt_id"], change["sample_index"]) == ("pair", 1)
    assert (change["was"], change["now"]) == ("wrong", "right")


def test_a_corrected_gold_shows(run, tmp_path):
    found = regrade(
        edited(
            run, tmp_path, lambda row: row | ({"answer": "2"} if row["prompt_id"] == "number" else {})
        )
    )
    assert {(c["sample_index"], c["was"], c["now"]) for c in found.changes} == {
        (0, "right", "wrong"),
        (1, "wrong", "right"),
    }


def test_rows_of_before_rules_and_verifiers_are_judged_by_the_config(run, tmp_path):
    def old(row):
        kept = {
            k: v for k, v in row.items() if k not in ("rules", "verifier", "system", "span", "audit")
        }
        return kept if row["family"] == "sums" else None

    def change(row):
        return old(row) or {"iteration": 0}  # an incomplete row is left out by the reader

    found = regrade(edited(run, tmp_path, change))
    assert found.num_completions == 9
    assert [c["prompt_id"] for c in found.changes] == ["pair"]


def test_the_command_prints_what_changed(run, tmp_path, capsys):
    changed = edited(run, tmp_path, lambda row: row | {"rules": None})
    assert main(["regrade", str(changed), "--rewards.timeout_seconds", "5"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["prompt_id"] for line in out.splitlines()] == ["pair"]
    assert "1 verdicts changed, 4 were right and 5 are" in err


def test_what_cannot_be_judged_again_is_refused(run, tmp_path):
    with pytest.raises(RunFolderError, match="has none"):
        regrade(tmp_path)
    with pytest.raises(ConfigError, match="no_such_key"):
        regrade(run, ["--rewards.no_such_key", "1"])
    assert RewardsConfig().audit_share > 0
