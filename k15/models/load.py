"""A policy: model, tokenizer, and which ids end a completion or may never be sampled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from k15.config.parts import ModelConfig
from k15.errors import ModelError
from k15.models.tokenizer import THINK_TAGS

PLAIN_CHAT_TEMPLATE = (
    "{%- if bos_token -%}{{ bos_token }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{{ message['content'] + '\n\n' }}"
    "{%- elif message['role'] == 'user' -%}{{ 'Question: ' + message['content'] + '\n' }}"
    "{%- else -%}{{ 'Answer: ' + message['content'] + eos_token + '\n\n' }}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Answer:' }}{%- endif -%}"
)
"""What a tokenizer without a chat template gets: "Question: ...", then "Answer:"."""

_WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tiktoken.model",
)
_PLACEHOLDER = re.compile(
    r"<\|.*\|>|[<\[](unused|reserved|image|video|audio|extra_id|mask|unk|pad)\S*[>\]]"
)


@dataclass(frozen=True)
class Policy:
    """A language model that can be trained and sampled from.

    Attributes:
        model: the transformers model; its own `state_dict` names the weights.
        tokenizer: with a chat template.
        stop_ids: sampling one of these ends a completion.
        banned_ids: never sampled: control tokens, placeholders, ids without a token.
        vocab_size: rows of the embedding, at least the tokenizer's size.
        max_positions: longest sequence the model takes, in tokens.
        path: where it was loaded from, or "" for a model made from scratch.
    """

    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    stop_ids: tuple[int, ...]
    banned_ids: tuple[int, ...] = field(repr=False)
    vocab_size: int
    max_positions: int
    path: str = ""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The tokens as text, control tokens shown: for people and graders, never to be tokenized again."""
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=False)
        assert isinstance(text, str)
        return text


def load_policy(config: ModelConfig) -> Policy:
    """The policy stored in a checkpoint directory, or on the hub.

    Raises:
        ModelError: a file is missing or damaged, tensors are missing, the tokenizer does not fit the
            embedding, nothing ends a completion, or the model does not use ordinary attention.
    """
    if config.path is None:
        raise ModelError(
            "A model to load needs a path; got none. Set model.path to a checkpoint directory or hub name."
        )
    name = config.path
    if Path(name).is_dir():
        _require_files(Path(name))
    elif _looks_like_a_path(name):
        raise ModelError(f"The checkpoint directory {name} does not exist. Check model.path.")
    with _quiet_transformers():
        model = _load_model(name, config.dtype)
        tokenizer = load_tokenizer(name)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    return make_policy(model.to(_device(config.device)).eval(), tokenizer, path=name)  # pyright: ignore[reportArgumentType]


def make_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, path: str = "") -> Policy:
    """The policy made of a model and its tokenizer; checks that they fit.

    Raises:
        ModelError: the tokenizer has ids past the embedding, no stop token is known, or the model has
            layers that are not ordinary attention.
    """
    _require_ordinary_attention(model, path)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding), type(embedding)
    vocab_size = embedding.weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise ModelError(
            f"Every token needs a row of the embedding; the tokenizer of {path or 'this model'} has ids up to "
            f"{largest}, the model has {vocab_size} rows. Use the tokenizer the model was trained with."
        )
    stop_ids = _stop_ids(model, tokenizer)
    if not stop_ids:
        raise ModelError(
            f"A completion needs a token that ends it; {path or 'this model'} names none. Set eos_token in "
            "tokenizer_config.json or eos_token_id in generation_config.json."
        )
    return Policy(
        model=model,
        tokenizer=tokenizer,
        stop_ids=stop_ids,
        banned_ids=_banned_ids(tokenizer, vocab_size, stop_ids),
        vocab_size=vocab_size,
        max_positions=_max_positions(model),
        path=path,
    )


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _require_files(directory: Path) -> None:
    """Each missing file is one error that says where such a file comes from."""
    cure = (
        "Copy the whole checkpoint: config.json, *.safetensors, tokenizer.json, tokenizer_config.json."
    )
    if not (directory / "config.json").is_file():
        raise ModelError(f"A checkpoint needs config.json; {directory} has none. {cure}")
    if not any(any(directory.glob(pattern)) for pattern in _WEIGHT_FILES):
        raise ModelError(f"A checkpoint needs weights (*.safetensors); {directory} has none. {cure}")
    if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"A checkpoint needs a tokenizer (tokenizer.json); {directory} has none. Save it beside the model "
            "with tokenizer.save_pretrained(DIRECTORY)."
        )


