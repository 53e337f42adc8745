"""How honest a demonstration is: how often it gives up, slips, or double-checks in many words."""

from __future__ import annotations

from dataclasses import dataclass

from k15.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DemonstrationStyle:
    """Probabilities of the failures and habits in a long demonstration.

    They leave reinforcement learning something to discover: do not give up, do not slip, do not
    double-check in many words.

    Attributes:
        give_up: per failed trial or step, stop and guess.
        slip: per trial or step, write a wrong number. Nobody corrects it unless `notice` says so.
        wordy: per demonstration, double-check everything in words. It costs about twice the tokens
            and finds no error: the check repeats the number that was written.
        notice: per slip, see it at once and take it back. Only families of long walks use it.
    """

    give_up: float = 0.15
    slip: float = 0.02
    wordy: float = 0.5
    notice: float = 0.0

    def __post_init__(self) -> None:
        named = {"give_up": self.give_up, "slip": self.slip, "wordy": self.wordy, "notice": self.notice}
        for name, value in named.items():
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} is a probability and must lie in [0, 1]; got {value}")


FLAWLESS = DemonstrationStyle(give_up=0.0, slip=0.0, wordy=0.0, notice=0.0)
"""Never gives up, slips or wastes words (Countdown still stops after its largest number of attempts)."""
