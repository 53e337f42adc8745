"""Where the final answer of a reply stands.

The rule, in order:
1. Only what follows the last `</think>` counts. A thought that is opened and not closed has no answer.
2. The last `\\boxed{...}` or `\\fbox{...}` with balanced braces is the answer. Boxes that only commas,
   "and" or "or" separate from it belong to it: together they are a list. If the last box is never
   closed, there is no answer.
3. Without a box, the text after the last "#### ", "answer is" or "answer:", up to the end of its
   sentence or line.
4. There is no further fallback. "The last number" would pay an intermediate value, and the reader of
   a thought could not say which number the policy meant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ANSWER_CHARS = 1000
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"

# An escaped character is one token, so that \{ and \} are not taken for braces that group.
_BOX_TOKEN = re.compile(r"\\{1,2}(?:boxed|fbox)\s{0,8}\{|\\.|[{}]", re.DOTALL)
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;]|\\[,;:!() ]|\\q?quad)*(?:(?:\\text\s*\{\s*)?(?:and|or)\b(?:\s*\})?)?(?:[\s$,;]|\\[,;:!() ]|\\q?quad)*"
)
_STATEMENT = re.compile(r"####|\banswer\b\s{0,8}(?:\*\*)?\s{0,8}(?:is\b|:|=|：)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|\n")


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer as the reply writes it; "" with a reason where there is none.

    Attributes:
        text: the answer; several boxes are joined by commas.
        reason: why there is none.
        span: where it stands in the reply, as [start, end) in characters.
    """

    text: str
    reason: str = ""
    span: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class _Box:
    start: int  # of the backslash
    content_start: int
    content_end: int
    end: int  # after the closing brace


def extract_answer(reply: str, *, in_thought: bool = False) -> Extraction:
    """The final answer of a reply, by the rule above.

    Args:
        reply: the whole completion as text.
        in_thought: the prompt itself ended with `<think>`, so the reply begins inside a thought.
    """
    _, closing, tail = reply.rpartition(THINK_CLOSE)  # without a tag, tail is the whole reply
    if THINK_OPEN in tail or (in_thought and not closing):
        return Extraction("", f"no answer: the thought is never closed by {THINK_CLOSE}")
    offset = len(reply) - len(tail)
    extraction = _last_boxes(tail, offset) or _last_statement(tail, offset)
    if extraction is None:
        return Extraction("", "no answer: neither \\boxed{...} nor a sentence that states the answer")
    if len(extraction.text) > MAX_ANSWER_CHARS:
        return Extraction(
            "", f"no answer: the final answer is longer than {MAX_ANSWER_CHARS} characters"
        )
    return extraction


def _last_boxes(text: str, offset: int) -> Extraction | None:
    boxes, last_open = _outermost_boxes(text)
    if _ends_open(boxes, last_open):
        # `\boxed{42\}`: a stray backslash before the brace. Read once more without escapes, places kept.
        text = text.replace("\\}", " }").replace("\\{", " {")
        boxes, last_open = _outermost_boxes(text)
        if _ends_open(boxes, last_open):
            return Extraction("", "no answer: the last \\boxed{ is never closed")
    if not boxes:
        return None
    run = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box.end : run[-1].start]
        if len(between) > 40 or "\n\n" in between or not _BETWEEN_BOXES.fullmatch(between):
            break
        run.append(box)
    contents = list(
        dict.fromkeys(_unwrap(text[box.content_start : box.content_end]) for box in reversed(run))
    )
    if not any(contents):
        return Extraction("", "no answer: the last \\boxed{} is empty")
    span = _stripped(text, run[-1].content_start, run[0].content_end, offset)
    return Extraction(", ".join(contents), span=span)


def _outermost_boxes(text: str) -> tuple[list[_Box], int]:
    """Closed boxes that stand in no other closed box, and where the last unclosed one begins (-1: none).

    One pass with a stack, so ten thousand nested boxes cost no more than ten thousand characters.
    """
    boxes: list[_Box] = []
    stack: list[tuple[int, int] | None] = []  # (start, start of content) of a box; None for other braces
    for token in _BOX_TOKEN.finditer(text):
        if token[0] == "}":
            opened = stack.pop() if stack else None
            if opened is not None:
                start, content = opened
                while boxes and boxes[-1].start > start:
                    boxes.pop()
                boxes.append(_Box(start, content, token.start(), token.end()))
        elif token[0] == "{":
            stack.append(None)
        elif token[0][-1] == "{" and len(token[0]) > 2:
            stack.append((token.start(), token.end()))
    last_open = max((opened[0] for opened in stack if opened is not None), default=-1)
    return boxes, last_open


def _ends_open(boxes: list[_Box], last_open: int) -> bool:
    return last_open > (boxes[-1].end if boxes else -1)


def _unwrap(content: str) -> str:
    r"""`\boxed{\boxed{42}}` says 42; inside a longer answer an inner box is just a brace."""
    return re.sub(r"\\{1,2}(?:boxed|fbox)\s{0,8}\{", "{", content).strip()


def _last_statement(text: str, offset: int) -> Extraction | None:
    statements = list(_STATEMENT.finditer(text))
    if not statements:
        return None
    rest = text[statements[-1].end() :].lstrip(" \t\r\n*:")
    start = len(text) - len(rest)
    end = _SENTENCE_END.search(rest)
    answer = rest[: end.start()] if end else rest
    if not answer.strip():
        return Extraction("", "no answer: nothing follows the sentence that announces it")
    return Extraction(answer.strip(), span=_stripped(text, start, start + len(answer), offset))


def _stripped(text: str, start: int, end: int, offset: int) -> tuple[int, int]:
    """[start, end) without the white space at its ends, counted from the start of the reply."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return offset + start, offset + start + len(part.strip())
