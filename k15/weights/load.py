"""Reading a checkpoint's tensors into a model that is already there."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from k15.errors import ModelError
from k15.weights.fingerprint import named_weights


def load_tensors(model: nn.Module, directory: Path) -> None:
    """Copy the tensors of a directory's safetensors files into the model, in place.

    Raises:
        ModelError: a tensor is missing, unknown, or has another shape.
    """
    tensors = {
        k: v for path in sorted(directory.glob("*.safetensors")) for k, v in load_file(path).items()
    }
    own = named_weights(model)
    wrong = sorted(own.keys() ^ tensors.keys()) + [
        name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape
    ]
    if wrong:
        raise ModelError(
            f"the tensors of {directory} must be the model's own; {len(wrong)} differ by name or shape: "
            f"{', '.join(wrong[:5])}. Load a checkpoint of the same model."
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
