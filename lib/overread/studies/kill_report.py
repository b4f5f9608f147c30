"""What came of a number of kills, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Report:
    """What came of all kills.

    Attributes:
        hits: by phase of the trainer or a reader and by what was killed, how often.
        reached, missed: by aim, how often its moment came, and how often it was not waited for any longer.
        interrupted: what the killed had left behind, and the next start put right.
        wrong: everything that should not be; empty is the aim.
        kills: how many there were.
        answered, unanswered: labels that were sent.
        decisions, promotions: of the gate.
    """

    hits: Counter[tuple[str, str]] = field(default_factory=Counter)
    reached: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    interrupted: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    kills: int = 0
    answered: int = 0
    unanswered: int = 0
    decisions: int = 0
    promotions: int = 0

    def text(self, phases: Sequence[str]) -> str:
        """Tables for people, with the phases in the order that is given."""
        killed = sorted({target for _, target in self.hits})
        seen = {phase for phase, _ in self.hits}
        ordered = [*(phase for phase in phases if phase in seen), *sorted(seen - set(phases))]
        width = max((len(target) for target in killed), default=0) + 2
        lines = [f"{'in the phase':<16}" + "".join(f"{target:>{width}}" for target in killed)]
        lines += [
            f"{phase:<16}" + "".join(f"{self.hits[phase, target]:>{width}}" for target in killed)
            for phase in ordered
        ]
        lines.append("(each kill counts for the trainer's phase and for those of the readers)")
        lines += [
            f"aimed at {aim}: {self.reached[aim]} reached, {self.missed[aim]} not"
            for aim in (*phases, *sorted({*self.reached, *self.missed} - set(phases)))
            if self.reached[aim] or self.missed[aim]
        ]
        lines += [
            f"left behind and put right: {count} x {what}" for what, count in self.interrupted.most_common()
        ]
        lines.append(
            f"{self.kills} kills; {self.answered} labels answered with 200, {self.unanswered} not; "
            f"{self.decisions} decisions, {self.promotions} of them promotions; {len(self.wrong)} things wrong"
        )
        return "\n".join([*lines, *(f"WRONG: {sentence}" for sentence in self.wrong)])
