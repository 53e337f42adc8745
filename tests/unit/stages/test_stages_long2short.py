"""Long2short end to end with a scripted long thinker: what is learned, kept, skipped, resumed (rows 46 to 49)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from k15.config.long2short import Long2ShortConfig
from k15.config.parts import ModelConfig, TinyModelConfig
from k15.errors import ConfigError, DataError
from k15.models.load import load_policy, make_policy
from k15.models.tiny import build_tiny_model
from k15.models.tokenizer import build_tokenizer
from k15.prompts.load import load_prompts
from k15.record.reader import RunReader
from k15.stages import balance, samples
from k15.stages.balance import Measured, best_balance, checkpoints_of, select_checkpoint
from k15.stages.compare import launch_comparison
from k15.stages.launch import LaunchOptions
from k15.stages.long2short import launch_long2short, start_of
from k15.stages.samples import draw_samples, learn_from
from k15.stages.watch import Watch
from k15.tasks.reply import format_completion
from k15.testing.scripted import ScriptedEngine
from k15.types import Prompt, Work
from k15.weights.save import save_policy

SHAPE = TinyModelConfig(num_layers=1, width=32, num_heads=2, mlp_width=48, max_positions=256)
TASK = {"family": "trial", "levels": [1], "num_train": 6, "num_heldout": 4}
OPTIONS = LaunchOptions(is_quiet=True)
FILLER = "try "


def completion(answer: str, num_words: int) -> str:
    return format_completion(FILLER * num_words + "done", answer)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model that reads the trial family's questions."""
    texts = ["Find a digit k so that 12 + k * 34 ends in 5.", completion("1", 9)]
    tokenizer = build_tokenizer(texts)
    save_policy(make_policy(build_tiny_model(SHAPE, tokenizer, seed=0), tokenizer), tmp_path / "long")
    save_policy(make_policy(build_tiny_model(SHAPE, tokenizer, seed=1), tokenizer), tmp_path / "short")
    return tmp_path / "long"


def settings(model: Path, method: str = "rejection", **tables: Any) -> Long2ShortConfig:
    tree: dict[str, Any] = {
        "method": method,
        "model": {"path": str(model)},
        "prompts": {"tasks": [TASK]},
        "samples": {"num_samples": 4, "max_tokens": 64},
        "sft": {"stages": [{"row_tokens": 256, "num_steps": 3}]},
        "dpo": {"stages": [{"row_tokens": 256, "num_steps": 3}]},
        "rl": {
            "num_iterations": 2,
            "rollout": {"group_size": 4, "prompts_in_flight": 2, "segment_tokens": 32, "max_tokens": 32},
        },
        "merge": {"short": str(model.parent / "short")},
        "evaluation": {"every": 0, "num_prompts": 4},
        "run": {"num_threads": 1},
    }
    for name, changes in tables.items():
        tree[name] = tree.get(name, {}) | changes
    return Long2ShortConfig.model_validate(tree)


class Thinker:
    """Plays every engine: the completions of a prompt by its place in the training set.

    Samples 0 to 3 of most prompts: right with 20 words, right with 8, wrong with 9, wrong with 2. The
    prompt at place 0 has no right one; at place 1 the wrong ones are not longer.
    """

    def __init__(self, config: Long2ShortConfig) -> None:
        assert config.prompts is not None
        self._policy = load_policy(config.model)
        found = load_prompts(config.prompts, self._policy.tokenizer)
        self.prompts = found.train
        self._by_ids: dict[tuple[int, ...], tuple[int, Prompt]] = {
            p.token_ids: (i, p) for i, p in enumerate(found.train)
        }
        self._by_ids |= {p.token_ids: (9, p) for p in found.heldout}
        self.num_calls = 0

    def engine(self, *_: Any) -> ScriptedEngine:
        self.num_calls += 1
        return ScriptedEngine(self._script)

    def _script(self, work: Work) -> list[int]:
        place, prompt = self._by_ids[work.prompt_token_ids]
        right, wrong = prompt.answer, "x"
        plans = [(right, 20), (right, 8), (wrong, 9), (wrong, 2)]
        if place == 0:
            plans = [(wrong, n) for _, n in plans]
        if place == 1:
            plans = [(right, 3), (wrong, 2), (wrong, 2), (wrong, 2)]
        text = completion(*plans[work.sample_index % 4])
        ids = self._policy.tokenizer.encode(text, add_special_tokens=False)
        return [*ids, self._policy.stop_ids[0]]


