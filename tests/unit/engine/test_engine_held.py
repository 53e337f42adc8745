"""Another engine's parameters in the policy's names: a fingerprint taken of them proves what is held."""

import pytest
import torch

from k15.engine.held import pieces_of, take_apart
from k15.errors import EngineError
from k15.weights.fingerprint import fingerprint

STACKS = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


def test_fused_modules_are_made_of_the_policys_in_the_order_of_their_rows():
    names = ["a.v_proj.weight", "a.k_proj.weight", "a.q_proj.weight", "a.q_proj.bias", "a.o_proj.weight"]
    assert pieces_of(names, STACKS, str) == {
        "a.qkv_proj.weight": ["a.q_proj.weight", "a.k_proj.weight", "a.v_proj.weight"],
        "a.qkv_proj.bias": ["a.q_proj.bias"],
        "a.o_proj.weight": ["a.o_proj.weight"],
    }


def test_the_engines_own_names_are_used():
    pieces = pieces_of(["model.up_proj.weight"], STACKS, lambda name: f"text.{name}")
    assert pieces == {"text.model.gate_up_proj.weight": ["model.up_proj.weight"]}


def test_a_tensor_that_the_engine_leaves_out_is_an_error():
    with pytest.raises(EngineError, match=r"it leaves visual\.weight out"):
        pieces_of(["visual.weight"], STACKS, lambda name: None)


@pytest.fixture
def handed() -> dict[str, torch.Tensor]:
    return {"q": torch.randn(4, 3), "k": torch.randn(2, 3), "scale": torch.randn(5)}


def test_what_is_equal_has_the_fingerprint_that_was_promised(handed):
    fused = torch.cat([handed["q"], handed["k"], torch.zeros(10, 3)])  # an engine pads rows
    held = take_apart(fused, ["q", "k"], handed) | take_apart(handed["scale"].clone(), ["scale"], handed)
    assert fingerprint(held) == fingerprint(handed)


@pytest.mark.parametrize(("row", "name"), [(0, "q"), (5, "k")])
def test_one_wrong_bit_shows_in_the_tensor_it_belongs_to(handed, row: int, name: str):
    fused = torch.cat([handed["q"], handed["k"]])
    fused[row, 2] = torch.nextafter(fused[row, 2], torch.tensor(torch.inf))
    held = take_apart(fused, ["q", "k"], handed)
    assert [n for n in held if not torch.equal(held[n], handed[n])] == [name]


def test_rows_that_are_missing_show():
    handed = {"q": torch.randn(4, 3)}
    assert fingerprint(take_apart(handed["q"][:3], ["q"], handed)) != fingerprint(handed)


def test_a_wider_type_and_the_sign_of_zero_do_not_count():
    handed = {"w": torch.tensor([[-0.0, 1.5], [2.0, -3.25]], dtype=torch.bfloat16)}
    held = take_apart(handed["w"].float() + 0.0, ["w"], handed)
    assert fingerprint(held) == fingerprint(handed)


def test_a_difference_below_the_policys_own_precision_counts():
    handed = {"w": torch.tensor([[1.5]], dtype=torch.bfloat16)}
    held = take_apart(torch.tensor([[1.5 + 1e-6]]), ["w"], handed)
    assert held["w"] is not handed["w"]
