"""Writing a policy as a checkpoint that plain `from_pretrained` and vLLM load."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from k15.models.load import Policy


def save_policy(policy: Policy, directory: Path) -> None:
    """Write weights (safetensors), config, tokenizer with chat template, and generation config.

    The stop ids of the policy become the generation config's end tokens, so that other servers stop where
    k15 does. The directory is made if need be; files of an earlier checkpoint in it are overwritten. Nothing
    is synced to disk here: `record.checkpoint` does that for run folders.
    """
    directory.mkdir(parents=True, exist_ok=True)
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        policy.model.save_pretrained(directory)
        policy.tokenizer.save_pretrained(directory)
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    _save_generation_config(policy, directory)
    _clean_tokenizer_config(directory / "tokenizer_config.json")


def _save_generation_config(policy: Policy, directory: Path) -> None:
    known = policy.model.generation_config
    stop: int | list[int] = list(policy.stop_ids)
    if len(stop) == 1:
        stop = stop[0]
    config = GenerationConfig() if known is None else deepcopy(known)
    if config.eos_token_id == stop:
        return  # `save_pretrained` of the model has written it
    config.eos_token_id = stop
    try:
        config.save_pretrained(directory)
    except ValueError:  # settings that transformers reads but refuses to write: keep the ids alone
        GenerationConfig(eos_token_id=stop, pad_token_id=config.pad_token_id).save_pretrained(directory)


def _clean_tokenizer_config(path: Path) -> None:
    """Use the class name that transformers 4 knows, too, and drop how this process loaded the tokenizer."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in ("is_local", "local_files_only"):
        settings.pop(name, None)
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
