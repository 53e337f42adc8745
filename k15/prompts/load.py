"""The RL prompt set, from a file of real prompts or from generated families, rendered to token ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from k15.config.answers import rules_as_row
from k15.config.parts import PromptsConfig, TaskConfig
from k15.errors import ConfigError, DataError
from k15.prompts.render import control_tokens, render_prompt
from k15.prompts.rows import BadRowError, Row, read_row, read_rows
from k15.types import DEFAULT_RULES, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from k15.tasks import Split


@dataclass(frozen=True)
class PromptSet:
    """What RL draws from, and what it is evaluated on; no question is in both.

    Attributes:
        train: training prompts, in the order of the file or of generation.
        heldout: held-out prompts; taken out of the training file, they stand in the order of a hash.
        num_skipped: malformed rows that were left out (`skip_bad_rows`).
        skipped: how many of them broke which rule.
        num_duplicates: rows left out because their question stood in the same file already.
        fingerprint: digest of both lists, without the rendering.
    """

    train: tuple[Prompt, ...]
    heldout: tuple[Prompt, ...]
    num_skipped: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    num_duplicates: int = 0
    fingerprint: str = ""


def load_prompts(config: PromptsConfig, tokenizer: PreTrainedTokenizerBase) -> PromptSet:
    """The training and held-out prompts of a config.

    Held-out rows are those whose questions have the smallest hashes, so the choice does not depend on
    the order of the file, and hardly on rows that are added. A question that stands in the training
    file twice is kept once; one that also stands in `heldout_path` is not trained on.

    Raises:
        DataError: a file is missing or empty, a row is malformed, or no row is left to train on.
        ModelError: the model's chat template refuses the prompts.
        ConfigError: a family or level does not exist.
    """
    loader = _Loader(config, tokenizer)
    if config.path is None and config.heldout_path is not None:
        raise ConfigError(
            f"prompts.heldout_path belongs to prompts.path, and prompts.tasks is given; got {config.heldout_path}. "
            "Remove prompts.heldout_path: the families hold out problems of their own."
        )
    if config.path is None:
        train, heldout = loader.generate()
    else:
        rows = loader.read(config.path)
        if config.heldout_path is not None:
            heldout = loader.read(config.heldout_path)
            _require(heldout, f"to evaluate on; {config.heldout_path}", loader.skipped)
        else:
            heldout = _hold_out(rows, config.num_heldout, config.path)
        train = {question: prompt for question, prompt in rows.items() if question not in heldout}
    _require(train, f"to train on; {config.path or 'the generated families'}", loader.skipped)
    return PromptSet(
        tuple(train.values()),
        tuple(heldout.values()),
        loader.skipped.total(),
        dict(loader.skipped.most_common()),
        loader.num_duplicates,
        _fingerprint(train.values(), heldout.values()),
    )


class _Loader:
    """Makes prompts, and counts what it leaves out."""

    def __init__(self, config: PromptsConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._control_tokens = control_tokens(tokenizer)
        self.skipped: Counter[str] = Counter()
        self.num_duplicates = 0

    def read(self, path: Path) -> dict[str, Prompt]:
        """The prompts of a file, by the question as it stands there (`_question_key`)."""
        prompts: dict[str, Prompt] = {}
        lines: dict[str, int] = {}  # of each id
        for line, value in read_rows(path):
            try:
                row = read_row(value)
                if row.row_id in lines:
                    raise BadRowError(
                        "id", f"stands on line {lines[row.row_id]} too", row.row_id, "Make ids unique"
                    )
                question = _question_key(row.question)
                if question in prompts:
                    self.num_duplicates += 1
                    continue
                prompts[question] = self._prompt(row, path)
            except BadRowError as error:
                if not self._config.skip_bad_rows:
                    raise error.at(path, line) from None
                self.skipped[_counted_as(error)] += 1
            else:
                lines[prompts[question].prompt_id] = line
        return prompts

    def generate(self) -> tuple[dict[str, Prompt], dict[str, Prompt]]:
        """Problems of the families, as training and held-out prompts, by question."""
        train: dict[str, Prompt] = {}
        heldout: dict[str, Prompt] = {}
        for task in self._config.tasks:
            splits: tuple[tuple[Split, dict[str, Prompt]], ...] = (
                ("heldout", heldout),
                ("train", train),
            )
            for split, target in splits:
                for prompt in self._problems(task, split):
                    if prompt.question in train or prompt.question in heldout:
                        self.num_duplicates += 1
                    else:
                        target[prompt.question] = prompt
        return train, heldout

    def _prompt(self, row: Row, path: Path) -> Prompt:
        question = f"{row.question}\n{self._config.suffix}" if self._config.suffix else row.question
        for token in self._control_tokens:
            if token in row.question:
                cure = "Remove it: the model reads it as the end of a turn or of the text"
                raise BadRowError(
                    "question", f"holds the model's control token {token}", row.question, cure
                )
        prompt = Prompt(
            prompt_id=row.row_id or f"{_stem(path)}-{_digest(_question_key(row.question))[:12]}",
            question=question,
            answer=row.answer,
            verifier=row.verifier or self._config.verifier,
            family=row.family or _stem(path),
            difficulty=row.difficulty,
            system=row.system or self._config.system,
            rules=row.rules,
        )
        prompt = self._render(prompt)
        if len(prompt.token_ids) > self._config.max_prompt_tokens:
            rule = f"makes a prompt longer than {self._config.max_prompt_tokens} tokens (prompts.max_prompt_tokens)"
            value = f"{len(prompt.token_ids)} tokens: {row.question}"
            raise BadRowError("question", rule, value, "Shorten it, raise prompts.max_prompt_tokens")
        return prompt

    def _problems(self, task: TaskConfig, split: Split) -> list[Prompt]:
        from k15.tasks import get_family

        family = get_family(task.family)
        count = task.num_train if split == "train" else task.num_heldout
        problems = family.problems(self._config.seed, task.levels, count, split)
        prompts = [
            self._render(
                Prompt(
                    prompt_id=f"{task.family}-{problem.key}",
                    question=problem.question,
                    answer=problem.answer,
                    verifier=f"task:{task.family}",
                    family=task.family,
                    difficulty=float(problem.level),
                    system=self._config.system,
                )
            )
            for problem in problems
        ]
        longest = max(prompts, key=lambda prompt: len(prompt.token_ids))
        if len(longest.token_ids) > self._config.max_prompt_tokens:
            raise DataError(
                f"a prompt may have {self._config.max_prompt_tokens} tokens (prompts.max_prompt_tokens); got "
                f"{len(longest.token_ids)} for problem {longest.prompt_id}. Raise the limit or lower the level."
            )
        return prompts

    def _render(self, prompt: Prompt) -> Prompt:
        return replace(prompt, token_ids=render_prompt(self._tokenizer, prompt.question, prompt.system))


def _require(prompts: Mapping[str, Prompt], purpose_and_source: str, skipped: Counter[str]) -> None:
    if not prompts:
        reasons = "; ".join(f"{count} x {rule}" for rule, count in skipped.most_common(3))
        raise DataError(
            f"at least one prompt must be left {purpose_and_source} has none. "
            + (f"Skipped were {reasons}. Correct these rows." if reasons else "Give more prompts.")
        )


def _hold_out(prompts: Mapping[str, Prompt], num_heldout: int, path: Path) -> dict[str, Prompt]:
    if prompts and num_heldout >= len(prompts):
        raise DataError(
            f"some rows must be left to train on; {path} has {len(prompts)} usable rows, and prompts.num_heldout "
            f"is {num_heldout}. Lower prompts.num_heldout, or give prompts.heldout_path."
        )
    return {question: prompts[question] for question in sorted(prompts, key=_digest)[:num_heldout]}


def _counted_as(error: BadRowError) -> str:
    """The rule without what differs from row to row."""
    rule = (
        "stands on two lines" if error.field == "id" and "stands on line" in error.rule else error.rule
    )
    return f'"{error.field}" {rule}' if error.field else rule


def _question_key(question: str) -> str:
    return " ".join(question.split())


def _stem(path: Path) -> str:
    """gsm8k_train for gsm8k_train.jsonl.gz."""
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _fingerprint(train: Iterable[Prompt], heldout: Iterable[Prompt]) -> str:
    digest = blake2b(digest_size=16)
    for name, prompts in (("train", train), ("heldout", heldout)):
        for p in prompts:
            row = [name, p.prompt_id, p.question, p.answer, p.verifier, p.family, p.difficulty, p.system]
            row += [] if p.rules == DEFAULT_RULES else [rules_as_row(p.rules)]
            digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