@pytest.fixture
def thinker(model: Path, monkeypatch: pytest.MonkeyPatch) -> Thinker:
    thinker = Thinker(settings(model))
    for module in (samples, balance):
        monkeypatch.setattr(module, "make_engine", thinker.engine)
    return thinker


def words(policy: Any, token_ids: Any) -> int:
    return policy.decode(token_ids).count(FILLER.strip())


def test_the_shortest_right_one_is_learned_and_prompts_without_are_counted(
    model: Path, thinker: Thinker, tmp_path: Path
) -> None:
    config = settings(model)
    found = draw_samples(config, tmp_path / "samples", OPTIONS)
    assert found is not None
    learned = learn_from(found, length_ratio=1.5, max_pairs=0)
    policy = load_policy(config.model)
    assert [words(policy, e.completion_ids) for e in learned.examples] == [3, 8, 8, 8, 8]
    assert learned.num_unsolved == 1
    # the negatives of most: right with 20 words, wrong with 9; never the wrong one with 2
    assert [words(policy, p.other.completion_ids) for p in learned.preferences] == [20, 9] * 4
    assert [words(policy, p.preferred.completion_ids) for p in learned.preferences] == [8, 8] * 4
    assert learned.num_without_pair == 1  # place 1: the others are wrong and not longer


def test_the_very_tokens_that_were_sampled_are_learned(
    model: Path, thinker: Thinker, tmp_path: Path
) -> None:
    config = settings(model)
    found = draw_samples(config, tmp_path / "samples", OPTIONS)
    assert found is not None
    example = learn_from(found, length_ratio=1.5, max_pairs=0).examples[0]
    assert example.prompt_ids == thinker.prompts[1].token_ids
    assert example.completion_ids[-1] == load_policy(config.model).stop_ids[0]
    assert all(example.loss_mask)


def test_at_most_so_many_pairs_of_a_prompt(model: Path, thinker: Thinker, tmp_path: Path) -> None:
    found = draw_samples(settings(model), tmp_path / "samples", OPTIONS)
    assert found is not None
    assert len(learn_from(found, length_ratio=1.5, max_pairs=1).preferences) == 4
    assert len(learn_from(found, length_ratio=3.0, max_pairs=0).preferences) == 4  # the wrong ones alone


@pytest.mark.parametrize("method", ["rejection", "dpo"])
def test_a_method_trains_a_model_and_called_again_does_nothing(
    model: Path, thinker: Thinker, tmp_path: Path, method: str
) -> None:
    run = tmp_path / "run"
    assert launch_long2short(settings(model, method), run, OPTIONS)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")}
    assert (run / "model" / "model.safetensors") in before
    calls = thinker.num_calls
    assert launch_long2short(settings(model, method), run, OPTIONS)
    assert thinker.num_calls == calls, "sampled again"
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} == before
    rows = RunReader(run / "samples").rollouts(0)
    assert len(rows) == 6 * 4


