r"""Ways to write one answer, and near misses: what a grader must take for equal, and what it must not.

Both are made from the text of a gold answer, by rules that need no algebra, so that their truth does not
depend on any grader: `renderings` keep the value, `near_misses` change it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

GOLDS = (
    *(
        "7",
        "-3",
        "016",
        "72",
        "1234",
        "1000000",
        "2.5",
        "0.125",
        "-0.75",
        "3.14159",
        "50%",
        "12.5\\%",
        "0",
    ),
    *(
        r"\frac{1}{2}",
        r"-\frac{7}{3}",
        r"\frac{355}{113}",
        r"7\frac{3}{4}",
        r"2^{100}",
        r"10^{-6}",
        "10!",
    ),
    *(r"\sqrt{2}", r"3\sqrt{5}", r"\frac{\sqrt{3}}{2}", r"\pi", r"\frac{\pi}{6}", r"2\pi + 1", "e^{2}"),
    *("x+1", "x^{2}-4", "2x+3y", r"\frac{x+2}{7}", r"a^{2}+b^{2}", r"\sin x", r"\sqrt{x+1}", "3n^{2}-n"),
    *("(1, 2)", "(3, -1, 4)", r"(\frac{1}{2}, 5)", "[0, 1)", r"(-\infty, 3]", r"[2, 5] \cup [7, 9]"),
    *("1, 2, 3", "-2, 5", r"\sqrt{2}, 3", r"\{1, 2, 4\}", "x=2, y=3", "x = 5", "y = 2x+1"),
    *(
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        r"\text{Evelyn}",
        r"\text{even}",
        r"\text{(C)}",
        "3:2",
    ),
    *(r"5 \text{ cm}", r"45^\circ", r"\$12", r"x \ge 2", "2 < x", r"2 \pm \sqrt{3}"),
)
"""Golds of every type that the verifier knows."""

_INTEGER = re.compile(r"-?[0-9]+")
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]+")
_FRACTION = re.compile(r"(-?)\\frac\{(-?[0-9]+)\}\{([0-9]+)\}")
_SIGNED = re.compile(r"-?(?:[0-9.]+%?|\\frac\{\d+\}\{\d+\}|[0-9]*\\sqrt\{\d+\}|\\pi|[0-9]+!|e\^\{2\})")
_NUMBER = re.compile(r"(?<![\^_{.0-9])[0-9]+(?:\.[0-9]+)?(?![0-9.])")


def renderings(gold: str) -> Iterator[tuple[str, str]]:
    """(name of the way, the gold written that way), for each way that applies and changes the text."""
    for name, way in _WAYS.items():
        written = way(gold)
        if written is not None and written != gold:
            yield name, written


def near_misses(gold: str) -> Iterator[tuple[str, str]]:
    """(name of the change, the changed gold), each another value than the gold's, by construction."""
    seen = {gold}
    for name, change in _CHANGES.items():
        for changed in change(gold):
            if changed not in seen:
                seen.add(changed)
                yield name, changed


def _whole(
    pattern: re.Pattern[str], write: Callable[[re.Match[str]], str]
) -> Callable[[str], str | None]:
    def way(gold: str) -> str | None:
        found = pattern.fullmatch(gold)
        return write(found) if found else None

    return way


def _everywhere(pattern: str, replacement: str) -> Callable[[str], str | None]:
    return lambda gold: re.sub(pattern, replacement, gold)


def _thousands(separator: str) -> Callable[[str], str | None]:
    grouped = re.compile(r"-?[1-9][0-9]{3,}")
    return _whole(grouped, lambda m: f"{int(m[0]):,}".replace(",", separator))


def _is_mathematics(gold: str) -> bool:
    return r"\text{" not in gold and r"\$" not in gold and ":" not in gold


def _around(before: str, after: str) -> Callable[[str], str | None]:
    return lambda gold: f"{before}{gold}{after}"


def _reversed_set(gold: str) -> str | None:
    found = re.fullmatch(r"(\\\{)?\s*([^()\[\]=&]+,[^()\[\]=&]+?)\s*(\\\})?", gold)
    if found is None or "{" in found[2].replace(r"\sqrt{", ""):
        return None
    return (found[1] or "") + ", ".join(reversed(found[2].split(", "))) + (found[3] or "")


