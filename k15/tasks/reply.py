"""The form of a completion: a thought between tags, then one answer line. Made and read here alone."""

from __future__ import annotations

from dataclasses import dataclass

OPEN = "<think>"
CLOSE = "</think>"
LABEL = "Answer:"
MAX_ANSWER_CHARS = 200


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer of a reply, or why there is none.

    Attributes:
        answer: the text after the last "Answer:", stripped; "" if there is none.
        reason: why there is no answer; "" if there is one.
        span: where it stands in the reply, as [start, end) in characters.
    """

    answer: str
    reason: str = ""
    span: tuple[int, int] | None = None


def format_completion(thought: str, answer: str) -> str:
    """The text of a completion. The end-of-text token is the caller's."""
    return f"{OPEN}\n{thought}\n{CLOSE}\n{LABEL} {answer}"


def thought_of(completion: str) -> str:
    """What stands between the tags; the whole text if the thought was never closed."""
    thought, _, _ = completion.rpartition(CLOSE) if CLOSE in completion else (completion, "", "")
    return thought.partition(OPEN)[2].strip() if OPEN in thought else thought.strip()


def extract_answer(reply: str) -> Extraction:
    """The last "Answer: X" after the last closing tag, where X is the rest of its line.

    Only white space may follow that line: a reply that goes on after its answer has not ended with one,
    so it has none. Words on the line itself belong to X. Never raises; linear in the reply's length.
    """
    _, tag, tail = reply.rpartition(CLOSE)
    if not tag:
        return Extraction("", f"the thought is not closed by {CLOSE}")
    _, label, rest = tail.rpartition(LABEL)
    if not label:
        return Extraction("", f'no "{LABEL}" after {CLOSE}')
    answer, _, trailing = rest.strip().partition("\n")
    if not answer:
        return Extraction("", f'nothing stands after "{LABEL}"')
    if trailing.strip():
        return Extraction("", "text follows the answer line")
    if len(answer) > MAX_ANSWER_CHARS:
        return Extraction("", f"the answer is longer than {MAX_ANSWER_CHARS} characters")
    start = len(reply) - len(rest.lstrip())
    return Extraction(answer.strip(), span=(start, start + len(answer.strip())))
