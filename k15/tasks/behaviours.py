"""Markers of the four behaviours that a long-CoT demonstration must show (section 2.2).

Planning: steps laid out before they are taken. Evaluation: a verdict on an intermediate step.
Reflection: going back over what was written. Exploration: an alternative after the first way.
Words are what can be counted; they are signs of a behaviour, not proof of it.
"""

from __future__ import annotations

import re
from types import MappingProxyType

PLANNING = "planning"
EVALUATION = "evaluation"
REFLECTION = "reflection"
EXPLORATION = "exploration"
BEHAVIOURS = frozenset({PLANNING, EVALUATION, REFLECTION, EXPLORATION})

_MARKERS = MappingProxyType(
    {
        PLANNING: r"\bplan\b|\bfirst,? (?:i|we|let)\b|\blet(?:'s| us) start by\b",
        EVALUATION: r"\boff by \d|, (?:yes|no)\b|\bis (?:wrong|right|correct|not)\b|\b(?:that|this|which) works\b"
        r"|\btoo (?:big|small|high|low)\b",
        REFLECTION: r"\bwait\b|\blet me (?:double-)?check\b|\bdouble-check\b|\bon second thought\b"
        r"|\breconsider\b|\bhmm\b",
        EXPLORATION: r"\btry again\b|\btry another\b|\balternatively\b|\banother (?:way|approach)\b|\bor maybe\b"
        r"|\btry\b[\s\S]*?\btry\b",  # one trial is no search, two are
    }
)
_PATTERNS = MappingProxyType({name: re.compile(text, re.IGNORECASE) for name, text in _MARKERS.items()})


def behaviours(text: str) -> set[str]:
    """Which of `BEHAVIOURS` the text shows by at least one marker."""
    return {name for name, pattern in _PATTERNS.items() if pattern.search(text)}
