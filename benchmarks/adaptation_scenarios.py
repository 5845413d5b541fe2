"""The scenarios of the adaptation benchmark: what users say, when it arrives, what changes, and what is the goal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from online_trl.simulation.reactions import Mixture
from online_trl.simulation.taste import WEIGHTS, Taste

ARMS = ("frozen", "plain", "random", "ours")
"""What is compared, besides the oracle."""
VERSIONS = 6
"""Policy versions that are deployed over a run; the answers of each are reacted to."""
VERSION_STEPS = {"grpo": 10, "ppo": 20}
"""Policy steps from one version to the next: the same number of generated batches for both trainers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """
    What happens while a policy is trained.

    Args:
        goal (`float`):
            What ours is to reach: a gain at least so high or, for `asks`, a ratio of labels at most so high.
        sessions (`int`):
            Conversations with each version.
        mixture ([`~online_trl.simulation.reactions.Mixture`]):
            How often they end in which reaction.
        every_answer (`bool`, *optional*, defaults to `True`):
            Whether who has nothing else to say rates the answer.
        lags (`tuple[int, ...]`, *optional*, defaults to `(0,)`):
            How many versions late a statement arrives: one of these, drawn at random.
        weights (`Mapping[str, float]`, *optional*):
            How much the parts of the taste count, before the seed of the taste changes them a little.
        flipped (`tuple[str, ...]`, *optional*):
            Parts of the taste of which the opposite pleases from halfway on.
        contrary (`float`, *optional*, defaults to `0.0`):
            Share of the users who vote the opposite of what they like.
        flood (`int`, *optional*, defaults to `0`):
            Statements on each version from one user, who votes the opposite, too.
        asks (`bool`, *optional*, defaults to `False`):
            Whether each session is asked which of two answers is better, chosen among candidates.
        arms (`tuple[str, ...]`, *optional*):
            What is compared in it, besides the oracle.
        trainers (`tuple[str, ...]`, *optional*):
            What it is run with.
        versions (`int`, *optional*):
            How many versions there are.
        beta (`float`, *optional*, defaults to `0.2`):
            Pull of the policy to the base policy. A policy that is to change its ways must not lose the others.
        pace (`float`, *optional*, defaults to `1.0`):
            Policy steps between two of them, as a share of [`VERSION_STEPS`].
    """

    goal: float
    sessions: int
    mixture: Mixture
    every_answer: bool = True
    lags: tuple[int, ...] = (0,)
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)
    flipped: tuple[str, ...] = ()
    contrary: float = 0.0
    flood: int = 0
    asks: bool = False
    arms: tuple[str, ...] = ("frozen", "plain", "ours")
    trainers: tuple[str, ...] = ("grpo",)
    versions: int = VERSIONS
    beta: float = 0.2
    pace: float = 1.0

    @property
    def oracle(self) -> str:
        """Name of the scenario whose oracle is this one's: where the taste stays, they are the same run."""
        return "shifting" if self.flipped else "dense"

    def taste(self, taste_seed: int) -> Taste:
        """Returns the taste at the start."""
        return Taste(taste_seed, weights=self.weights)

    def final_taste(self, taste_seed: int) -> Taste:
        """Returns the taste in the end, by which the gain is measured."""
        return self.taste(taste_seed).flip(self.flipped)


_TALKATIVE = Mixture(comparison=0.35, ranking=0.1, binary=0.25, rating=0.2, correction=0.05, implicit=0.05)
# Neither those who changed their mind nor those who vote the opposite rewrite answers: rewrites follow the old taste.
_WITHOUT_REWRITES = Mixture(comparison=0.35, ranking=0.1, binary=0.3, rating=0.2, correction=0.0, implicit=0.05)
# Of those who might give a thumb, about a third do not: about 5 % of the answers get any feedback.
_SILENT = Mixture(comparison=0.004, ranking=0.0, binary=0.055, rating=0.006, correction=0.0, implicit=0.0)
_COMPARING = Mixture(comparison=1.0, ranking=0.0, binary=0.0, rating=0.0, correction=0.0, implicit=0.0)

# The two parts that flip are what matters most, so that who goes on as before does worse than who learned nothing.
_OF_MANNERS = {"action": 0.1, "concise": 0.1, "definite": 0.35, "polite": 0.35, "item": 0.1}

SCENARIOS = {
    "dense": Scenario(goal=0.90, sessions=120, mixture=_TALKATIVE, trainers=("grpo", "ppo")),
    "sparse": Scenario(goal=0.75, sessions=600, mixture=_SILENT, every_answer=False),
    "delayed": Scenario(goal=0.85, sessions=120, mixture=_TALKATIVE, lags=(2, 3)),
    "shifting": Scenario(
        goal=0.80,
        sessions=120,
        mixture=_WITHOUT_REWRITES,
        weights=_OF_MANNERS,
        flipped=("polite", "definite"),
        versions=8,
        beta=0.3,
        trainers=("grpo", "ppo"),
    ),
    "adversarial": Scenario(goal=0.80, sessions=120, mixture=_WITHOUT_REWRITES, contrary=0.2, flood=200),
    "label_cost": Scenario(
        goal=0.6, sessions=20, mixture=_COMPARING, asks=True, arms=("random", "ours"), versions=2 * VERSIONS, pace=0.5
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """
    What is run.

    Args:
        scenario (`str`), arm (`str`), trainer (`str`):
            Names of these.
        seed (`int`), taste_seed (`int`):
            Seeds of everything that is drawn, and of the taste.
        size (`float`, *optional*, defaults to `1.0`):
            Policy steps and conversations, as a share of the usual number.
        settings (`dict[str, Any]`, *optional*):
            Fields of the trainer's config that are changed where the live reward model is refreshed.
    """

    scenario: str
    arm: str
    trainer: str
    seed: int
    taste_seed: int
    size: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> Scenario:
        """The scenario."""
        return SCENARIOS[self.scenario]

    @property
    def version_steps(self) -> int:
        """Policy steps from one version to the next."""
        return max(1, round(self.size * VERSION_STEPS[self.trainer] * self.setting.pace))

    def scaled(self, count: int) -> int:
        """Returns a count as it is in a run of this size."""
        return scaled(count, self.size)


def scaled(count: int, size: float) -> int:
    """Returns the share of a count, at least 1 and at most all of it."""
    return min(count, max(1, round(size * count)))
