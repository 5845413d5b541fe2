"""
How often a canary is promoted or rolled back by mistake, and how many judgements it takes to find a real difference.

Users arrive over the whole time and come back, each with a leniency and a readiness to respond of their own; one
answer in five gets a thumb. The decision is asked for every 500 judgements. Beside it stands what a test for a fixed
sample, clustered by user as well, would have decided at the same looks.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from online_trl.canary import CanarySettings, Lead, Standing
from online_trl.estimates.users import ClusteredMean, UserTotals, clustered_mean

BASE = 0.6
LIKENESS = 0.2  # correlation of two judgements of one user
RESPONSE_RATE = 0.2
PER_USER = 5  # judgements
LOOK = 500  # judgements
CHUNK = 50  # canaries simulated at a time
Z = 1.645

Line = dict[str, Any]


@dataclass
class Group:
    """The users of one version in many canaries at once: what they think, and what they have said so far."""

    leniency: np.ndarray
    readiness: np.ndarray
    answers: np.ndarray
    responses: np.ndarray
    ups: np.ndarray
    known: int = 1

    @classmethod
    def draw(cls, rng: np.random.Generator, canaries: int, users: int, satisfaction: float) -> Group:
        def beta(mean: float) -> np.ndarray:
            rest = (1 - LIKENESS) / LIKENESS
            return rng.beta(rest * mean, rest * (1 - mean), size=(canaries, users))

        return cls(beta(satisfaction), beta(RESPONSE_RATE), *(np.zeros((canaries, users)) for _ in range(3)))

    def answer(self, rng: np.random.Generator, count: int, known: float) -> None:
        """Answers questions of those who have come so far, and takes their thumbs."""
        canaries, users = self.leniency.shape
        self.known = max(1, int(known * users))
        who = (rng.random((canaries, count)) * self.known).astype(int)
        who += np.arange(canaries)[:, None] * users
        responded = who[rng.random(who.shape) < self.readiness.ravel()[who]]
        liked = responded[rng.random(responded.size) < self.leniency.ravel()[responded]]
        for total, names in ((self.answers, who.ravel()), (self.responses, responded), (self.ups, liked)):
            total += np.bincount(names, minlength=total.size).reshape(total.shape)

    def keep(self, rows: np.ndarray) -> None:
        for name, values in vars(self).items():
            if name != "known":
                setattr(self, name, values[rows])

    @property
    def score(self) -> ClusteredMean:
        responses, ups = self.responses[:, : self.known], self.ups[:, : self.known]
        return clustered_mean(UserTotals(responses, ups, ups))

    @property
    def response(self) -> ClusteredMean:
        answers, responses = self.answers[:, : self.known], self.responses[:, : self.known]
        return clustered_mean(UserTotals(answers, responses, responses))


def play(
    rng: np.random.Generator, settings: CanarySettings, effect: float, canaries: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Runs canaries to their ends.

    Returns the end of each (1 promoted, -1 called worse, 0 neither), the judgements it took, and whether the test for
    a fixed sample would ever have promoted it.
    """
    users = settings.max_judgements // PER_USER
    own = round(users * settings.share)
    candidate = Group.draw(rng, canaries, own, BASE + effect)
    incumbent = Group.draw(rng, canaries, users - own, BASE)
    ends, taken, fooled = np.zeros(canaries, int), np.full(canaries, settings.max_judgements), np.zeros(canaries, bool)
    open_rows = np.arange(canaries)
    per_look = round(LOOK / RESPONSE_RATE)
    looks = settings.max_judgements // LOOK
    for look in range(1, looks + 1):
        candidate.answer(rng, round(per_look * settings.share), look / looks)
        incumbent.answer(rng, per_look - round(per_look * settings.share), look / looks)
        standing = standing_of(candidate, incumbent, settings)
        better, worse = standing.is_better, standing.is_worse
        fooled[open_rows] |= passes_fixed_test(standing.leads["satisfaction"], settings)
        ends[open_rows[better]], ends[open_rows[worse]] = 1, -1
        taken[open_rows[better | worse]] = look * LOOK
        going = ~(better | worse)
        open_rows = open_rows[going]
        if not open_rows.size:
            break
        candidate.keep(going)
        incumbent.keep(going)
    return ends, taken, fooled


def standing_of(candidate: Group, incumbent: Group, settings: CanarySettings) -> Standing:
    """Returns how each candidate stands, by thumbs alone."""
    return Standing.of(
        scores=(candidate.score, incumbent.score),
        responses=(candidate.response, incumbent.response),
        settings=settings,
    )


def passes_fixed_test(lead: Lead, settings: CanarySettings) -> np.ndarray:
    """Returns which candidates a test for a fixed sample would promote."""
    return (lead.users >= settings.min_users) & (lead.mean > Z * np.sqrt(lead.variance))


def measure(share: float, effect: float, *, runs: int, max_judgements: int) -> Line:
    """Plays canaries with one share and one true effect."""
    rng = np.random.default_rng(0)
    settings = CanarySettings(share=share, max_judgements=max_judgements)
    played = [play(rng, settings, effect, min(CHUNK, runs - start)) for start in range(0, runs, CHUNK)]
    ends, taken, fooled = (np.concatenate(values) for values in zip(*played, strict=True))
    found = ends == np.sign(effect) if effect else np.zeros(runs, bool)
    # A difference that was not found would have taken longer than the canary.
    waits = np.where(found, taken, max_judgements + 1)

    def wait(quantile: float) -> int | None:
        value = float(np.quantile(waits, quantile, method="higher"))
        return int(value) if effect and value <= max_judgements else None

    return {
        "share": share,
        "effect": effect,
        "canaries": runs,
        "promoted": round(float(np.mean(ends == 1)), 4),
        "worse": round(float(np.mean(ends == -1)), 4),
        "median": wait(0.5),
        "p90": wait(0.9),
        "fixed test": round(float(np.mean(fooled)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="canaries of each kind (default: 1000)")
    parser.add_argument("--max-judgements", type=int, default=50_000, help="when a canary ends (default: 50000)")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.5])
    parser.add_argument("--effects", type=float, nargs="+", default=[0.0, -0.05, 0.05, 0.1])
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    lines = [
        measure(share, effect, runs=args.runs, max_judgements=args.max_judgements)
        for share in args.shares
        for effect in args.effects
    ]
    table = Table(*lines[0], title="Ends of canaries, and judgements until a difference is found")
    for line in lines:
        table.add_row(*("–" if value is None else str(value) for value in line.values()))
    Console().print(table)
    if args.output is not None:
        args.output.write_text(json.dumps(lines, indent=2))


if __name__ == "__main__":
    main()
