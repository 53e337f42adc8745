"""Every family: deterministic, disjoint, unique, exact, and honest about how much there is."""

from __future__ import annotations

import itertools
import operator
import random
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k15.errors import ConfigError, DataError
from k15.tasks import FAMILIES, FLAWLESS, DemonstrationStyle, Family, Problem, get_family
from k15.tasks.reply import extract_answer, format_completion, thought_of
from k15.types import Outcome

NAMES = sorted(FAMILIES)
CASES = [(name, level) for name in NAMES for level in FAMILIES[name].levels]


def say(answer: object) -> str:
    return f"<think>\nhm\n</think>\nAnswer: {answer}"


# Independent solvers: they read the question with their own eyes and share no code with the families.


def ints(text: str) -> list[int]:
    return [int(n) for n in re.findall("[0-9]+", text)]


def brute_trial(question: str) -> set[int]:
    b, a, c = ints(question)
    return {k for k in range(10) if str(b + k * a).endswith(str(c))}


def brute_collatz(question: str) -> int:
    start, constant, target = ints(question)
    steps, number = 0, start
    while steps == 0 or number != target:
        number = number / 2 if number % 2 == 0 else (number + constant) / 2
        assert number == int(number)
        steps, number = steps + 1, int(number)
        assert steps <= 100, f"never arrives: {question}"
    return steps


def brute_countdown(numbers: list[Fraction]) -> set[Fraction]:
    """Every value that uses each number once; fractions and negative values allowed on the way."""
    if len(numbers) == 1:
        return set(numbers)
    values: set[Fraction] = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [n for place, n in enumerate(numbers) if place not in (i, j)]
        x, y = numbers[i], numbers[j]
        made = {x + y, x - y, x * y} | ({x / y} if y else set())
        for value in made:
            values |= brute_countdown([*rest, value])
    return values


@pytest.mark.parametrize(("name", "level"), CASES)
class TestEveryFamily:
    def test_same_arguments_give_the_same_problem_in_a_new_instance(self, name: str, level: int) -> None:
        family, fresh = get_family(name), type(get_family(name))()
        for split in ("train", "heldout"):
            mine = [family.problem(5, level, i, split) for i in range(20)]
            assert mine == [fresh.problem(5, level, i, split) for i in reversed(range(20))][::-1]
        assert family.problem(5, level, 0, "train") != family.problem(6, level, 0, "train")

    def test_all_problems_are_distinct_and_no_core_is_in_both_splits(
        self, name: str, level: int
    ) -> None:
        family = get_family(name)
        specs = list(family.specs(level))
        assert (
            len(set(specs)) == len(specs) == family.size(level, "train") + family.size(level, "heldout")
        )
        train = {family.core(s) for s in family._pool(level, "train")}
        heldout = {family.core(s) for s in family._pool(level, "heldout")}
        assert train
        assert heldout
        assert not train & heldout
        assert 0.12 < family.size(level, "heldout") / len(specs) < 0.4

    def test_asking_for_too_many_says_how_many_there_are(self, name: str, level: int) -> None:
        family = get_family(name)
        most = family.size(level, "heldout")
        everything = family.problems(0, (level,), most, "heldout")
        assert len({p.key for p in everything}) == len({p.question for p in everything}) == most
        with pytest.raises(ConfigError, match=f"level {level}, has {most} distinct heldout problems"):
            family.problems(0, (level,), most + 1, "heldout")

    def test_the_reference_answer_and_both_solutions_are_right(self, name: str, level: int) -> None:
        family, rng = get_family(name), random.Random(0)
        for problem in family.problems(1, (level,), 60, "train"):
            assert problem.level == level
            for reply in (say(problem.answer), family.solve_briefly(problem)):
                verdict = family.verify(problem.question, problem.answer, reply)
                assert verdict.outcome is Outcome.RIGHT, (problem, reply, verdict)
            if name != "countdown":  # where even an honest search may run out of attempts
                reply = family.demonstrate(problem, rng, style=FLAWLESS)
                assert family.verify(problem.question, problem.answer, reply).correct == 1.0, reply

    def test_the_terse_solution_is_shorter_than_any_demonstration_that_succeeds(
        self, name: str, level: int
    ) -> None:
        family, rng = get_family(name), random.Random(1)
        for problem in family.problems(2, (level,), 40, "train"):
            long = family.demonstrate(problem, rng, style=FLAWLESS)
            assert len(family.solve_briefly(problem).split()) < len(long.split())

    def test_demonstrations_follow_their_rng(self, name: str, level: int) -> None:
        family = get_family(name)
        problem = family.problem(0, level, 0, "train")
        texts = [family.demonstrate(problem, random.Random(seed)) for seed in range(30)]
        assert texts == [family.demonstrate(problem, random.Random(seed)) for seed in range(30)]
        assert len(set(texts)) > 2

    def test_every_number_is_at_most_two_digits_and_stands_after_a_space_or_a_parenthesis(
        self, name: str, level: int
    ) -> None:
        family, rng = get_family(name), random.Random(2)
        for problem in family.problems(3, (level,), 40, "train"):
            for text in (
                problem.question,
                family.demonstrate(problem, rng),
                family.solve_briefly(problem),
            ):
                assert all(len(n) <= 2 for n in re.findall("[0-9]+", text)), text
                assert not re.search(r"(?<![ (0-9])[0-9]", text), text


