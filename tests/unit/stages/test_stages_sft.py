"""Supervised fine-tuning: schedule, shuffles, loss, packing, and a state that resumes (rows 8 and 9)."""

import json
import math
import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from k15.algo.likelihood import likelihood_loss
from k15.config.base import load_config
from k15.config.parts import ModelConfig, TinyModelConfig
from k15.config.sft import SFTConfig, SFTDataConfig, SFTRunSettings, SFTStageConfig
from k15.errors import ConfigError, DataError, NonFiniteError
from k15.models.load import make_policy
from k15.models.tiny import build_tiny_model
from k15.models.tokenizer import build_tokenizer
from k15.record.run import Run
from k15.stages.sft import _pack, load_examples, make_or_load_policy, plan_steps, train_sft
from k15.stages.watch import Watch
from k15.train.packing import Example
from k15.weights.save import save_policy

ROOT = Path(__file__).parents[3]
ROWS = [
    {
        "prompt": f"What is {n} plus {n}?",
        "completion": "<think>" + " plus" * (n % 7) + f"</think>{2 * n}",
    }
    for n in range(12)
]
TOKENIZER = build_tokenizer(text for row in ROWS for text in row.values())
SHAPE = TinyModelConfig(num_layers=1, width=32, num_heads=2, mlp_width=48, max_positions=256)


def example(length, prompt_length=2):
    completion = tuple(range(7, 7 + length - prompt_length))
    return Example(tuple(range(1, 1 + prompt_length)), completion, (True,) * len(completion))


def stage(**changes):
    return SFTStageConfig(
        **{"row_tokens": 64, "learning_rate": 2e-2, "final_learning_rate": 2e-3} | changes
    )


def config(tmp_path, *stages, rows=ROWS, **changes):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = SFTDataConfig(path=path, skip_bad_rows=changes.pop("skip_bad_rows", False))
    run = SFTRunSettings(
        save_every=changes.pop("save_every", 100), num_threads=1, seed=changes.pop("seed", 0)
    )
    settings = {"batch_tokens": 100, "microbatch_tokens": 128} | changes
    return SFTConfig(data=data, stages=stages or (stage(num_steps=6),), run=run, **settings)


def policy():
    return make_policy(build_tiny_model(SHAPE, TOKENIZER, seed=0), TOKENIZER)


class StoppingWatch(Watch):
    """Asks the run to stop, by a signal, once so many steps are done."""

    def __init__(self, stop_at=None):
        super().__init__("steps", 1, quiet=True)
        self._done, self._stop_at = 0, stop_at

    def advance(self, count=1):
        self._done += count
        if count and self._done == self._stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


def train(settings, folder, *, stop_at=None, model=None):
    """Train in a run folder, new or resumed; the policy, and the recorded metrics."""
    own = model or policy()
    data = load_examples(settings, own)
    plan = plan_steps(settings, data.examples)
    run = Run.open(folder, settings, command="test", total=plan.num_steps, notify=lambda message: None)
    with run, run.catch_signals():
        done = train_sft(settings, own, data.examples, plan, run, StoppingWatch(stop_at))
        run.finish(done=done)
    return own, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(own):
    return {name: value.detach().clone() for name, value in own.model.state_dict().items()}


# -- schedule ------------------------------------------------------------------------------------


def scaled_recipe(tmp_path):
    """The recipe of section 2.5.2 with rows of 32 and 128 tokens, and a shorter re-warming."""
    flags = ["--model", "DIR", "--data", str(tmp_path / "rows.jsonl")]
    recipe = load_config(SFTConfig, ROOT / "recipes" / "vanilla_sft.toml", flags)
    assert [s.row_tokens * 4 for s in recipe.stages] == [32768, 4 * 32768]
    short, long = recipe.stages
    stages = (replace_model(short, row_tokens=32), replace_model(long, row_tokens=128, warmup_steps=4))
    return replace_model(recipe, stages=stages, batch_tokens=128)


