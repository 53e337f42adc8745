"""How a benchmark is asked: its problems as prompts, how they are sampled, how often."""

from __future__ import annotations

from dataclasses import dataclass

from k15.config.eval import EvalConfig
from k15.eval.judge import Judge, RefusedGold
from k15.eval.problem import Benchmark, Problem, Sample
from k15.eval.sampling import Question, ask, room_for_completion, sampling_seed
from k15.eval.vote import input_questions
from k15.models.load import Policy
from k15.types import SamplingParams


@dataclass(frozen=True)
class Plan:
    """One benchmark, ready to be sampled."""

    benchmark: Benchmark
    questions: list[Question]
    refused: list[RefusedGold]
    sampling: SamplingParams
    num_samples: int
    suffix: str

    @property
    def name(self) -> str:
        return self.benchmark.name

    @property
    def problems(self) -> dict[str, Problem]:
        return {problem.problem_id: problem for problem in self.benchmark.problems}

    def choose(self, samples: list[Sample]) -> list[Sample]:
        """Those samples of a folder that this plan asks for."""
        names = self.problems.keys()
        return [
            s
            for s in samples
            if s.benchmark == self.name and s.problem in names and s.index < self.num_samples
        ]


def plan_benchmark(config: EvalConfig, benchmark: Benchmark, policy: Policy, judge: Judge) -> Plan:
    """The benchmark for this model; its golds are tried on themselves first.

    Raises:
        ConfigError: a prompt and its completion do not fit the model.
    """
    refused = judge.refused_golds(benchmark.problems)
    suffix = benchmark.suffix if config.suffix is None else config.suffix
    return _render(config, benchmark, policy, refused, num_samples=config.samples, suffix=suffix)


def plan_inputs(config: EvalConfig, plans: list[Plan], policy: Policy) -> dict[str, Plan]:
    """By the name of a benchmark: how the model is asked for inputs of its problems, if there is to be a vote."""
    asked = {plan.name: input_questions(plan.benchmark) for plan in plans} if config.vote_inputs else {}
    return {
        name: _render(config, b, policy, [], num_samples=config.vote_inputs, suffix=b.suffix)
        for name, b in asked.items()
        if b.problems
    }


def _render(
    config: EvalConfig,
    benchmark: Benchmark,
    policy: Policy,
    refused: list[RefusedGold],
    *,
    num_samples: int,
    suffix: str,
) -> Plan:
    questions = ask(benchmark, policy, suffix=suffix, system=config.system)
    sampling = SamplingParams(
        seed=sampling_seed(config.seed, benchmark.name),
        max_tokens=room_for_completion(questions, policy, config.max_tokens),
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        stop_ids=policy.stop_ids,
        banned_ids=policy.banned_ids,
    )
    return Plan(benchmark, questions, refused, sampling, num_samples, suffix)
