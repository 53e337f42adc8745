"""Model cards: what a stage writes beside its model, and what an evaluation adds."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard

from k15.errors import ModelError
from k15.stages.card import add_scores, require_card_folder, write_run_card


@pytest.fixture
def run(tmp_path):
    """A run folder as RL leaves it, with an empty model folder."""
    folder = tmp_path / "my-run"
    (folder / "model").mkdir(parents=True)
    config = {"model": {"path": "Qwen/Qwen3-0.6B"}, "rollout": {}}
    manifest = {
        "total": 60,
        "seed": 3,
        "command": "k15 rl recipe.toml",
        "versions": {"k15": "0.1.0"},
        "schema": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    rows = [
        {"iteration": i, "eval/accuracy": a, "eval/accuracy_low": a - 0.1, "eval/accuracy_high": a + 0.1,
         "eval/length_mean": 50 + i} if i != 30 else {"iteration": i}
        for i, a in ((0, 0.25), (30, 0.0), (59, 0.5), (60, 0.75))
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def content(limit=None, **scores):
    numbers = {
        "pass@1": 0.5, "pass@1_low": 0.4, "pass@1_high": 0.6, "num_problems": 10, "num_samples": 80,
        "tokens_mean": 123.4, "truncated_share": 0.25,
    }  # fmt: skip
    return {
        "benchmarks": {
            name: {
                "scores": numbers | {"pass@1": value} if value is not None else None,
                "max_tokens": 99,
            }
            for name, value in scores.items()
        },
        "settings": {
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": 0,
            "limit": limit,
            "engine": {"type": "embedded"},
        },
        "versions": {"k15": "0.1.0"},
        "command": "k15 eval model",
    }


def test_a_stages_card_says_how_the_model_was_made(run):
    write_run_card(run, run / "model")
    card = ModelCard.load(run / "model" / "README.md")
    assert card.data.base_model == "Qwen/Qwen3-0.6B"
    assert card.data.pipeline_tag == "text-generation"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.75)
    for text in ("reinforcement learning", "60 iterations, seed 3", "k15 rl recipe.toml"):
        assert text in card.text
    assert "| 0 | 25.0% |" in card.text
    assert "| 60 | 75.0% |" in card.text
    assert "| 59 |" not in card.text


def test_a_local_base_model_is_not_named_as_one_of_the_hub(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen" / "Qwen3-0.6B").mkdir(parents=True)
    write_run_card(run, run / "model")
    assert ModelCard.load(run / "model" / "README.md").data.base_model is None


def test_scores_are_added_and_replaced_and_the_rest_stays(run):
    model = run / "model"
    write_run_card(run, model)
    path = model / "README.md"
    path.write_text(path.read_text() + "\nWritten by hand.\n")
    add_scores(model, content(gsm8k=0.4, broken=None))
    add_scores(model, content(**{"gsm8k": 0.5, "mine.jsonl": 0.125}))
    card = ModelCard.load(path)
    values = [(r.dataset_type, r.metric_type, r.metric_value) for r in card.data.eval_results]
    assert values == [
        ("held-out", "accuracy", 0.75), ("openai/gsm8k", "pass@1", 0.5), ("other", "pass@1", 0.125),
    ]  # fmt: skip
    assert card.text.count("## Evaluation") == 1
    assert "| gsm8k | 50.0% | 40.0% to 60.0% | 10 x 8 | 123 | 25.0% |" in card.text
    assert "40.0% |" not in card.text.replace("40.0% to", "")
    assert "broken" not in card.text
    assert "Written by hand." in card.text
    assert card.data.tags == ["k15", "reasoning", "reinforcement-learning"]


def test_the_hub_finds_the_score_of_a_benchmark_it_knows(run):
    add_scores(run / "model", content(**{"gsm8k": 0.5, "mine.jsonl": 0.1}))
    files = list((run / "model" / ".eval_results").iterdir())
    assert [file.name for file in files] == ["gsm8k.yaml"]
    add_scores(run / "model", content(limit=10, math500=0.5))  # a part is not the benchmark
    assert len(list((run / "model" / ".eval_results").iterdir())) == 1
    (entry,) = yaml.safe_load(files[0].read_text())
    assert (entry["dataset"]["id"], entry["dataset"]["task_id"], entry["value"]) == (
        "openai/gsm8k",
        "main",
        0.5,
    )


def test_a_model_without_a_card_gets_one(tmp_path):
    path = add_scores(tmp_path, content(gsm8k=0.5))
    assert "| gsm8k | 50.0% |" in ModelCard.load(path).text


def test_a_card_is_never_written_into_a_checkpoint_or_nowhere(tmp_path):
    sealed = tmp_path / "checkpoints" / "iteration_000001" / "policy"
    sealed.mkdir(parents=True)
    with pytest.raises(ModelError, match="would change the checkpoint"):
        require_card_folder(sealed)
    with pytest.raises(ModelError, match="is none"):
        require_card_folder(tmp_path / "Qwen" / "Qwen3")


def test_a_head_that_is_no_yaml_is_named(tmp_path):
    (tmp_path / "README.md").write_text("---\n{: [\n---\n# Model\n")
    with pytest.raises(ModelError, match="is no model card"):
        add_scores(tmp_path, content(gsm8k=0.5))