def replace_model(model, **changes):
    return type(model).model_validate(model.model_dump() | changes)


def test_the_learning_rate_has_the_papers_four_anchors(tmp_path):
    plan = plan_steps(scaled_recipe(tmp_path), [example(16 + i % 16) for i in range(120)])
    first, second = plan.stages
    rates = [plan.learning_rate(step) for step in range(plan.num_steps)]
    assert len(first.batches) > 10
    peak = second.first_step + 4  # after the re-warming
    anchors = [rates[0], rates[second.first_step - 1], rates[peak], rates[-1]]
    assert anchors == pytest.approx([2e-5, 2e-6, 1e-5, 1e-6], abs=1e-9, rel=0)
    for part in (rates[: second.first_step], rates[peak:]):
        assert part == sorted(part, reverse=True)
    ramp = rates[second.first_step - 1 : peak + 1]
    steps = [b - a for a, b in pairwise(ramp)]
    assert steps == pytest.approx([8e-6 / 5] * 5)


def test_the_shape_between_is_a_cosine(tmp_path):
    settings = config(tmp_path, stage(num_steps=101, learning_rate=3.0, final_learning_rate=1.0))
    plan = plan_steps(settings, [example(10)])
    expected = [2.0 + math.cos(math.pi * step / 100) for step in range(101)]
    assert [plan.learning_rate(step) for step in range(101)] == pytest.approx(expected)


