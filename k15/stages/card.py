"""Model cards: README.md of a model's directory, in the hub's format, with what was measured.

A training stage writes one beside the model it saved, from its run folder alone. `k15 eval --card` puts its
scores into the card of the model that it evaluated, and into `.eval_results/`, which the hub shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)

from k15.errors import ModelError
from k15.eval.catalogue import CATALOGUE
from k15.record import schema
from k15.record.reader import RunReader

_SOURCE, _SOURCE_URL = "k15 eval", "https://arxiv.org/abs/2501.12599"
CARD, RESULTS = "README.md", ".eval_results"
_NAMES = {
    "reinforcement-learning": "reinforcement learning",
    "sft": "supervised fine-tuning",
    "dpo": "direct preference optimization on its own completions",
}
_USE = (
    "## Use",
    "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'model = AutoModelForCausalLM.from_pretrained("DIRECTORY")\n'
    'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")\n```',
    "It was measured on the problems named here and on nothing else; what it does elsewhere is not known.",
)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SECTION = re.compile(r"\n*<!-- k15 eval -->.*?<!-- end of k15 eval -->\n*", re.DOTALL)


def write_run_card(run_folder: Path, model_folder: Path) -> None:
    """The card of a model that a stage has just saved: what it was made of, how, and its last evaluation."""
    reader = RunReader(run_folder)
    config, manifest, metrics = reader.config, reader.manifest, reader.metrics
    stage = "reinforcement-learning" if "rollout" in config else "dpo" if "beta" in config else "sft"
    base = config.get("model", {}).get("path")
    evaluated = [row for row in metrics if "eval/accuracy" in row]
    title = f"{run_folder.name}, a model of k15"
    how_long = (
        f"{manifest.get('total')} {'iterations' if stage == 'reinforcement-learning' else 'steps'}"
    )
    body = [
        f"# {title}",
        f"Trained by {_NAMES[stage]} with [k15]({_SOURCE_URL}), an open implementation of the training system of "
        f"Kimi k1.5: {how_long}, seed {manifest.get('seed')}, from "
        + (f"`{base}`." if base else "random weights."),
        f"Command: `{manifest.get('command') or 'not recorded'}`",
        "Versions: "
        + ", ".join(f"{name} {v}" for name, v in sorted(manifest.get("versions", {}).items())),
    ]
    if evaluated:
        body += ["## Held-out problems during training", _progress(evaluated)]
    body += _USE
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["k15", "reasoning", stage],
        model_name=run_folder.name,
        base_model=base if base and _HUB_NAME.fullmatch(base) and not Path(base).exists() else None,
        eval_results=_held_out_results(evaluated[-1]) if evaluated else None,
    )
    _save(model_folder / CARD, data, "\n\n".join(body))


def write_merge_card(record: Mapping[str, Any], model_folder: Path) -> None:
    """The card of a merged model: its parents and the formula (`merge.json`)."""
    body = [
        f"# {model_folder.parent.name}, a merged model of k15",
        f"Merged by [k15]({_SOURCE_URL}), an open implementation of the training system of Kimi k1.5, from "
        f"`{record['long']}` (long chains of thought) and `{record['short']}` (short ones): {record['kind']}, "
        f"{record['weight']:g} of the short model. Nothing was trained after the merge.",
        *_USE,
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["k15", "reasoning", "merge"],
        model_name=model_folder.parent.name,
    )
    _save(model_folder / CARD, data, "\n\n".join(body))


def require_card_folder(model_folder: Path) -> None:
    """Nothing, if a card may be written there.

    Raises:
        ModelError: it is no directory of this machine, or a part of a checkpoint, which is sealed by digests.
    """
    if not model_folder.is_dir():
        raise ModelError(f"--card writes into the model's directory, and {model_folder} is none.")
    if model_folder.parent.parent.name == schema.CHECKPOINTS:
        raise ModelError(
            f"--card would change the checkpoint {model_folder.parent}. Let the run end, or copy the model first."
        )


def add_scores(model_folder: Path, content: Mapping[str, Any]) -> Path:
    """Put the scores of an evaluation (scores.json) into the card of the model; the card's path.

    What people wrote in the card stays; scores of an earlier `--card` are replaced. Invalid benchmarks are left
    out.

    Raises:
        ModelError: see `require_card_folder`; or the card that is there cannot be read.
    """
    require_card_folder(model_folder)
    path = model_folder / CARD
    data = ModelCardData()
    text = f"# {model_folder.name}\n"
    if path.exists():
        try:
            card = ModelCard.load(path)
        except (ValueError, yaml.YAMLError) as error:
            raise ModelError(
                f"{path} is no model card ({error}). Correct its head, or move it away."
            ) from None
        given: object = card.data
        assert isinstance(given, ModelCardData)
        data, text = given, card.text
    scored = {name: r for name, r in content["benchmarks"].items() if r["scores"] is not None}
    data.model_name = data.model_name or model_folder.name
    kept = [r for r in data.eval_results or [] if r.source_name != _SOURCE]
    data.eval_results = kept + [result for name, r in scored.items() for result in _results(name, r)]
    section = (
        f"<!-- k15 eval -->\n## Evaluation\n\n{_scores_table(scored, content)}\n<!-- end of k15 eval -->"
    )
    text = _SECTION.sub("\n\n", text).rstrip() + f"\n\n{section}\n"
    _save(path, data, text)
    for name, result in scored.items():
        if name in CATALOGUE and content["settings"]["limit"] is None:
            _write_hub_result(model_folder, name, result)
    return path


def _save(path: Path, data: ModelCardData, text: str) -> None:
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text.strip()}\n").save(path)


def _progress(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| iteration | right | 95 % interval | tokens a completion |", "| --- | --- | --- | --- |"]
    chosen = rows if len(rows) <= 2 else [rows[0], rows[-1]]
    lines += [
        f"| {row['iteration']} | {row['eval/accuracy']:.1%} | {row['eval/accuracy_low']:.1%} to "
        f"{row['eval/accuracy_high']:.1%} | {row['eval/length_mean']:.0f} |"
        for row in chosen
    ]
    return "\n".join(lines)


def _held_out_results(row: Mapping[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out",
            dataset_name="held-out problems of the run",
            metric_type="accuracy",
            metric_value=round(row["eval/accuracy"], 4),
        )
    ]


def _results(name: str, result: Mapping[str, Any]) -> list[EvalResult]:
    """The entries of a benchmark in the card's head."""
    entry = CATALOGUE.get(name.partition(":")[0])
    scores = result["scores"]
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=entry.hub if entry else "other",
            dataset_name=name,
            dataset_split=entry.split if entry else None,
            metric_type="pass@1",
            metric_name=f"pass@1, mean of {scores['num_samples'] // scores['num_problems']} samples",
            metric_value=round(scores["pass@1"], 4),
            source_name=_SOURCE,
            source_url=_SOURCE_URL,
        )
    ]


