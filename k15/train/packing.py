"""From finished groups or demonstrations to packed rows: several sequences a row, no cross-talk.

A row holds whole sequences, prompt and completion; a boolean block-diagonal causal mask and
positions that restart keep them apart. A completion is never split over microbatches, because
Eq. 3 squares the log-ratio of the whole completion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One sequence to train on.

    Attributes:
        prompt_ids: tokens of the prompt; they never carry loss.
        completion_ids: tokens of the completion.
        loss_mask: for each completion token, whether it carries loss (segment masks, section 2.6.2).
        advantage: r - r_bar of Eq. 3; 0 where the loss has none.
        engine_logprobs: the engine's log-probability of each completion token, NaN where another policy
            version sampled it or nobody did; only to measure the gap between engine and trainer.
        group: number of the group, so that a group stays in one minibatch.
        sample_index: which of the group's completions it is.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    advantage: float = 0.0
    engine_logprobs: tuple[float, ...] = ()
    group: int = 0
    sample_index: int = 0

    def __post_init__(self) -> None:
        assert len(self.loss_mask) == len(self.completion_ids), (
            len(self.loss_mask),
            len(self.completion_ids),
        )
        assert self.prompt_ids, "a prompt needs at least one token, whose logits predict the completion"

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True)
class Microbatch:
    """Rows for one forward pass, and where in them the loss tokens are predicted.

    Attributes:
        token_ids: tokens of the rows, 0 in the padding.
        position_ids: position of each token within its own sequence.
        sequence_ids: number of each token's sequence within its row, -1 in the padding.
        predicted_at: for each loss token, the flat position (row * t + column) whose logits predict it.
        targets: the loss tokens themselves.
        completion: for each loss token, the number of its completion in this microbatch.
        offset: for each loss token, its index among its completion's loss tokens.
        advantages: one for each completion.
        engine_logprobs: for each loss token, the engine's log-probability in nats, or NaN.
    """

    token_ids: Int[Tensor, "rows t"]
    position_ids: Int[Tensor, "rows t"]
    sequence_ids: Int[Tensor, "rows t"]
    predicted_at: Int[Tensor, "m"]
    targets: Int[Tensor, "m"]
    completion: Int[Tensor, "m"]
    offset: Int[Tensor, "m"]
    advantages: Float[Tensor, "n"]
    engine_logprobs: Float[Tensor, "m"]

    @property
    def num_completions(self) -> int:
        return self.advantages.shape[0]

    @property
    def num_loss_tokens(self) -> int:
        return self.targets.shape[0]

    def attention_mask(self) -> Bool[Tensor, "rows 1 t t"]:
        """True where a token may look: at earlier tokens of its own sequence, and at itself."""
        same = self.sequence_ids[:, :, None] == self.sequence_ids[:, None, :]
        return (same & torch.ones_like(same).tril()).unsqueeze(1)

    def scatter(self, values: Float[Tensor, "m"]) -> tuple[Float[Tensor, "n c"], Bool[Tensor, "n c"]]:
        """Values of the loss tokens as a matrix with one row a completion, and the mask of its entries."""
        width = int(self.offset.max()) + 1 if self.num_loss_tokens else 1
        shape = (self.num_completions, width)
        index = (self.completion, self.offset)
        matrix = torch.zeros(shape, dtype=values.dtype, device=values.device).index_put(index, values)
        mask = torch.zeros(shape, dtype=torch.bool, device=values.device).index_put(
            index, torch.ones_like(self.targets, dtype=torch.bool)
        )
        return matrix, mask

    def to(self, device: torch.device) -> "Microbatch":
        """The same microbatch with its tensors on a device."""
        return Microbatch(**{name: tensor.to(device) for name, tensor in self.__dict__.items()})


@dataclass(frozen=True)
class Minibatch:
    """What one optimizer step sees: microbatches and the counts that normalise the whole step."""

    microbatches: tuple[Microbatch, ...]
    num_completions: int
    num_tokens: int


def pack_minibatch(examples: Sequence[Example], *, row_tokens: int, microbatch_tokens: int) -> Minibatch:
    """The examples of one optimizer step, packed first-fit by decreasing length.

    Args:
        examples: sequences; those without a loss token are left out.
        row_tokens: length of a row; a longer sequence gets a row as long as itself.
        microbatch_tokens: at most so many tokens (padding included) in one forward pass, but at least one row.
    """
    useful = [e for e in examples if any(e.loss_mask)]
    rows = _fill_rows(useful, row_tokens)
    microbatches, chunk, width = [], [], 0
    for row in rows:
        length = sum(len(e) for e in row)
        if chunk and max(width, length) * (len(chunk) + 1) > microbatch_tokens:
            microbatches.append(_tensors(chunk))
            chunk, width = [], 0
        chunk.append(row)
        width = max(width, length)
    if chunk:
        microbatches.append(_tensors(chunk))
    return Minibatch(tuple(microbatches), len(useful), sum(sum(e.loss_mask) for e in useful))


def split_minibatches(
    examples: Sequence[Example], count: int, generator: torch.Generator
) -> list[list[Example]]:
    """The examples dealt to `count` minibatches, whole groups in random order, sizes as equal as groups allow."""
    groups: dict[int, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    members = list(groups.values())
    order = torch.randperm(len(members), generator=generator).tolist()
    parts: list[list[Example]] = [[] for _ in range(count)]
    for turn, index in enumerate(order):
        parts[turn % count].extend(members[index])
    return [part for part in parts if part]


def _fill_rows(examples: Sequence[Example], row_tokens: int) -> list[list[Example]]:
    """First-fit decreasing, longest rows first; the order of equal lengths is the order given."""
    rows: list[list[Example]] = []
    free: list[int] = []
    for example in sorted(examples, key=len, reverse=True):
        size = len(example)
        place = next((i for i, room in enumerate(free) if room >= size), None)
        if place is None:
            rows.append([example])
            free.append(max(0, row_tokens - size))
        else:
            rows[place].append(example)
            free[place] -= size
    return rows


def _tensors(rows: Sequence[Sequence[Example]]) -> Microbatch:
    width = max(sum(len(e) for e in row) for row in rows)
    token_ids = torch.zeros((len(rows), width), dtype=torch.long)
    position_ids = torch.zeros_like(token_ids)
    sequence_ids = torch.full_like(token_ids, -1)
    predicted_at, targets, completion, offset, advantages, engine = [], [], [], [], [], []
    for row_index, row in enumerate(rows):
        start = 0
        for sequence_index, example in enumerate(row):
            end = start + len(example)
            token_ids[row_index, start:end] = torch.tensor(example.prompt_ids + example.completion_ids)
            position_ids[row_index, start:end] = torch.arange(len(example))
            sequence_ids[row_index, start:end] = sequence_index
            before_first = row_index * width + start + len(example.prompt_ids) - 1
            places = [i for i, carries in enumerate(example.loss_mask) if carries]
            predicted_at += [before_first + i for i in places]
            targets += [example.completion_ids[i] for i in places]
            completion += [len(advantages)] * len(places)
            offset += range(len(places))
            engine += [
                example.engine_logprobs[i] if example.engine_logprobs else math.nan for i in places
            ]
            advantages.append(example.advantage)
            start = end
    return Microbatch(
        token_ids,
        position_ids,
        sequence_ids,
        *(
            torch.tensor(column, dtype=torch.long)
            for column in (predicted_at, targets, completion, offset)
        ),
        advantages=torch.tensor(advantages, dtype=torch.float32),
        engine_logprobs=torch.tensor(engine, dtype=torch.float32),
    )