def _reversed_sum(gold: str) -> str | None:
    found = re.fullmatch(r"([^-+=,()<>\\]+)\+([^-+=,()<>\\]+)", gold)
    return f"{found[2].strip()} + {found[1].strip()}" if found else None


def _decimal_of(match: re.Match[str]) -> str:
    value = Fraction(int(match[2]), int(match[3]))
    is_short = 10**6 % value.denominator == 0
    return match[1] + (
        f"{float(value):.6f}".rstrip("0").rstrip(".") if is_short else match[0].removeprefix("-")
    )


_WAYS: dict[str, Callable[[str], str | None]] = {
    "dollars": _around("$", "$"),
    "two dollars": _around("$$", "$$"),
    "round delimiters": _around(r"\(", r"\)"),
    "square delimiters": _around(r"\[", r"\]"),
    "bold": _around("**", "**"),
    "full stop": _around("", "."),
    "white space": _around(" \n", "  "),
    "thin spaces": _around(r"\,", r"\;"),
    "style": _around(r"\displaystyle ", ""),
    "box in the box": _around(r"\boxed{", "}"),
    "announced": lambda gold: rf"\text{{The answer is }} {gold}" if _is_mathematics(gold) else None,
    "braces": lambda gold: f"{{{gold}}}",
    "dfrac": _everywhere(r"\\frac", r"\\dfrac"),
    "tfrac": _everywhere(r"\\frac", r"\\tfrac"),
    "slash": _whole(_FRACTION, lambda m: f"{m[1]}{m[2]}/{m[3]}"),
    "slash in brackets": _whole(_FRACTION, lambda m: f"{m[1]}({m[2]})/({m[3]})"),
    "expanded fraction": _whole(
        _FRACTION, lambda m: rf"{m[1]}\frac{{{int(m[2]) * 3}}}{{{int(m[3]) * 3}}}"
    ),
    "decimal": _whole(_FRACTION, _decimal_of),
    "left and right": _everywhere(
        r"(?<!\\left)(?<!\\)([(\[])(.*)(?<!\\)([)\]])$", r"\\left\1\2\\right\3"
    ),
    "no spaces after commas": _everywhere(
        r"(?<=[0-9a-z}]), (?=[-0-9a-z\\])(?![0-9]{3}(?![0-9]))", ",\\\\,"
    ),
    "thousands with commas": _thousands(","),
    "thousands with braces": _thousands("{,}"),
    "thousands with thin spaces": _thousands(r"\,"),
    "trailing zero": _whole(_DECIMAL, lambda m: f"{m[0]}00"),
    "point and zero": _whole(_INTEGER, lambda m: f"{m[0]}.0"),
    "leading zero": _whole(_INTEGER, lambda m: m[0].replace("-", "-0") if "-" in m[0] else f"0{m[0]}"),
    "fraction over one": _whole(_INTEGER, lambda m: rf"\frac{{{m[0]}}}{{1}}"),
    "fraction of a decimal": _whole(
        _DECIMAL, lambda m: "/".join(map(str, Fraction(m[0]).as_integer_ratio()))
    ),
    "unicode minus": _everywhere(r"(?<![a-z{^])-(?=[0-9\\a-z])", "−"),
    "unicode root and pi": lambda gold: gold.replace(r"\pi", "π").replace(r"\sqrt{2}", "√{2}"),
    "bare powers": _everywhere(r"\^\{([0-9])\}", r"^\1"),
    "named": lambda gold: (
        f"t = {gold}" if re.fullmatch(r"-?[0-9.]+|-?\\frac\{\d+\}\{\d+\}", gold) else None
    ),
    "unit": lambda gold: rf"{gold} \text{{ units}}" if re.fullmatch(r"-?[0-9.]+", gold) else None,
    "other order": _reversed_set,
    "other order of a sum": _reversed_sum,
    "other kind of matrix": _everywhere("pmatrix", "bmatrix"),
    "percent": _everywhere(r"(?<!\\)%", r"\\%"),
    "other case": lambda gold: gold.replace("Evelyn", "evelyn").replace("even", "Even"),
    "no text": _everywhere(r"^\\text\{([^{}]*)\}$", r"\1"),
    "other text": _everywhere(r"\\text\{", r"\\textbf{"),
}


