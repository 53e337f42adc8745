"""Merging two checkpoints on disk (section 2.4), shard by shard: memory for one shard, not for two models."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from k15.errors import ModelError

Combine = Callable[..., Tensor]
"""One tensor of each parent, long first, gives the merged one, in float32 or better."""

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_SHAPING_KEYS = ("model_type", "num_attention_heads", "num_key_value_heads", "tie_word_embeddings")
_MOST_NAMES = 8


@dataclass(frozen=True)
class CheckpointTensors:
    """Where a checkpoint directory keeps which tensor; nothing is loaded.

    Attributes:
        directory: of the checkpoint.
        files: names of its safetensors files, in order.
        places: tensor -> file.
        shapes: tensor -> shape.
    """

    directory: Path
    files: tuple[str, ...]
    places: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, directory: Path) -> CheckpointTensors:
        """Read the headers of a checkpoint's safetensors files.

        Raises:
            ModelError: there are none, or one is missing or damaged.
        """
        files = _shard_names(directory)
        places: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name in files:
            try:
                with safe_open(directory / name, framework="pt") as shard:
                    for key in shard.keys():  # noqa: SIM118 (the handle is no mapping)
                        places[key], shapes[key] = name, tuple(shard.get_slice(key).get_shape())
            except (OSError, SafetensorError) as error:
                raise ModelError(
                    f"The weights {directory / name} cannot be read ({error}). Copy the checkpoint again."
                ) from error
        return cls(directory, files, places, shapes)

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU, in its own dtype."""
        with safe_open(self.directory / self.places[name], framework="pt") as shard:
            return shard.get_tensor(name)


def merge_checkpoints(parents: Sequence[Path], output: Path, combine: Combine) -> None:
    """Write the checkpoint whose every tensor is `combine` of the parents' tensors.

    Shards, dtypes, configuration and tokenizer are those of the first parent, the long-CoT model. Tensors of
    whole numbers cannot be mixed and must be equal. `output` appears when it is whole; what stood there is
    replaced.

    Args:
        parents: checkpoint directories: long, short, and with TIES the base of both.
        output: directory to write.
        combine: gets one tensor of each parent, in their order.

    Raises:
        ModelError: the parents differ in the names or shapes of their tensors, in their heads, or in what their
            tokens mean; the message lists the names.
    """
    models = [CheckpointTensors.of(path) for path in parents]
    for other in models[1:]:
        _require_same_tensors(models[0], other)
        _require_same_config(models[0].directory, other.directory)
        _require_same_tokens(models[0].directory, other.directory)
    partial = output.with_name(f".{output.name}.tmp-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for file in models[0].files:
            _write_shard(models, file, partial, combine)
        _copy_the_rest(models[0].directory, partial)
        if output.exists():
            shutil.rmtree(output)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_shard(
    models: Sequence[CheckpointTensors], file: str, directory: Path, combine: Combine
) -> None:
    """One file of the first parent, merged. The others may keep its tensors in other files."""
    with safe_open(models[0].directory / file, framework="pt") as shard:
        metadata: dict[str, str] | None = shard.metadata()
    names = [name for name, place in models[0].places.items() if place == file]
    merged = {name: _merge_tensor(name, models, combine) for name in names}
    save_file(merged, directory / file, metadata=metadata or {"format": "pt"})


def _merge_tensor(name: str, models: Sequence[CheckpointTensors], combine: Combine) -> Tensor:
    tensors = [model.read(name) for model in models]
    first = tensors[0]
    if first.is_floating_point() and all(t.is_floating_point() for t in tensors):
        return combine(*tensors).to(first.dtype).contiguous()
    if not all(torch.equal(first, tensor) for tensor in tensors[1:]):
        raise ModelError(
            f"a tensor of whole numbers cannot be averaged; {name} ({first.dtype}) differs between "
            f"{' and '.join(str(m.directory) for m in models)}. Merge checkpoints of one model."
        )
    return first


def _shard_names(directory: Path) -> tuple[str, ...]:
    if (directory / _SINGLE).is_file():
        return (_SINGLE,)
    try:
        index = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
        return tuple(sorted(set(index["weight_map"].values())))
    except FileNotFoundError:
        raise ModelError(
            f"Merging reads safetensors; {directory} has neither {_SINGLE} nor {_INDEX}. Save the model with "
            "save_pretrained, which writes them."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{directory / _INDEX} is damaged ({error!r}). Copy the checkpoint again."
        ) from None


def _require_same_tensors(first: CheckpointTensors, other: CheckpointTensors) -> None:
    problems = [
        f"{name} only in {first.directory}" for name in sorted(first.shapes.keys() - other.shapes)
    ]
    problems += [
        f"{name} only in {other.directory}" for name in sorted(other.shapes.keys() - first.shapes)
    ]
    problems += [
        f"{name}: {list(first.shapes[name])} and {list(other.shapes[name])}"
        for name in sorted(first.shapes.keys() & other.shapes.keys())
        if first.shapes[name] != other.shapes[name]
    ]
    if problems:
        shown = "; ".join(problems[:_MOST_NAMES])
        more = f"; and {len(problems) - _MOST_NAMES} more" if len(problems) > _MOST_NAMES else ""
        raise ModelError(
            f"models that are merged must have the same tensors; {len(problems)} differ between "
            f"{first.directory} and {other.directory}: {shown}{more}. Merge two checkpoints of one model."
        )


def _require_same_config(first: Path, other: Path) -> None:
    """Equal shapes can still mean other heads."""
    ours, theirs = _read_json(first / "config.json"), _read_json(other / "config.json")
    wrong = [
        f"{key} {ours.get(key)} and {theirs.get(key)}"
        for key in _SHAPING_KEYS
        if ours.get(key) != theirs.get(key)
    ]
    if wrong:
        raise ModelError(
            f"models that are merged must be of one shape; the config.json of {first} and {other} differ in "
            f"{', '.join(wrong)}. Merge two checkpoints of one model."
        )


def _require_same_tokens(first: Path, other: Path) -> None:
    """A row of the embedding must stand for the same token in both."""
    ours, theirs = (_vocabulary(path / "tokenizer.json") for path in (first, other))
    if ours is None or theirs is None or ours == theirs:
        return
    wrong = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
    raise ModelError(
        f"models that are merged must read the same tokens; the tokenizers of {first} and {other} differ in "
        f"{len(wrong)} tokens, such as {', '.join(map(repr, wrong[:3]))}. Train the short model from the same "
        "checkpoint as the long one."
    )


def _vocabulary(path: Path) -> dict[str, Any] | None:
    model = _read_json(path).get("model", {})
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    return vocabulary if isinstance(vocabulary, dict) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _copy_the_rest(source: Path, target: Path) -> None:
    """Configuration, tokenizer, index; no weights, nothing hidden, and not the card of another model."""
    for path in sorted(source.iterdir()):
        is_weights = path.suffix in (".safetensors", ".bin", ".pt", ".pth", ".gguf")
        is_own = is_weights or path.name == "README.md" or path.name.startswith(".")
        if path.is_file() and not is_own:
            shutil.copyfile(path, target / path.name)