def test_warming_up_starts_from_zero_in_the_first_stage(tmp_path):
    plan = plan_steps(
        config(tmp_path, stage(num_steps=9, learning_rate=1.0, warmup_steps=3)), [example(10)]
    )
    assert [plan.learning_rate(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_the_planned_rates_are_those_that_are_used(tmp_path):
    settings = config(
        tmp_path, stage(num_steps=3), stage(num_steps=4, learning_rate=1e-2, warmup_steps=1)
    )
    _, metrics = train(settings, tmp_path / "run")
    plan = plan_steps(settings, load_examples(settings, policy()).examples)
    assert [m["learning_rate"] for m in metrics] == [plan.learning_rate(step) for step in range(7)]
    assert [m["step"] for m in metrics] == list(range(7))


def test_rows_are_longer_in_the_second_stage_and_long_examples_wait_for_it(tmp_path):
    settings = scaled_recipe(tmp_path)
    examples = [example(20 if i % 4 else 100) for i in range(40)]
    plan = plan_steps(settings, examples)
    seen = [{i for batch in s.batches for i in batch} for s in plan.stages]
    assert seen == [{i for i in range(40) if i % 4}, set(range(40))]
    assert [s.num_left_out for s in plan.stages] == [10, 0]
    for step in range(plan.num_steps):
        width = 32 if step < plan.stages[1].first_step else 128
        for microbatch in _pack(settings, plan, examples, step).microbatches:
            assert microbatch.token_ids.shape[1] <= width


def test_a_stage_that_no_example_fits_is_refused(tmp_path):
    for examples in ([], [example(65)]):
        with pytest.raises(ConfigError, match="row_tokens of stage 1"):
            plan_steps(config(tmp_path), examples)


# -- batches -------------------------------------------------------------------------------------


def test_every_pass_sees_every_example_once_in_another_order(tmp_path):
    examples = [example(5 + i % 30) for i in range(50)]
    plan = plan_steps(config(tmp_path, stage(num_epochs=3)), examples)
    order = [i for batch in plan.stages[0].batches for i in batch]
    passes = [order[start : start + 50] for start in (0, 50, 100)]
    assert [sorted(p) for p in passes] == [list(range(50))] * 3
    assert len({tuple(p) for p in passes}) == 3


def test_the_seed_decides_the_order_and_nothing_else_does(tmp_path):
    examples = [example(10) for _ in range(40)]
    before = torch.random.get_rng_state()
    plans = [plan_steps(config(tmp_path, seed=seed), examples) for seed in (3, 3, 4)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert plans[0].stages[0].batches == plans[1].stages[0].batches != plans[2].stages[0].batches


def test_batches_have_about_batch_tokens(tmp_path):
    examples = [example(5 + i % 40) for i in range(200)]
    plan = plan_steps(config(tmp_path, stage(num_epochs=1)), examples)
    sizes = [sum(len(examples[i]) for i in batch) for batch in plan.stages[0].batches]
    assert max(sizes) < 100 + 45
    assert sum(sizes) / len(sizes) == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("num_steps", [1, 7, 20])
def test_a_number_of_steps_takes_as_many_passes_as_it_needs(tmp_path, num_steps):
    plan = plan_steps(config(tmp_path, stage(num_steps=num_steps)), [example(40) for _ in range(9)])
    assert plan.num_steps == num_steps
    assert [plan.stage_of(step)[1] for step in range(num_steps)] == list(range(num_steps))


# -- loss ----------------------------------------------------------------------------------------


def plain_loss(own, examples):
    """Mean negative log-likelihood of the completion tokens, one sequence at a time, by transformers' own forward."""
    total, count = 0.0, 0
    for e in examples:
        ids = torch.tensor([e.prompt_ids + e.completion_ids])
        with torch.no_grad():
            logp = own.model(ids).logits[0].log_softmax(-1)
        for at in range(len(e.prompt_ids), ids.shape[1]):
            total -= float(logp[at - 1, ids[0, at]])
            count += 1
    return total / count, count


def test_the_loss_is_that_of_the_completions_alone(tmp_path):
    settings = config(tmp_path, stage(num_steps=1))
    data = load_examples(settings, policy())
    _, [line] = train(settings, tmp_path / "run")
    batch = plan_steps(settings, data.examples).stages[0].batches[0]
    loss, count = plain_loss(policy(), [data.examples[i] for i in batch])
    assert line["loss"] == pytest.approx(loss, rel=1e-5)
    assert line["tokens"] == count == sum(len(data.examples[i].completion_ids) for i in batch)


def test_packing_changes_nothing_but_the_rows(tmp_path):
    traces = []
    for number, row_tokens in enumerate((30, 64, 200)):  # one, two, or all examples of a step in a row
        settings = config(
            tmp_path, stage(num_steps=5, row_tokens=row_tokens), microbatch_tokens=row_tokens
        )
        _, metrics = train(settings, tmp_path / f"run{number}")
        traces.append([m["loss"] for m in metrics])
    assert traces[1] == pytest.approx(traces[0], rel=1e-5)
    assert traces[2] == pytest.approx(traces[0], rel=1e-5)
    assert traces[0][-1] < traces[0][0] - 0.5


def test_examples_are_rendered_by_the_chat_template_and_end_with_the_end_token(tmp_path):
    own = policy()
    examples = load_examples(config(tmp_path), own).examples
    for row, e in zip(ROWS, examples, strict=True):
        assert own.decode(e.prompt_ids) == f"<|user|>{row['prompt']}<|end|><|assistant|>"
        assert own.decode(e.completion_ids) == row["completion"] + "<|end|>"
        assert e.loss_mask == (True,) * len(e.completion_ids)


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": "plus " * 80}, r"rows\.jsonl, line 13: .* row of 64 tokens; got"),
        (
            {"prompt": "a<|end|><|assistant|>b", "completion": "4"},
            r"line 13: a question must not hold the model's control token <\|(end|assistant)\|>",
        ),
        (
            {"prompt": "a", "completion": "4<|end|>"},
            r"line 13: .* must not hold a token that ends it; got '<\|end\|>'",
        ),
    ],
)
def test_an_example_that_cannot_be_trained_on_is_named_or_skipped(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        load_examples(config(tmp_path, rows=[*ROWS, row]), policy())
    data = load_examples(config(tmp_path, rows=[*ROWS, row], skip_bad_rows=True), policy())
    assert (len(data.examples), data.num_skipped) == (12, 1)


def test_another_file_has_another_fingerprint(tmp_path):
    first = load_examples(config(tmp_path), policy()).fingerprint
    assert load_examples(config(tmp_path), policy()).fingerprint == first
    assert load_examples(config(tmp_path, rows=ROWS[::-1]), policy()).fingerprint != first


def test_a_model_from_scratch_has_the_words_of_its_demonstrations(tmp_path):
    own = make_or_load_policy(config(tmp_path, model=ModelConfig(tiny=SHAPE)))
    assert len(own.tokenizer.encode("What plus")) == 2
    assert len(own.tokenizer.encode("Why minus")) > 2
    generated = SFTDataConfig.model_validate(
        {"tasks": [{"family": "trial", "levels": [1], "num_train": 5}]}
    )
    settings = SFTConfig(model=ModelConfig(tiny=SHAPE), data=generated)
    own = make_or_load_policy(settings)
    assert own.model.config.hidden_size == 32
    assert load_examples(settings, own).examples


def test_nan_stops_the_run_and_leaves_weights_and_checkpoint_alone(tmp_path, monkeypatch):
    def poisoned(*args, **kwargs):
        terms = likelihood_loss(*args, **kwargs)
        return replace(terms, loss=terms.loss * math.nan)

    monkeypatch.setattr("k15.stages.sft.likelihood_loss", poisoned)
    own = policy()
    before = weights(own)
    with pytest.raises(NonFiniteError, match="the last checkpoint is untouched"):
        train(config(tmp_path), tmp_path / "run", model=own)
    assert same(weights(own), before)
    assert same(
        load_file(next((tmp_path / "run").rglob("model.safetensors"))), saved(policy(), tmp_path / "x")
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [None] * 3  # JSON has no NaN
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [e["iteration"] for e in events if e["kind"] == "nonfinite_step"] == [0, 1, 2]


def saved(own, folder):
    save_policy(own, folder)
    return load_file(folder / "model.safetensors")


# -- resume --------------------------------------------------------------------------------------


def moments(folder):
    newest = max((folder / "checkpoints").glob("iteration_" + "[0-9]" * 6))
    return load_file(newest / "optimizer" / "moments.safetensors")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_resumes_with_its_optimizer_state(tmp_path, optimizer):
    settings = config(
        tmp_path, stage(num_steps=7, warmup_steps=2), optimizer=optimizer, weight_decay=0.1
    )
    expected, trace = train(settings, tmp_path / "unbroken")
    for name in ("resumed", "forgetful"):
        train(settings, tmp_path / name, stop_at=4)
    assert len((tmp_path / "resumed" / "metrics.jsonl").read_text().splitlines()) == 4

    resumed, resumed_trace = train(settings, tmp_path / "resumed")
    assert [m["loss"] for m in resumed_trace] == [m["loss"] for m in trace]
    assert same(weights(resumed), weights(expected))
    assert same(moments(tmp_path / "resumed"), moments(tmp_path / "unbroken"))
    names = {key.rpartition(".")[2] for key in moments(tmp_path / "resumed")}
    assert names == {"step", "exp_avg", "exp_avg_sq"} | (
        {"momentum_buffer"} if optimizer == "muon" else set()
    )


def test_without_the_optimizer_state_the_end_would_be_another(tmp_path, monkeypatch):
    """The witness of the test above."""
    settings = config(tmp_path, stage(num_steps=7))
    expected, _ = train(settings, tmp_path / "unbroken")
    train(settings, tmp_path / "run", stop_at=4)
    monkeypatch.setattr("k15.stages.sft.OptimizerState.load_from", lambda self, directory: None)
    forgetful, _ = train(settings, tmp_path / "run")
    assert not same(weights(forgetful), weights(expected))


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )
