"""Losses of section 2.3.2 against hand-computed coefficients, finite differences and each other."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from k15.algo.policy import (
    Loss,
    Normalizer,
    grpo_loss,
    make_loss,
    mirror_descent_loss,
    reinforce_loss,
    squared_loss,
)
from k15.config.rl import AlgorithmConfig
from k15.errors import ConfigError

ALL_LOSSES = ("mirror_descent", "squared", "reinforce", "grpo")


def loss_named(name: str, **settings: float) -> Loss:
    return make_loss(AlgorithmConfig(loss=name, **settings))  # type: ignore[arg-type]


def example(num: int = 4, tokens: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random logprobs (with gradient), reference, mask and advantages, in double precision."""
    generator = torch.Generator().manual_seed(1)
    reference = -torch.rand(num, tokens, generator=generator, dtype=torch.float64)
    logprobs = reference + 0.3 * torch.randn(num, tokens, generator=generator, dtype=torch.float64)
    mask = torch.rand(num, tokens, generator=generator) < 0.7
    advantages = torch.randn(num, generator=generator, dtype=torch.float64)
    return logprobs.requires_grad_(), reference, mask, advantages


def one_token_each(delta: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Completions of one token with the given log-ratios."""
    reference = torch.full((len(delta), 1), -1.0, dtype=torch.float64)
    logprobs = (reference + torch.tensor(delta, dtype=torch.float64).unsqueeze(-1)).requires_grad_()
    return logprobs, reference, torch.ones(len(delta), 1, dtype=torch.bool)


@pytest.mark.parametrize("loss", [mirror_descent_loss, squared_loss])
def test_eq3_weighs_a_completion_by_advantage_minus_tau_delta(loss) -> None:
    # r = [1, 0, 0, 1], so A = [.5, -.5, -.5, .5]; worked by hand.
    logprobs, reference, mask = one_token_each([0.2, -0.1, 0.0, 0.5])
    advantages = torch.tensor([0.5, -0.5, -0.5, 0.5], dtype=torch.float64)
    terms = loss(logprobs, reference, mask, advantages, normalizer=Normalizer(4, 4), tau=0.1)
    terms.loss.backward()
    assert logprobs.grad is not None
    weights = -4 * logprobs.grad.squeeze(-1)
    torch.testing.assert_close(weights, torch.tensor([0.48, -0.49, -0.5, 0.45], dtype=torch.float64))


def log_policy(theta: np.ndarray, completions: np.ndarray) -> np.ndarray:
    """log pi of each completion under independent softmaxes per position; numpy, no torch."""
    logprobs = theta - np.log(np.exp(theta).sum(axis=1, keepdims=True))
    return np.array([sum(logprobs[t, token] for t, token in enumerate(c)) for c in completions])


def test_autodiff_of_the_plain_square_is_minus_two_tau_times_eq3() -> None:
    tau, rng = 0.3, np.random.default_rng(0)
    theta, theta_i = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    completions = rng.integers(4, size=(5, 3))
    advantages = rng.normal(size=5)

    def ascent(point: np.ndarray) -> float:
        """The quantity whose gradient Eq. 3 is, for one problem."""
        log_pi = log_policy(point, completions)
        delta = log_pi - log_policy(theta_i, completions)
        return float(np.mean(advantages * log_pi - tau / 2 * delta**2))

    eq3 = np.zeros_like(theta)
    for index in np.ndindex(*theta.shape):
        step = np.zeros_like(theta)
        step[index] = 1e-5
        eq3[index] = (ascent(theta + step) - ascent(theta - step)) / 2e-5

    parameters = torch.tensor(theta, requires_grad=True)
    tokens = torch.tensor(completions)
    logprobs = parameters.log_softmax(-1)[torch.arange(3), tokens]
    reference = torch.tensor(theta_i).log_softmax(-1)[torch.arange(3), tokens]
    plain_square = 2 * tau * squared_loss(
        logprobs, reference, torch.ones(5, 3, dtype=torch.bool), torch.tensor(advantages),
        normalizer=Normalizer(5, 15), tau=tau,
    ).loss  # fmt: skip
    literal = np.mean(
        (advantages - tau * (log_policy(theta, completions) - log_policy(theta_i, completions))) ** 2
    )
    assert plain_square.item() == pytest.approx(literal, abs=1e-12)
    plain_square.backward()
    assert parameters.grad is not None
    np.testing.assert_allclose(parameters.grad.numpy(), -2 * tau * eq3, atol=1e-8)


def test_squared_and_mirror_descent_have_the_same_gradient_for_every_tau() -> None:
    for tau in (0.01, 0.1, 1.0, 10.0):
        gradients = []
        for loss in (mirror_descent_loss, squared_loss):
            logprobs, reference, mask, advantages = example()
            loss(
                logprobs, reference, mask, advantages, normalizer=Normalizer(4, 17), tau=tau
            ).loss.backward()
            gradients.append(logprobs.grad)
        torch.testing.assert_close(gradients[0], gradients[1])


def test_delta_is_the_masked_sum_over_the_completion_and_the_prompt_is_excluded() -> None:
    log_ratios = torch.tensor(
        [[9.0, 0.1, 0.2, 0.4, 9.0], [9.0, 9.0, -0.3, 9.0, 9.0]], dtype=torch.float64
    )
    mask = torch.tensor([[False, True, True, True, False], [False, False, True, False, False]])
    reference = torch.full((2, 5), -2.0, dtype=torch.float64)
    logprobs = (reference + log_ratios).requires_grad_()
    advantages = torch.tensor([1.0, -1.0], dtype=torch.float64)
    terms = mirror_descent_loss(
        logprobs, reference, mask, advantages, normalizer=Normalizer(2, 4), tau=0.5
    )
    torch.testing.assert_close(terms.log_ratio, torch.tensor([0.7, -0.3], dtype=torch.float64))
    # -A log pi + tau/2 Delta^2, worked by hand: 5.3 + .25 * .49 and -2.3 + .25 * .09, over two completions.
    assert terms.loss.item() == pytest.approx((5.3 + 0.1225 - 2.3 + 0.0225) / 2)
    terms.loss.backward()
    assert logprobs.grad is not None
    # The square of the sum, not the sum of squares: every token of a completion feels the same force.
    expected = torch.where(
        mask, torch.tensor([[-(1 - 0.35) / 2], [-(-1 + 0.15) / 2]], dtype=torch.float64), 0.0
    )
    torch.testing.assert_close(logprobs.grad, expected)


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_masked_positions_may_hold_anything(name: str) -> None:
    results = []
    for garbage in (0.0, math.nan, math.inf, -math.inf):
        logprobs, reference, mask, advantages = example()
        dirty = torch.where(mask, logprobs.detach(), garbage).requires_grad_()
        dirty_reference = torch.where(mask, reference, garbage)
        terms = loss_named(name)(dirty, dirty_reference, mask, advantages, normalizer=Normalizer(4, 17))
        terms.loss.backward()
        results.append((terms.loss.detach(), terms.log_ratio, dirty.grad))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)
    assert bool(results[0][2].isfinite().all())
    assert bool((results[0][2] != 0).any())


@pytest.mark.parametrize("name", ["mirror_descent", "squared", "reinforce"])
def test_weight_of_a_token_does_not_depend_on_its_completions_length(name: str) -> None:
    mask = torch.arange(50) < torch.tensor([[2], [50]])
    reference = torch.full((2, 50), -1.0)
    logprobs = reference.clone().requires_grad_()
    loss_named(name, loss_constant=4.0)(
        logprobs, reference, mask, torch.tensor([0.5, 0.5]), normalizer=Normalizer(2, 52)
    ).loss.backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad[mask], torch.full((52,), -0.5 / (4.0 * 2)))


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_microbatches_add_up_to_the_minibatch(name: str) -> None:
    normalizer = Normalizer(4, 17)
    logprobs, reference, mask, advantages = example()
    whole = loss_named(name)(logprobs, reference, mask, advantages, normalizer=normalizer)
    (whole_gradient,) = torch.autograd.grad(whole.loss, logprobs)
    parts = [
        loss_named(name)(logprobs[i], reference[i], mask[i], advantages[i], normalizer=normalizer)
        for i in (slice(0, 1), slice(1, 4))
    ]
    loss = parts[0].loss + parts[1].loss
    (gradient,) = torch.autograd.grad(loss, logprobs)
    torch.testing.assert_close(loss, whole.loss)
    torch.testing.assert_close(gradient, whole_gradient)
    torch.testing.assert_close(torch.cat([p.log_ratio for p in parts]), whole.log_ratio)


def descend(tau: float, num_steps: int) -> Tensor:
    """Logits of a three-arm policy after some steps of plain gradient descent from its reference."""
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    arms, advantages = (
        torch.tensor([0, 1, 2, 2]),
        torch.tensor([0.75, -0.25, -0.25, -0.25], dtype=torch.float64),
    )
    reference = logits.detach().log_softmax(-1)[arms].unsqueeze(-1)
    for _ in range(num_steps):
        logprobs = logits.log_softmax(-1)[arms].unsqueeze(-1)
        mask = torch.ones_like(logprobs, dtype=torch.bool)
        terms = mirror_descent_loss(
            logprobs, reference, mask, advantages, normalizer=Normalizer(4, 4), tau=tau
        )
        (gradient,) = torch.autograd.grad(terms.loss, logits)
        logits = (logits - gradient).detach().requires_grad_()
    return logits.detach()


def test_tau_has_no_effect_in_the_first_step_and_has_one_from_the_second() -> None:
    torch.testing.assert_close(descend(0.01, 1), descend(4.0, 1), rtol=0, atol=0)
    assert (descend(0.01, 2) - descend(4.0, 2)).abs().max() > 1e-3


def test_equal_rewards_still_pull_back_to_the_reference() -> None:
    logprobs, reference, mask = one_token_each([0.4, -0.2])
    zero = torch.zeros(2, dtype=torch.float64)
    mirror_descent_loss(
        logprobs, reference, mask, zero, normalizer=Normalizer(2, 2), tau=0.5
    ).loss.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.1], [-0.05]], dtype=torch.float64))


def test_reinforce_ignores_the_reference() -> None:
    logprobs, reference, mask, advantages = example()
    for shift in (0.0, 3.0):
        loss = reinforce_loss(
            logprobs, reference + shift, mask, advantages, normalizer=Normalizer(4, 17)
        ).loss
        by_hand = sum(
            -advantages[i] * logprobs[i, t] for i in range(4) for t in range(6) if mask[i, t]
        ) / 4  # fmt: skip
        torch.testing.assert_close(loss, by_hand)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected_loss", "has_gradient"),
    [
        (1.0, 2.0, -2.0, True),
        (1.5, 2.0, -1.3 * 2.0, False),  # risen enough: clipped at 1 + clip_high
        (1.5, -2.0, 3.0, True),  # risen against a negative advantage: pushed back
        (0.5, 2.0, -1.0, True),
        (0.5, -2.0, 0.8 * 2.0, False),  # fallen enough: clipped at 1 - clip_low
    ],
)
def test_grpo_clips_each_tokens_ratio(
    ratio: float, advantage: float, expected_loss: float, has_gradient: bool
) -> None:
    logprobs, reference, mask = one_token_each([math.log(ratio)])
    terms = grpo_loss(
        logprobs, reference, mask, torch.tensor([advantage], dtype=torch.float64),
        normalizer=Normalizer(1, 1), clip_low=0.2, clip_high=0.3,
    )  # fmt: skip
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(expected_loss)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(-ratio * advantage if has_gradient else 0.0)


def test_grpo_averages_over_the_minibatchs_tokens() -> None:
    mask = torch.arange(9) < torch.tensor([[1], [9]])
    reference = torch.full((2, 9), -1.0)
    logprobs = reference.clone().requires_grad_()
    terms = grpo_loss(logprobs, reference, mask, torch.tensor([1.0, -1.0]), normalizer=Normalizer(2, 10))
    assert terms.loss.item() == pytest.approx((-1 + 9) / 10)


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_no_gradient_reaches_reference_or_advantages(name: str) -> None:
    logprobs, reference, mask, advantages = example()
    reference.requires_grad_()
    advantages.requires_grad_()
    terms = loss_named(name)(logprobs, reference, mask, advantages, normalizer=Normalizer(4, 17))
    terms.loss.backward()
    assert logprobs.grad is not None
    assert reference.grad is None
    assert advantages.grad is None
    assert not terms.log_ratio.requires_grad


def test_sums_over_low_precision_tokens_are_taken_in_fp32() -> None:
    # 4097 halves make 2048.5, which bfloat16 cannot hold.
    logprobs = torch.full((1, 4097), -0.5, dtype=torch.bfloat16)
    mask = torch.ones(1, 4097, dtype=torch.bool)
    terms = reinforce_loss(
        logprobs, 2 * logprobs, mask, torch.tensor([1.0]), normalizer=Normalizer(1, 4097)
    )
    assert terms.loss.item() == 2048.5
    assert terms.log_ratio.item() == 2048.5


def test_make_loss_fills_in_the_configs_constants() -> None:
    logprobs, reference, mask, advantages = example()
    normalizer = Normalizer(4, 17)
    made = loss_named("mirror_descent", tau=0.7, loss_constant=3.0)
    by_hand = mirror_descent_loss(
        logprobs, reference, mask, advantages, normalizer=normalizer, tau=0.7, loss_constant=3.0
    )
    assert made(logprobs, reference, mask, advantages, normalizer=normalizer).loss == by_hand.loss
    made = loss_named("grpo", clip_low=0.1, clip_high=0.6)
    by_hand = grpo_loss(
        logprobs, reference, mask, advantages, normalizer=normalizer, clip_low=0.1, clip_high=0.6
    )
    assert made(logprobs, reference, mask, advantages, normalizer=normalizer).loss == by_hand.loss


def test_make_loss_refuses_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match=r"one of mirror_descent, .*; got 'ppo'"):
        make_loss(AlgorithmConfig().model_copy(update={"loss": "ppo"}))
