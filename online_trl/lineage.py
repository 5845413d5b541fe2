"""
Which versions learned from what somebody said, and what made a version: the registry read forwards and backwards.

A reward version learns from the pairs that it was trained on, and has what its parent had learned. Pairs that only
judged it decided whether it went into service, and left nothing in its weights. Its anchors fix the scale of its
scores, and their words stay in its folder as long as it does. A policy learns from the reward versions that paid it,
from the prompts it was trained on, and from its parent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from .registry import Consumed, ModelRegistry, Sources
from .types import Feedback, ModelRole, ModelVersion, VersionStatus


@dataclass(frozen=True, slots=True)
class Use:
    """
    A version that has to do with what was asked about.

    Args:
        version (`str`):
            Its name.
        status ([`~online_trl.types.VersionStatus`]):
            What became of it.
        how (`tuple[str, ...]`):
            `trained on it`, `judged on it`, `keeps its words as an anchor`, `paid by reward-0001`, `started from
            policy-0001`, or `its prompt may be among those trained on`: which prompts of its interval a policy drew is
            not recorded.
    """

    version: str
    status: VersionStatus
    how: tuple[str, ...]


def uses(
    registry: ModelRegistry, *, feedback_ids: Collection[str] = (), interactions: Mapping[str, int] | None = None
) -> list[Use]:
    """
    Returns the versions that consumed some rows of the log, the reward models first, each line oldest first.

    Args:
        registry ([`~online_trl.registry.ModelRegistry`]):
            The versions.
        feedback_ids (`Collection[str]`, *optional*):
            Feedback, whether or not it is in the log still.
        interactions (`Mapping[str, int]`, *optional*):
            `seq` of interactions by id, whether or not they are in the log still.
    """
    asked = dict(interactions or {})
    learned: set[str] = set()
    found = []
    for version in [*registry.versions(ModelRole.REWARD), *registry.versions(ModelRole.POLICY)]:
        consumed = registry.consumed(version.name)
        how = [*_learned(version, consumed, feedback_ids, asked), *_inherited(version, learned)]
        if how:
            learned.add(version.name)
        if consumed.judged_on.include(feedback_ids, asked):
            how.append("judged on it")
        if consumed.anchored_on.include(feedback_ids, asked):
            how.append("keeps its words as an anchor")
        if how:
            found.append(Use(version.name, version.status, tuple(how)))
    return found


def _learned(
    version: ModelVersion, consumed: Consumed, feedback_ids: Collection[str], asked: Mapping[str, int]
) -> Iterator[str]:
    if consumed.trained_on.include(feedback_ids, asked):
        yield "trained on it"
    after, upto = version.prompt_interval or (0, 0)
    if any(after < seq <= upto for seq in asked.values()):
        yield "its prompt may be among those trained on"


def _inherited(version: ModelVersion, learned: set[str]) -> Iterator[str]:
    yield from (f"paid by {name}" for name in version.reward_versions if name in learned)
    if version.parent in learned:
        yield f"started from {version.parent}"


@dataclass(frozen=True, slots=True)
class Ingredient:
    """
    A version, among those that made another one, and what it consumed itself.

    Args:
        version ([`~online_trl.types.ModelVersion`]):
            The version.
        consumed ([`~online_trl.registry.Consumed`]):
            Feedback that it was trained and judged on; none for a policy, which learns from reward versions.
    """

    version: ModelVersion
    consumed: Consumed


def ingredients(registry: ModelRegistry, name: str) -> list[Ingredient]:
    """
    Returns the versions that made a version, itself first: the ones it started from, and those that paid any of them.

    Args:
        registry ([`~online_trl.registry.ModelRegistry`]):
            The versions.
        name (`str`):
            A reward model or a policy.

    Raises:
        [`~online_trl.registry.RegistryError`]: if there is no version of that name.
    """
    known = {version.name: version for role in ModelRole for version in registry.versions(role)}
    ahead, found = [registry.get(name)], dict[str, Ingredient]()
    while ahead:
        version = ahead.pop(0)
        if version.name not in found:
            found[version.name] = Ingredient(version, registry.consumed(version.name))
            ahead += [known[other] for other in (version.parent, *version.reward_versions) if other in known]
    return list(found.values())


def feedback_behind(made_of: Collection[Ingredient]) -> Sources:
    """Returns all feedback that the weights of these versions were fitted to."""
    trained_on = Sources()
    for ingredient in made_of:
        trained_on |= ingredient.consumed.trained_on
    return trained_on


def learning_delays(registry: ModelRegistry, rows: Iterable[Feedback]) -> list[float]:
    """
    Returns how long it took from each row of feedback to the first policy in service that had learned from it, in
    seconds, shortest first. What no policy in service has learned from is left out.

    Args:
        registry ([`~online_trl.registry.ModelRegistry`]):
            The versions.
        rows (`Iterable[Feedback]`):
            The feedback.
    """
    served = _served_since(registry)
    return sorted(
        (served[row.feedback_id] - row.created_at).total_seconds() for row in rows if row.feedback_id in served
    )


def _served_since(registry: ModelRegistry) -> dict[str, datetime]:
    """When the first policy went into service that had learned from a row of feedback, by `feedback_id`."""
    known = {version.name: version for role in ModelRole for version in registry.versions(role)}
    told: set[str] = set()
    served: dict[str, datetime] = {}
    for promotion in registry.history(ModelRole.POLICY):
        # What made an earlier policy was in service with that one: each version is looked at once.
        ahead = [promotion.version]
        while ahead:
            name = ahead.pop()
            if name in known and name not in told:
                told.add(name)
                learned = registry.consumed(name).trained_on.feedback_ids
                served |= dict.fromkeys(learned - served.keys(), promotion.at)
                ahead += [*known[name].reward_versions, *filter(None, [known[name].parent])]
    return served