def _scores_table(scored: Mapping[str, Mapping[str, Any]], content: Mapping[str, Any]) -> str:
    lines = [
        "| benchmark | pass@1 | 95 % interval | problems x samples | tokens, mean | truncated |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in scored.items():
        s = result["scores"]
        lines.append(
            f"| {name} | {s['pass@1']:.1%} | {s['pass@1_low']:.1%} to {s['pass@1_high']:.1%} | {s['num_problems']} x "
            f"{s['num_samples'] // s['num_problems']} | {s['tokens_mean']:.0f} | {s['truncated_share']:.1%} |"
        )
    settings = content["settings"]
    lines += [
        "",
        f"Sampled at temperature {settings['temperature']:g}, top-p {settings['top_p']:g}, seed {settings['seed']}, "
        f"by the {settings['engine']['type']} engine of k15 {content['versions']['k15']}: `{content['command']}`",
    ]
    return "\n".join(lines)


def _write_hub_result(model_folder: Path, name: str, result: Mapping[str, Any]) -> None:
    """The file that the hub reads the score of a whole benchmark from."""
    entry = CATALOGUE[name]
    scores = result["scores"]
    notes = (
        f"pass@1 over {scores['num_problems']} problems, {scores['num_samples']} samples, at most "
        f"{result['max_tokens']} tokens; 95 % interval {scores['pass@1_low']:.4f} to {scores['pass@1_high']:.4f}"
    )
    value = round(scores["pass@1"], 4)
    task = EvalResultEntry(entry.hub, entry.config or "default", value, notes=notes)
    folder = model_folder / RESULTS
    folder.mkdir(exist_ok=True)
    text = yaml.safe_dump(eval_result_entries_to_yaml([task]), sort_keys=False)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