def test_levels_take_turns_and_a_shorter_list_is_a_prefix() -> None:
    family = get_family("trial")
    many = family.problems(4, (1, 3), 50, "train")
    assert [p.level for p in many[:4]] == [1, 3, 1, 3]
    assert family.problems(4, (1, 3), 21, "train") == many[:21]
    assert len({p.key for p in family.problems(4, (1, 2, 3), 6000, "train")}) == 6000


def test_unknown_names_levels_and_splits_are_refused() -> None:
    with pytest.raises(ConfigError, match="collatz, countdown, trial"):
        get_family("chess")
    family = get_family("trial")
    with pytest.raises(ConfigError, match=r"levels \(1, 2, 3\); got 4"):
        family.problem(0, 4, 0, "train")
    with pytest.raises(ConfigError, match="each level once"):
        family.problems(0, (1, 1), 4, "train")
    with pytest.raises(ConfigError, match="split must be"):
        family.problem(0, 1, 0, "test")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="number 0 was asked for"):
        family.problem(0, 1, -1, "train")


class TestVerifiersAgainstBruteForce:
    def test_trial_accepts_every_digit_that_fits_and_no_other(self) -> None:
        family = get_family("trial")
        several = 0
        for problem in family.problems(0, family.levels, 600, "heldout"):
            fitting = brute_trial(problem.question)
            several += len(fitting) > 1
            judged = {
                k
                for k in range(30)
                if family.verify(problem.question, problem.answer, say(k)).correct == 1.0
            }
            assert judged == fitting, problem
        assert several > 50

    def test_trial_levels_are_the_trials_that_honest_search_needs(self) -> None:
        family = get_family("trial")
        needed = {1: range(1, 3), 2: range(3, 6), 3: range(6, 10)}
        for problem in family.problems(0, family.levels, 300, "train"):
            first = min(k for k in brute_trial(problem.question) if k)
            assert first in needed[problem.level]
            thought = family.demonstrate(problem, random.Random(0), style=FLAWLESS)
            assert thought.count("try") == first

    def test_collatz_accepts_the_counted_steps_and_no_other(self) -> None:
        family = get_family("collatz")
        for problem in family.problems(0, family.levels, 400, "heldout"):
            steps = brute_collatz(problem.question)
            assert int(problem.answer) == steps
            judged = {
                n
                for n in range(110)
                if family.verify(problem.question, problem.answer, say(n)).correct == 1.0
            }
            assert judged == {steps}, problem

    def test_countdown_answers_have_the_targets_value_by_python_arithmetic(self) -> None:
        family = get_family("countdown")
        for problem in family.problems(0, family.levels, 300, "heldout"):
            target, *numbers = ints(problem.question)
            exact = re.sub("([0-9]+)", r"F(\1)", problem.answer)
            assert (
                eval(exact, {"__builtins__": {}, "F": Fraction}) == target
            )  # our own text, not a model's
            assert sorted(ints(problem.answer)) == sorted(numbers)

    def test_countdown_problems_are_reachable_and_level_one_needs_no_product(self) -> None:
        family = get_family("countdown")
        for problem in family.problems(1, family.levels, 60, "train"):
            target, *numbers = ints(problem.question)
            assert target in brute_countdown([Fraction(n) for n in numbers])
            signs = itertools.product((operator.add, operator.sub), repeat=2)
            plain = problem.level != 3 and any(
                second(first(x, y), z) == target or first(x, second(y, z)) == target
                for first, second in signs
                for x, y, z in itertools.permutations(numbers)
            )
            assert problem.level != 1 or plain
            assert problem.level != 2 or not plain or _needs_a_zero_or_negative(numbers, target)

    @given(st.integers(0, 899), st.data())
    @settings(max_examples=150, deadline=None)
    def test_countdown_judges_any_arrangement_as_fractions_do(
        self, index: int, data: st.DataObject
    ) -> None:
        family = get_family("countdown")
        problem = family.problem(0, 2, index, "train")
        target, *numbers = ints(problem.question)
        x, y, z = data.draw(st.permutations(numbers))
        one, two = data.draw(st.sampled_from("+-*/")), data.draw(st.sampled_from("+-*/"))
        left = data.draw(st.booleans())
        text = f"({x} {one} {y}) {two} {z}" if left else f"{x}{one}({y}{two}{z})"
        inner = apply(one, x, y) if left else apply(two, y, z)
        value = None if inner is None else apply(two, inner, z) if left else apply(one, x, inner)
        verdict = family.verify(problem.question, problem.answer, say(text))
        assert (verdict.outcome is Outcome.RIGHT) == (value == target), (text, value, verdict)


