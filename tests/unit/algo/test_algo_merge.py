"""Merging formulas against worked examples, closed forms and a plain loop (row 45)."""

import math

import pytest
import torch

from k15.algo.merge import average, slerp, ties


def test_the_average_is_the_mean_of_every_entry():
    long, short = torch.randn(5, 7), torch.randn(5, 7)
    assert torch.allclose(average(long, short, weight=0.5), (long + short) / 2, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_weight_0_is_the_long_model_and_1_the_short_one_bit_for_bit(dtype):
    long, short = torch.randn(64).to(dtype), torch.randn(64).to(dtype)
    for formula in (average, slerp):
        assert torch.equal(formula(long, short, weight=0.0).to(dtype), long)
    assert torch.equal(average(long, short, weight=1.0).to(dtype), short)


def test_bfloat16_is_averaged_in_float32_and_rounded_once():
    long, short = torch.randn(1000).bfloat16(), torch.randn(1000).bfloat16()
    exact = ((long.double() + short.double()) / 2).bfloat16()
    assert torch.equal(average(long, short, weight=0.5).bfloat16(), exact)
    assert not torch.equal(
        (long * 0.3 + short * 0.7).bfloat16(), average(long, short, weight=0.7).bfloat16()
    )


def test_slerp_walks_the_arc_at_constant_speed():
    long, short = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for weight in (0.0, 0.25, 0.5, 1.0):
        angle = weight * math.pi / 2
        expected = torch.tensor([math.cos(angle), math.sin(angle)])
        assert torch.allclose(slerp(long, short, weight=weight), expected, atol=1e-6)


def test_slerp_keeps_the_norm_of_unit_vectors_where_the_average_shrinks_it():
    long, short = torch.randn(4, 8), torch.randn(4, 8)
    long, short = long / long.norm(), short / short.norm()
    assert float(slerp(long, short, weight=0.4).norm()) == pytest.approx(1.0, abs=1e-5)
    assert float(average(long, short, weight=0.4).norm()) < 0.9


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0, 0.0])
def test_slerp_without_an_arc_is_the_average(factor):
    long = torch.randn(6)
    assert torch.allclose(
        slerp(long, factor * long, weight=0.3), average(long, factor * long, weight=0.3), atol=1e-6
    )


def test_ties_worked_by_hand():
    base = torch.zeros(6)
    long = torch.tensor([4.0, 3.0, -2.0, 0.1, 5.0, 0.0])
    short = torch.tensor([2.0, -5.0, -4.0, 0.2, 0.0, 0.0])
    # density 0.5 keeps the three largest changes of each: long 4, 3, 5; short 2, -5, -4
    expected = torch.tensor([3.0, -5.0, -4.0, 0.0, 5.0, 0.0])
    assert torch.equal(ties(long, short, base, weight=0.5, density=0.5), expected)


def _ties_by_loop(long, short, base, weight, density):
    def trim(change):
        keep = max(1, round(density * len(change)))
        largest = sorted(range(len(change)), key=lambda i: (-abs(change[i]), i))[:keep]
        return [c if i in largest else 0.0 for i, c in enumerate(change)]

    changes = [trim([m - b for m, b in zip(model, base, strict=True)]) for model in (long, short)]
    merged = []
    for i, origin in enumerate(base):
        parts = [((1.0 - weight), changes[0][i]), (weight, changes[1][i])]
        total = sum(w * c for w, c in parts)
        same = [(w, c) for w, c in parts if c * total > 0]
        added = sum(w * c for w, c in same) / sum(w for w, _ in same) if same else 0.0
        merged.append(origin + added)
    return merged


@pytest.mark.parametrize("seed", range(5))
def test_ties_equals_a_plain_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    long, short, base = (torch.randn(40, generator=generator, dtype=torch.float64) for _ in range(3))
    weight, density = 0.1 + 0.2 * seed, 0.2 + 0.15 * seed
    expected = _ties_by_loop(long.tolist(), short.tolist(), base.tolist(), weight, density)
    found = ties(long, short, base, weight=weight, density=density)
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
