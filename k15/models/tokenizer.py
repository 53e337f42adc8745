"""Tokenizer of models made from scratch: every word and number of the corpus is one token.

The text is cut into words, numbers of at most three digits, single signs and single white-space
characters, each with the space before it. A piece that was frequent enough in the corpus has a token of
its own; any other piece is spelled in bytes, so that every text can be encoded and decoded without loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
THINK_TAGS = ("<think>", "</think>")

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('unknown role ' + message['role']) }}"
    "{%- endif -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)

_PIECES = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]|\n|\s"


def build_tokenizer(texts: Iterable[str], *, max_vocab: int = 8192) -> PreTrainedTokenizerFast:
    """A lossless byte-level tokenizer whose vocabulary is the corpus' own words and numbers.

    The ids are, in order: control tokens, think tags, the 256 bytes, then the pieces of the corpus in
    alphabetical order. The same corpus, in whatever order, gives the same tokenizer.

    Args:
        texts: the corpus; for instance questions and demonstrations of the task families.
        max_vocab: at most so many tokens; the most frequent pieces are kept, the others are spelled in bytes.
    """
    splitter = _pre_tokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    control = [PAD, END, USER, ASSISTANT, SYSTEM]
    reserved = [*control, *THINK_TAGS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    by_frequency = sorted((piece for piece in counts if len(piece) > 1), key=lambda p: (-counts[p], p))
    words = sorted(by_frequency[: max(0, max_vocab - len(reserved))])

    # No merges: with `ignore_merges` a piece in the vocabulary is one token, any other piece is bytes.
    vocab = {token: index for index, token in enumerate([*reserved, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in control]
    )
    # The think tags are part of the text, so `skip_special_tokens` must not drop them.
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in THINK_TAGS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Cuts text into pieces and writes their bytes as printable characters."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
