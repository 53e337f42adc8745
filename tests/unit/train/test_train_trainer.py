"""The trainer: Eq. 3 step by step, resets, and what it must not have (rows 25, 28, 30-34)."""

from functools import partial

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from k15.algo.policy import mirror_descent_loss, reinforce_loss
from k15.errors import ModelError, NonFiniteError
from k15.train.batch import engine_gap, examples_of, loss_mask
from k15.train.forward import LogprobModel
from k15.train.packing import Example, pack_minibatch
from k15.train.trainer import OptimizerSettings, Trainer
from k15.types import Group, Prompt, Segment, StopReason, Trajectory


def tiny_model(seed=0):
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


def batch(count=8, seed=1, **sizes):
    rng = torch.Generator().manual_seed(seed)
    examples = []
    for index in range(count):
        tokens = torch.randint(1, 48, (5 + index,), generator=rng).tolist()
        advantage = float(torch.randn((), generator=rng))
        examples.append(
            Example(
                tuple(tokens[:3]), tuple(tokens[3:]), (True,) * (2 + index), advantage, group=index // 4
            )
        )
    return pack_minibatch(examples, **({"row_tokens": 32, "microbatch_tokens": 4096} | sizes))


def make(model=None, **kwargs):
    return Trainer(model or tiny_model(), OptimizerSettings(1e-3), **kwargs)


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def loss(tau):
    return partial(mirror_descent_loss, tau=tau)


def weights_after(tau, steps, seed=0):
    trainer, minibatch = make(tiny_model(seed)), batch()
    reference = trainer.logprobs(minibatch)
    trainer.reset_optimizer()
    for _ in range(steps):
        trainer.step(minibatch, reference, loss(tau))
    return flat(trainer.model)


def test_tau_is_inert_in_the_first_step_and_acts_from_the_second():
    assert torch.equal(weights_after(0.01, 1), weights_after(10.0, 1))
    assert not torch.allclose(weights_after(0.01, 2), weights_after(10.0, 2))


def test_larger_tau_keeps_the_policy_closer_to_its_reference():
    def drift(tau):
        trainer, minibatch = make(), batch()
        reference = trainer.logprobs(minibatch)
        for _ in range(12):
            last = trainer.step(minibatch, reference, loss(tau))
        return last.delta_rms

    drifts = [drift(tau) for tau in (0.01, 0.03, 0.1, 0.4)]
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[0] > 1.2 * drifts[-1]


def test_the_reference_is_the_policy_itself_before_the_first_step():
    trainer, minibatch = make(), batch()
    first = trainer.step(minibatch, trainer.logprobs(minibatch), loss(0.1))
    assert first.delta_rms == 0.0
    assert first.kl == 0.0
    assert first.force_ratio == 0.0


def test_gradient_is_eq_3_by_finite_differences():
    model = tiny_model().double()
    trainer, minibatch = make(model), batch()
    reference = trainer.logprobs(minibatch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    trainer.settings = OptimizerSettings(0.0, grad_clip=1e9)
    trainer.step(minibatch, reference, loss(0.3))
    parameters = list(model.parameters())
    gradients = [p.grad.clone() for p in parameters]

    def objective():  # (1/n) sum_j A_j log pi - tau/2 Delta^2, written out
        value = 0.0
        for microbatch, ref in zip(minibatch.microbatches, reference, strict=True):
            with torch.no_grad():
                hidden = model.model(
                    input_ids=microbatch.token_ids,
                    attention_mask=microbatch.attention_mask(),
                    position_ids=microbatch.position_ids,
                ).last_hidden_state
                log_p = model.lm_head(hidden).log_softmax(-1).flatten(0, 1)
            for j in range(microbatch.num_completions):
                at = microbatch.completion == j
                chosen = log_p[microbatch.predicted_at[at], microbatch.targets[at]]
                delta = float((chosen - ref[at].double()).sum())
                value += float(microbatch.advantages[j]) * float(chosen.sum()) - 0.15 * delta**2
        return value / minibatch.num_completions

    def move(direction, size):
        with torch.no_grad():
            for parameter, part in zip(parameters, direction, strict=True):
                parameter.add_(size * part)

    for seed in range(3):
        torch.manual_seed(seed)
        direction = [g + g.abs().mean() * torch.randn_like(g) for g in gradients]
        slope = -sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        length = sum(float(d.square().sum()) for d in direction) ** 0.5
        size = 1e-3 / length  # norms and rotary tables are fp32 inside: smaller steps drown in rounding
        move(direction, size)
        up = objective()
        move(direction, -2 * size)
        down = objective()
        move(direction, size)
        assert (up - down) / (2 * size) == pytest.approx(slope, rel=5e-3)


@pytest.mark.parametrize("microbatch_tokens", [1, 40, 100])
def test_microbatches_add_up_to_the_whole_gradient(microbatch_tokens):
    gradients = []
    for tokens in (4096, microbatch_tokens):
        model = tiny_model()
        trainer, minibatch = make(model), batch(row_tokens=16, microbatch_tokens=tokens)
        trainer.settings = OptimizerSettings(0.0, grad_clip=1e9)
        trainer.step(minibatch, trainer.logprobs(minibatch), loss(0.1))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)


