"""A question as the token ids that the policy is asked with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from k15.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, question: str, system: str = ""
) -> tuple[int, ...]:
    """The prompt as token ids, by the model's own chat template, ready for the policy to answer.

    A tokenizer without a chat template belongs to a base model. It gets plain text: the system message
    and the question, each followed by an empty line, with the special tokens that the tokenizer itself
    puts at the start (and none that it puts at the end).

    Raises:
        ModelError: the chat template refuses a plain question, or a system message.
    """
    if tokenizer.chat_template is None:
        return _plain(tokenizer, question, system)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    try:
        token_ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        what = "a system message and a question" if system else "a question"
        raise ModelError(
            f"the model's chat template must accept {what}; it says: {error}. "
            + ('Set prompts.system "", or use' if system else "Use")
            + " a tokenizer with another template."
        ) from None
    return _as_ids(token_ids)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts that the tokenizer reads as control tokens. Written into a question, one of them would end
    the user's turn."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | set(tokenizer.all_special_tokens))


def _plain(tokenizer: PreTrainedTokenizerBase, question: str, system: str) -> tuple[int, ...]:
    text = "".join(f"{part}\n\n" for part in (system, question) if part)
    bare = _as_ids(tokenizer(text, add_special_tokens=False)["input_ids"])
    dressed = _as_ids(tokenizer(text)["input_ids"])
    # An end-of-text token after the prompt would say that there is nothing more to write.
    start = next((i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare), 0)
    return dressed[:start] + bare


def _as_ids(token_ids: object) -> tuple[int, ...]:
    assert isinstance(token_ids, list), type(token_ids)
    assert all(isinstance(i, int) for i in token_ids), token_ids
    return tuple(token_ids)