def _load_model(name: str, dtype: str) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=getattr(torch, dtype), output_loading_info=True, ignore_mismatched_sizes=True
        )
        model, info = loaded
    except SafetensorError as error:
        raise ModelError(
            f"The weights of {name} are damaged ({error}). Copy or download the checkpoint again."
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"transformers cannot load the model {name}: {_first_line(error)}. It must be "
            f"{'' if Path(name).exists() else 'an existing directory or a name on the hub, with '}"
            "a causal language model that AutoModelForCausalLM knows."
        ) from error
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise ModelError(
            f"Every tensor of the model must be in the checkpoint; {name} lacks {len(missing)}, first "
            f"{missing[0]}. Copy the checkpoint again, or correct config.json."
        )
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint directory, or of a name on the hub.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        raise ModelError(
            f"transformers cannot load the tokenizer of {name}: {_first_line(error)}. Copy tokenizer.json and "
            "tokenizer_config.json again."
        ) from error


def _require_ordinary_attention(model: PreTrainedModel, path: str) -> None:
    """Refuse layers whose cache is more than keys and values of every position.

    The attributes are optional in transformers' configs, hence `getattr`.
    """
    config = model.config.get_text_config()
    kinds: set[Any] = set(getattr(config, "layer_types", None) or [])
    kinds.discard("full_attention")
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True):
        if window < _max_positions(model):
            kinds.add("sliding_attention")
        else:
            kinds.discard("sliding_attention")
    if model._is_stateful:
        kinds.add("recurrent state")
    if kinds:
        raise ModelError(
            "k15 samples from decoders whose layers all use full attention; "
            f"{path or type(model).__name__} has {', '.join(sorted(kinds))}. Use another model, for instance of "
            "the Qwen3 or Llama class."
        )


def _max_positions(model: PreTrainedModel) -> int:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(positions) if positions else 1 << 17  # models without a table of positions have no limit


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """End tokens of generation config and tokenizer, and the one the chat template puts after an answer."""
    eos: list[Any] = [tokenizer.eos_token_id]
    if model.generation_config is not None:
        known: Any = model.generation_config.eos_token_id
        eos += known if isinstance(known, list) else [known]
    ids = {int(i) for i in eos if i is not None}
    if tokenizer.chat_template is not None:
        ids.update(_end_of_turn(tokenizer))
    return tuple(sorted(ids))


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The control token that follows an assistant's message in the chat template, if there is one."""
    marker = "0123456789"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": marker}]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # a template may refuse any conversation it does not like
        return set()
    tail = text.rpartition(marker)[2].lstrip()
    return {
        index
        for index, token in tokenizer.added_tokens_decoder.items()
        if tail.startswith(token.content)
    } & _control_ids(tokenizer)


def _control_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = tokenizer.added_tokens_decoder.items()
    return {
        index
        for index, token in added
        if (token.special or _PLACEHOLDER.fullmatch(token.content)) and token.content not in THINK_TAGS
    }


def _banned_ids(
    tokenizer: PreTrainedTokenizerBase, vocab_size: int, stop_ids: tuple[int, ...]
) -> tuple[int, ...]:
    without_token = set(range(vocab_size)) - set(tokenizer.get_vocab().values())
    return tuple(sorted((_control_ids(tokenizer) | without_token) - set(stop_ids)))


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "model.device is cuda, but torch finds no CUDA device. Set model.device to cpu or auto."
        )
    return name


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No bars and load reports: what matters in them is checked here and raised as an error."""
    verbosity, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