def test_reset_forgets_every_moment():
    trainer, minibatch = make(), batch()
    reference = trainer.logprobs(minibatch)
    trainer.step(minibatch, reference, loss(0.1))
    assert all(optimizer.state for optimizer in trainer.optimizers)
    trainer.reset_optimizer()
    assert not any(optimizer.state for optimizer in trainer.optimizers)
    trainer.step(minibatch, reference, loss(0.1))
    (optimizer,) = trainer.optimizers
    assert {float(moments["step"]) for moments in optimizer.state.values()} == {1.0}


def test_there_is_no_value_network():
    model = tiny_model()
    before = {name for name, _ in model.named_parameters()}
    trainer = make(model)
    trainer.step(batch(), trainer.logprobs(batch()), loss(0.1))
    assert {name for name, _ in trainer.model.named_parameters()} == before
    optimized = {id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in model.parameters()}


def test_muon_and_adamw_share_the_parameters_without_overlap():
    model = tiny_model()
    trainer = Trainer(model, OptimizerSettings(1e-3, kind="muon"))
    owned = [id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]]
    assert len(trainer.optimizers) == 2
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    before = flat(model)
    trainer.step(batch(), trainer.logprobs(batch()), reinforce_loss)
    assert not torch.equal(before, flat(model))


def test_temperature_defines_the_policy():
    model, minibatch = tiny_model().eval(), batch()
    hot = make(model, temperature=2.0).logprobs(minibatch)
    (microbatch,) = minibatch.microbatches
    with torch.no_grad():
        hidden = model.model(
            input_ids=microbatch.token_ids,
            attention_mask=microbatch.attention_mask(),
            position_ids=microbatch.position_ids,
        ).last_hidden_state
        log_p = (model.lm_head(hidden) / 2.0).log_softmax(-1).flatten(0, 1)
    expected = log_p[microbatch.predicted_at, microbatch.targets]
    assert torch.allclose(hot[0], expected, atol=1e-5)


def test_a_gradient_that_is_not_finite_leaves_the_weights_and_then_stops_the_run():
    trainer, minibatch = make(max_nonfinite_steps=2), batch()
    broken = tuple(torch.full_like(ref, float("nan")) for ref in trainer.logprobs(minibatch))
    before = flat(trainer.model)
    for _ in range(2):
        assert trainer.step(minibatch, broken, loss(0.1)).is_skipped
    assert torch.equal(before, flat(trainer.model))
    with pytest.raises(NonFiniteError, match="3 steps in a row"):
        trainer.step(minibatch, broken, loss(0.1))


def test_a_model_that_caps_its_logits_is_refused():
    class Capped(Qwen3ForCausalLM):
        def forward(self, *args, **kwargs):
            result = super().forward(*args, **kwargs)
            result.logits = 0.01 * torch.tanh(result.logits / 0.01)
            return result

    torch.manual_seed(0)
    model = Capped(tiny_model().config)
    with pytest.raises(ModelError, match="rescale or cap"):
        LogprobModel.build(model)


def trajectory(*segments):
    start, parts = 0, []
    for version, count in segments:
        ids = tuple(range(10 + start, 10 + start + count))
        parts.append(Segment(0, 0, start, ids, (-1.0,) * count, version, "f", None))
        start += count
    last = parts[-1]
    parts[-1] = Segment(
        0, 0, last.start, last.token_ids, last.logprobs, last.policy_version, "f", StopReason.END
    )
    return Trajectory(0, 0, tuple(parts))


@pytest.mark.parametrize(
    ("max_staleness", "expected"),
    [
        (0, [0, 0, 0, 0, 0, 1]),
        (1, [0, 0, 0, 1, 1, 1]),
        (2, [0, 0, 0, 1, 1, 1]),
        (3, [1] * 6),
        (None, [1] * 6),
    ],
)
def test_stale_segments_carry_no_loss(max_staleness, expected):
    chain = trajectory((4, 3), (6, 2), (7, 1))
    mask = loss_mask(chain, iteration=7, max_staleness=max_staleness)
    assert list(mask) == [bool(e) for e in expected]
    assert len(mask) == chain.length


def test_our_fault_is_left_out_and_the_gap_sees_fresh_tokens_only():
    prompt = Prompt("p", "q", "a", "math", "f", token_ids=(1, 2))
    group = Group(3, prompt, 0, (trajectory((6, 2), (7, 2)), trajectory((7, 3))))
    examples = examples_of(
        [group],
        torch.tensor([[0.5, -0.5]]),
        torch.tensor([[True, False]]),
        iteration=7,
        max_staleness=None,
    )
    assert [e.advantage for e in examples] == [0.5]
    minibatch = pack_minibatch(examples, row_tokens=16, microbatch_tokens=16)
    gap = engine_gap([minibatch], [(torch.tensor([-9.0, -9.0, -1.25, -1.0]),)])
    assert gap.tolist() == pytest.approx([0.25, 0.0])


def test_a_model_with_nan_in_its_weights_is_refused():
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match="must be finite"):
        LogprobModel.build(model)
