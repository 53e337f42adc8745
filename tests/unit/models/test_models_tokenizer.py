"""The tokenizer of tiny models: one token per word, lossless, the same after saving."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from k15.models.tokenizer import build_tokenizer

CORPUS = [
    "Find k with 3 + 7*k ending in 2.\nTry k = 5: 3 + 35 = 38, no.\nNext k = 120.",
    "<think>First I plan. Then k = 12; not 1234.</think>\nThe answer is 9.",
]
TOKENIZER = build_tokenizer(CORPUS)


def encode(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    "piece", ["Try", " k", " 35", " ending", " 120", " Then", " is", "*", "\n", "<think>"]
)
def test_a_piece_of_the_corpus_is_one_token(piece: str) -> None:
    assert len(encode(piece)) == 1
    assert TOKENIZER.decode(encode(piece)) == piece


def test_the_pieces_of_a_text_are_words_numbers_and_signs() -> None:
    pieces = [TOKENIZER.decode([i]) for i in encode("Try k = 120: 3*7\n\nNext")]
    assert pieces == ["Try", " k", " =", " 120", ":", " 3", "*", "7", "\n", "\n", "Next"]


def test_a_long_number_is_cut_after_three_digits() -> None:
    assert [TOKENIZER.decode([i]) for i in encode(" 1234")] == [" 123", "4"]


def test_a_piece_that_the_corpus_lacks_is_spelled_in_bytes() -> None:
    assert len(encode(" zebra")) == len(b" zebra")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_decoding_gives_the_text_back(text: str) -> None:
    assert TOKENIZER.decode(encode(text), skip_special_tokens=False) == text


def test_control_tokens_and_think_tags_are_single_ids() -> None:
    for token in (
        "<|pad|>",
        "<|end|>",
        "<|user|>",
        "<|assistant|>",
        "<|system|>",
        "<think>",
        "</think>",
    ):
        assert encode(token) == [TOKENIZER.convert_tokens_to_ids(token)]
    assert TOKENIZER.pad_token == "<|pad|>"
    assert TOKENIZER.eos_token == "<|end|>"


def test_skipping_special_tokens_keeps_the_think_tags() -> None:
    ids = encode("<think>k = 5</think>9<|end|>")
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "<think>k = 5</think>9"


def test_chat_template_with_and_without_generation_prompt() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "k?"}]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>Be brief.<|end|><|user|>k?<|end|><|assistant|>"
    messages.append({"role": "assistant", "content": "9"})
    text = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert text == "<|system|>Be brief.<|end|><|user|>k?<|end|><|assistant|>9<|end|>"


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(Exception, match="unknown role tool"):
        TOKENIZER.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_order_of_the_corpus_does_not_matter() -> None:
    lines = [line for text in CORPUS for line in text.split("\n")]
    first = build_tokenizer(lines)
    random.Random(1).shuffle(lines)
    assert build_tokenizer(lines).backend_tokenizer.to_str() == first.backend_tokenizer.to_str()


def test_the_most_frequent_pieces_are_kept_when_the_vocabulary_is_full() -> None:
    tokenizer = build_tokenizer(["often often often rare"], max_vocab=7 + 256 + 1)
    assert len(tokenizer) == 264
    assert len(tokenizer(" often", add_special_tokens=False).input_ids) == 1
    assert len(tokenizer(" rare", add_special_tokens=False).input_ids) == len(" rare")


def test_saved_and_reloaded_it_is_the_same(tmp_path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    assert reloaded.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()
    assert reloaded.chat_template == TOKENIZER.chat_template
    assert (reloaded.eos_token_id, reloaded.pad_token_id) == (
        TOKENIZER.eos_token_id,
        TOKENIZER.pad_token_id,
    )
    text = CORPUS[0] + CORPUS[1] + " élan <|end|>"
    assert reloaded(text).input_ids == TOKENIZER(text).input_ids