def test_fresh_samples_again_and_keeps_what_was_there(
    model: Path, thinker: Thinker, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert launch_long2short(settings(model), run, OPTIONS)
    calls = thinker.num_calls
    assert launch_long2short(settings(model), run, LaunchOptions(is_quiet=True, fresh=True))
    assert thinker.num_calls == calls + 1
    assert (run / "model" / "model.safetensors").is_file()
    assert [path.name for path in run.glob(".old-*/model")] == ["model"]


def test_samples_are_drawn_in_chunks_and_a_killed_run_draws_only_what_is_missing(
    model: Path, thinker: Thinker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "CHUNK", 2)
    config, evaluate, count = settings(model), samples.evaluate, 0
    whole = draw_samples(config, tmp_path / "whole", OPTIONS)

    def dying(*arguments: Any, **keywords: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments, **keywords)

    monkeypatch.setattr(samples, "evaluate", dying)
    with pytest.raises(KeyboardInterrupt):
        draw_samples(config, tmp_path / "killed", OPTIONS)
    resumed = draw_samples(config, tmp_path / "killed", OPTIONS)
    assert count == 2 + 2  # the first chunk, the fatal one, and the two that were missing
    assert whole is not None
    assert resumed is not None
    assert [[r["token_ids"] for r in p.rows] for p in resumed] == [
        [r["token_ids"] for r in p.rows] for p in whole
    ]


def test_nothing_right_is_refused_with_a_cure(model: Path, thinker: Thinker, tmp_path: Path) -> None:
    config = settings(model, samples={"num_prompts": 1, "num_samples": 4, "max_tokens": 64})
    with pytest.raises(DataError, match=r"0 completions are right\. Take easier prompts"):
        launch_long2short(config, tmp_path / "run", OPTIONS)


def test_a_file_of_prompts_works_as_well_as_a_family(model: Path, tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(4)]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = {"path": str(path), "num_heldout": 1}
    config = settings(model).model_dump()
    config["prompts"], config["samples"]["max_tokens"] = prompts, 8
    found = draw_samples(Long2ShortConfig.model_validate(config), tmp_path / "samples", OPTIONS)
    assert found is not None
    assert [len(entry.rows) for entry in found] == [4, 4, 4]  # a random model's words, graded as math


def test_a_merge_needs_no_prompts_and_says_what_it_did(model: Path, tmp_path: Path) -> None:
    tree = {
        "method": "merge",
        "model": {"path": str(model)},
        "merge": {"short": str(model.parent / "short")},
    }
    assert launch_long2short(Long2ShortConfig.model_validate(tree), tmp_path / "run", OPTIONS)
    merged = load_policy(ModelConfig(path=str(tmp_path / "run" / "model"))).model.state_dict()
    parents = [
        load_policy(ModelConfig(path=str(p))).model.state_dict() for p in (model, model.parent / "short")
    ]
    for name, tensor in merged.items():
        assert torch.allclose(tensor, (parents[0][name] + parents[1][name]) / 2, atol=1e-7), name
    record = json.loads((tmp_path / "run" / "merge.json").read_text())
    assert (record["kind"], record["weight"], record["long"]) == ("average", 0.5, str(model))
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "Merged by [k15](https://arxiv.org/abs/2501.12599), an open implementation" in card
    assert f"`{model}` (long chains of thought)" in card


def test_a_dry_run_leaves_nothing(model: Path, thinker: Thinker, tmp_path: Path) -> None:
    for method in ("merge", "rejection", "dpo", "rl"):
        options = LaunchOptions(is_quiet=True, dry_run=True)
        assert launch_long2short(settings(model, method), tmp_path / "run", options)
    assert not (tmp_path / "run").exists()


# Selection (row 49)


def found(name: str, accuracy: float, tokens: float) -> Measured:
    return Measured(name, accuracy, tokens, 100)


@pytest.mark.parametrize(
    ("candidates", "tolerance", "chosen"),
    [
        ([found("a", 0.90, 90), found("b", 0.89, 70), found("c", 0.80, 20)], 0.02, "b"),
        ([found("a", 0.90, 90), found("b", 0.88, 70)], 0.02, "b"),  # exactly at the tolerance
        ([found("a", 0.90, 90), found("b", 0.87, 70)], 0.02, "a"),
        ([found("a", 0.90, 70), found("b", 0.90, 70)], 0.02, "a"),  # of equals the first
        ([found("a", 0.90, 90), found("b", 0.89, 70)], 0.0, "a"),
        ([found("a", 0.90, 95), found("b", 0.91, 90)], 1.0, "b"),
    ],
)
def test_the_best_balance_is_short_and_hardly_less_accurate(
    candidates: list[Measured], tolerance: float, chosen: str
) -> None:
    assert best_balance(candidates, tolerance=tolerance).name == chosen


def test_the_rule_is_printed_and_gives_the_same_checkpoint_again(
    model: Path, thinker: Thinker, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(model, selection={"candidates": (str(model), str(model.parent / "short"))})
    choices = [select_checkpoint(config, Watch("x", 1)) for _ in range(2)]
    assert choices == [str(model)] * 2  # the scripted engine makes them equal: the first
    said = capsys.readouterr().err
    assert "fewest tokens of those at most 2.0% below the best accuracy" in said
    assert said.count("candidate ") == 4


def test_all_kept_checkpoints_of_a_run_are_candidates(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("iteration_000010", "iteration_000005", "iteration_000020"):
        (run / "checkpoints" / name / "policy").mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    (run / "config.json").write_text("{}")
    assert [path.parent.name for path in checkpoints_of(run)] == [
        "iteration_000005", "iteration_000010", "iteration_000020",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="a run folder with checkpoints"):
        checkpoints_of(tmp_path / "nothing")


# Comparison


def test_a_comparison_measures_every_variant_with_every_seed_and_goes_on(
    model: Path, thinker: Thinker, tmp_path: Path
) -> None:
    run = tmp_path / "comparison"
    config = settings(model, comparison={"variants": ("merge", "rejection", "merge+rejection", "dpo")})
    assert launch_comparison(config, run, OPTIONS)
    written = json.loads((run / "comparison.json").read_text())
    keys = [v["key"] for v in written["variants"]]
    assert keys == ["long", "short", "merge", "rejection", "merge+rejection", "dpo"]
    assert all(len(v["measured"]) == 3 for v in written["variants"])
    prints = {v["key"]: {m["fingerprint"] for m in v["measured"]} for v in written["variants"]}
    assert [len(prints[key]) for key in ("long", "short", "merge")] == [1, 1, 1]  # nothing random there
    assert len(prints["rejection"]) == 3  # a training for every seed
    table = (run / "comparison.md").read_text()
    assert table.count("\n| ") == 7
    assert "<svg" in (run / "report.html").read_text()
    calls = thinker.num_calls
    assert launch_comparison(config, run, OPTIONS)
    assert thinker.num_calls == calls, "measured or sampled again"


def test_a_comparison_can_be_rehearsed(model: Path, thinker: Thinker, tmp_path: Path) -> None:
    options = LaunchOptions(is_quiet=True, dry_run=True)
    assert launch_comparison(settings(model), tmp_path / "comparison", options)
    assert not (tmp_path / "comparison").exists()
    assert thinker.num_calls == 0


def test_fresh_trains_and_measures_everything_again(
    model: Path, thinker: Thinker, tmp_path: Path
) -> None:
    run, config = tmp_path / "comparison", settings(model, comparison={"variants": ("rejection",)})
    assert launch_comparison(config, run, OPTIONS)
    calls = thinker.num_calls
    assert launch_comparison(config, run, LaunchOptions(is_quiet=True, fresh=True))
    assert thinker.num_calls == 2 * calls
    assert len(list(run.glob(".old-*/comparison.json"))) == 1


def test_other_candidates_are_another_choice(model: Path, thinker: Thinker, tmp_path: Path) -> None:
    short = model.parent / "short"
    for name in (model, short):
        config = settings(model, selection={"candidates": (str(name),)})
        assert start_of(config, tmp_path / "run", OPTIONS, Watch("x", 1, quiet=True)) == str(name)
    calls = thinker.num_calls
    assert start_of(config, tmp_path / "run", OPTIONS, Watch("x", 1, quiet=True)) == str(short)
    assert thinker.num_calls == calls, "measured again"


def test_a_comparison_without_a_short_model_says_so(model: Path) -> None:
    config = settings(model, merge={"short": None})
    with pytest.raises(ConfigError, match=r"merge\.short"):
        launch_comparison(config, model.parent / "run", OPTIONS)