def _numbers(change: Callable[[str], str | None]) -> Callable[[str], Iterator[str]]:
    """Each number of the gold changed by itself. Numbers in words, and in a box of text, are left alone."""

    def changes(gold: str) -> Iterator[str]:
        for found in _NUMBER.finditer(gold):
            changed = change(found[0])
            if changed is not None and Fraction(changed) != Fraction(found[0]):
                yield gold[: found.start()] + changed + gold[found.end() :]

    return changes


def _step(amount: int) -> Callable[[str], str | None]:
    def change(number: str) -> str | None:
        whole, point, part = number.partition(".")
        changed = str(int(whole + part) + amount).zfill(len(whole + part))
        if changed.startswith("-"):
            return None
        return changed[: len(changed) - len(part)] + point + changed[len(changed) - len(part) :]

    return change


def _swapped(number: str) -> str | None:
    return number[:-2] + number[-1] + number[-2] if re.fullmatch(r"[0-9]*[0-9]{2}", number) else None


def _shifted(number: str) -> str | None:
    return f"{number}0" if "." not in number else None


def _signed(gold: str) -> Iterator[str]:
    if _SIGNED.fullmatch(gold) and gold != "0":
        yield gold[1:] if gold.startswith("-") else f"-{gold}"


def _brackets(gold: str) -> Iterator[str]:
    for old, new in (("(", "["), ("[", "("), (")", "]"), ("]", ")")):
        at = gold.find(old) if old in "([" else gold.rfind(old)
        if at in (0, len(gold) - 1) and r"\text" not in gold:
            yield gold[:at] + new + gold[at + 1 :]


def _elements(gold: str) -> Iterator[str]:
    """One element more or less, and other places where places count."""
    found = re.fullmatch(r"(\(|\[|\\\{|)([^()\[\]{}=]+(?:, [^()\[\]{}=]+)+)(\)|\]|\\\}|)", gold)
    if found is None or r"\infty" in gold:
        return
    items = found[2].split(", ")
    yield found[1] + ", ".join((*items, "997")) + found[3]
    if len(items) > 2 or found[1] == "":
        yield found[1] + ", ".join(items[:-1]) + found[3]
    if found[1] == "(":
        yield found[1] + ", ".join(reversed(items)) + found[3]


def _terms(gold: str) -> Iterator[str]:
    """A term dropped, its sign changed, or one added, in a sum without brackets."""
    found = re.fullmatch(r"((?:y = )?[^-+=,()<>]+)([-+])([^-+=,()<>{}]+)", gold)
    if found is not None:
        yield found[1]
        yield found[1] + {"+": "-", "-": "+"}[found[2]] + found[3]
        yield f"{gold} + 1"
        yield f"2({gold})" if "=" not in gold else f"{gold}x"


def _words(gold: str) -> Iterator[str]:
    if gold.startswith(r"\text{") and "(" not in gold:
        yield gold.replace(r"\text{", r"\text{not ")
        yield gold.replace("}", "s}")
        yield gold[:-1] + " or odd}"
    if gold == r"\text{(C)}":
        yield from (r"\text{(B)}", "B", r"\text{(B) or (C)}", "A, B, C, D")


def _hedges(gold: str) -> Iterator[str]:
    if _is_mathematics(gold) and not re.search(r"[,=<]|\\ge|\\pm|begin|\\cup", gold):
        yield from (
            f"{gold} or 997",
            rf"{gold} \text{{ or }} 997",
            f"997, {gold}",
            f"{gold} = 997",
            f"997 = {gold}",
        )
        yield rf"{gold} \text{{ is wrong, it is }} 997"


_CHANGES: dict[str, Callable[[str], Iterator[str]]] = {
    "last digit up": _numbers(_step(1)),
    "last digit down": _numbers(_step(-1)),
    "digits swapped": _numbers(_swapped),
    "times ten": _numbers(_shifted),
    "times a hundred": _numbers(lambda number: f"{number}00" if "." not in number else None),
    "a digit more": _numbers(lambda number: f"1{number}"),
    "a tiny bit more": _numbers(
        lambda number: f"{number}0000001" if "." in number else f"{number}.0000001"
    ),
    "other sign": _signed,
    "other brackets": _brackets,
    "other elements": _elements,
    "other terms": _terms,
    "other words": _words,
    "hedges": _hedges,
}