def _needs_a_zero_or_negative(numbers: list[int], target: int) -> bool:
    """Worked solutions stay between 1 and 99, so a sum that dips below may still count as level 2."""
    return not any(
        partial >= 1 and ((partial + z == target) or (partial - z == target) or (z - partial == target))
        for x, y, z in itertools.permutations(numbers)
        for partial in (x + y, x - y)
    )


def apply(sign: str, x: Fraction | int, y: Fraction | int) -> Fraction | None:
    if sign == "/":
        return Fraction(x) / Fraction(y) if y else None
    return {"+": operator.add, "-": operator.sub, "*": operator.mul}[sign](Fraction(x), Fraction(y))


class TestReplies:
    PROBLEM = Problem("Find a digit k so that 47 + k * 23 ends in 6.", "3", 2, "trial:47:23:6")

    @pytest.mark.parametrize(
        ("reply", "outcome"),
        [
            ("<think>\nx\n</think>\nAnswer: 3", Outcome.RIGHT),
            ("x</think>Answer:3  \n\n", Outcome.RIGHT),
            ("</think>Answer: 4\nAnswer: 3", Outcome.RIGHT),  # the last one counts
            ("</think>Answer: 3\nAnswer: 4", Outcome.WRONG),
            ("</think>Answer: 4</think>\nAnswer: 3", Outcome.RIGHT),  # after the last closing tag
            ("</think>Answer: 3</think>", Outcome.NO_ANSWER),
            ("<think>\nAnswer: 3", Outcome.NO_ANSWER),
            ("Answer: 3", Outcome.NO_ANSWER),
            ("</think>\n3", Outcome.NO_ANSWER),
            ("</think>\nAnswer:", Outcome.NO_ANSWER),
            ("</think>\nAnswer: 3\nand so on", Outcome.NO_ANSWER),  # trailing text
            ("</think>\nAnswer: 3 and so on", Outcome.WRONG),
            ("</think>\nAnswer: 13", Outcome.WRONG),
            ("</think>\nAnswer: -7", Outcome.WRONG),
            ("</think>\nAnswer: 3.0", Outcome.WRONG),
            ("</think>\nAnswer: ٣", Outcome.WRONG),  # an Arabic three
            ("</think>\nAnswer: ³", Outcome.WRONG),
            ("</think>\nAnswer: " + "3" * 150, Outcome.WRONG),
            ("</think>\nAnswer: " + "3" * 5000, Outcome.NO_ANSWER),
            ("", Outcome.NO_ANSWER),
        ],
    )
    def test_what_counts_as_an_answer(self, reply: str, outcome: Outcome) -> None:
        verdict = get_family("trial").verify(self.PROBLEM.question, self.PROBLEM.answer, reply)
        assert verdict.outcome is outcome, verdict
        assert (outcome is Outcome.RIGHT) == (verdict.correct == 1.0)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_foreign_question_is_our_fault_and_cannot_be_solved(self, name: str) -> None:
        family = get_family(name)
        others = [
            get_family(other).problem(0, 1, 0, "train").question for other in NAMES if other != name
        ]
        for question in [
            *others,
            "",
            "Start at 4. Halve an even number; add 82 to an odd one, then halve. How many",
        ]:
            assert family.verify(question, "1", say(1)).outcome is Outcome.FAULT
            with pytest.raises(DataError, match="its own questions only"):
                family.solve_briefly(Problem(question, "1", 1, "x"))
            with pytest.raises(DataError, match="its own questions only"):
                family.demonstrate(Problem(question, "1", 1, "x"), random.Random(0))

    @pytest.mark.parametrize("text", ["Start at 7. ", "Start at 0. ", "Start at 9. "])
    def test_a_walk_that_never_arrives_is_our_fault_not_an_endless_loop(self, text: str) -> None:
        question = (
            text + "Halve an even number; add 83 to an odd one, then halve. How many steps to reach 0?"
        )
        assert get_family("collatz").verify(question, "1", say(1)).outcome is Outcome.FAULT

    @pytest.mark.parametrize(
        "text",
        [
            "9 9 + 1",
            "2 ** 6",
            "(" * 5000,
            "1" * 199,
            "__import__('os')",
            "1 / (1 - 1)",
            "-4 + 7",
            "4 + 7 +",
            "4 7",
            "(4 + 7",
            "4 + 7)",
            "4 // 7",
            "４ + 7",
        ],
    )
    def test_countdown_refuses_what_is_not_an_expression(self, text: str) -> None:
        family = get_family("countdown")
        problem = family.problem(0, 1, 0, "train")
        verdict = family.verify(problem.question, problem.answer, say(text))
        assert verdict.outcome in (Outcome.WRONG, Outcome.NO_ANSWER)

    def test_countdown_wants_each_number_exactly_once(self) -> None:
        family = get_family("countdown")
        question = "Make 6 from 2, 3 and 6. Use each number once, with + - * /."
        judge = {
            t: family.verify(question, "", say(t))
            for t in ("6", "2 * 3", "(2 * 3) * (6 / 6)", "6 / (3 - 2)")
        }
        assert judge["6"].reason == judge["2 * 3"].reason == "it does not use each number exactly once"
        assert judge["(2 * 3) * (6 / 6)"].outcome is Outcome.WRONG
        assert judge["6 / (3 - 2)"].outcome is Outcome.RIGHT

    @given(st.text(max_size=300), st.sampled_from(NAMES))
    @settings(max_examples=200, deadline=None)
    def test_hostile_text_never_raises(self, text: str, name: str) -> None:
        family = get_family(name)
        problem = family.problem(0, 1, 0, "train")
        for reply in (text, say(text), f"{text}</think>\nAnswer: {text}"):
            outcome = family.verify(problem.question, problem.answer, reply).outcome
            assert outcome in (Outcome.RIGHT, Outcome.WRONG, Outcome.NO_ANSWER)
        family.verify(text, text, say(problem.answer))

    @given(st.text("0123456789+-*/() \n\tAnswer:</think>", max_size=120))
    @settings(max_examples=300, deadline=None)
    def test_hostile_arithmetic_never_raises(self, text: str) -> None:
        for name in NAMES:
            problem = get_family(name).problem(0, 1, 0, "train")
            get_family(name).verify(problem.question, problem.answer, say(text))

    def test_a_completion_is_read_as_it_was_made(self) -> None:
        text = format_completion("one\ntwo", "7")
        assert text == "<think>\none\ntwo\n</think>\nAnswer: 7"
        assert thought_of(text) == "one\ntwo"
        assert extract_answer(text).answer == "7"
        assert thought_of("<think>\nunfinished") == "unfinished"


def test_collatz_lengths_are_heavy_tailed_and_grow_with_the_level() -> None:
    family: Family = get_family("collatz")
    means, everything = [], []
    for level in family.levels:
        steps = [int(p.answer) for p in family.problems(0, (level,), 300, "train")]
        means.append(sum(steps) / len(steps))
        everything += steps
    everything.sort()
    assert means[0] < means[1] < means[2]
    median, late = everything[len(everything) // 2], everything[int(0.99 * len(everything))]
    assert late > 5 * median
    assert everything[-1] <= 82


@pytest.mark.parametrize("field", ["give_up", "slip", "wordy", "notice"])
def test_a_habit_is_a_probability(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"{field} is a probability.*got 1.5"):
        DemonstrationStyle(**{field: 1.5})
    with pytest.raises(ConfigError, match=field):
        DemonstrationStyle(**{field: float("nan")})
