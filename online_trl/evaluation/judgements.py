"""
What users think of a policy version, measured from the log.

Several judgements of one user are not independent, so every interval treats each user as one cluster. Judgements that
were asked for and are measured once ([`satisfaction`], [`win_rate`]; purpose `EVALUATION`, which nothing is trained
on) have an interval for a fixed sample; live feedback, which people watch and act on as it arrives
([`satisfaction_reports`]), has confidence sequences.
"""

from __future__ import annotations

from ..estimates import bradley_terry, confidence_sequence, mean_estimate
from ..store import LogReader
from ..types import CanaryFeedback, Estimate, FeedbackKind, Judgements, Purpose, SatisfactionReport, VersionFeedback
from .opinions import Opinions

_UNIT = (0.0, 1.0)


def satisfaction(store: LogReader, policy_version: str, *, purpose: Purpose = Purpose.EVALUATION) -> Estimate:
    """
    How satisfied users are with the answers of a version: the mean of the thumbs (0 or 1) and ratings (scaled to
    [0, 1]) that they gave them, each user one cluster. What a user took back or replaced does not count. The interval
    holds at one look.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        policy_version (`str`):
            Name of the version.
        purpose ([`~online_trl.types.Purpose`], *optional*, defaults to `Purpose.EVALUATION`):
            Which answers count.
    """
    return satisfaction_of(Opinions.read(store, purpose), policy_version)


def satisfaction_of(opinions: Opinions, policy_version: str) -> Estimate:
    """Does what [`satisfaction`] does for opinions that were read already."""
    scores = opinions.scores(policy_version)
    return mean_estimate(scores.values, clusters=scores.users, bounds=_UNIT)


def win_rate(
    store: LogReader, policy_version: str, opponent: str, *, purpose: Purpose = Purpose.EVALUATION
) -> Estimate:
    """
    How often users preferred the answer of one version to that of another: 1 for a win, 0.5 for a tie, each user one
    cluster. What a user took back or replaced does not count. The interval holds at one look.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        policy_version (`str`):
            Name of the version.
        opponent (`str`):
            Name of the version it is compared with.
        purpose ([`~online_trl.types.Purpose`], *optional*, defaults to `Purpose.EVALUATION`):
            Which answers count.

    Raises:
        `ValueError`: if both are the same version.
    """
    if policy_version == opponent:
        raise ValueError(f"{policy_version} has no win rate against itself; compare two versions")
    return win_rate_of(Opinions.read(store, purpose), policy_version, opponent)


def win_rate_of(opinions: Opinions, policy_version: str, opponent: str) -> Estimate:
    """Does what [`win_rate`] does for opinions that were read already."""
    points = opinions.points(policy_version, opponent)
    return mean_estimate(points.values, clusters=points.users, bounds=_UNIT)


def satisfaction_reports(
    store: LogReader,
    *,
    purpose: Purpose = Purpose.CHAT,
    reference: str | None = None,
    after: int = 0,
    upto: int | None = None,
) -> tuple[SatisfactionReport, ...]:
    """
    What users think of every version that answered in the interval `(after, upto]` of the log, with intervals that
    hold at all looks together. What they took back or replaced does not count.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        purpose ([`~online_trl.types.Purpose`], *optional*, defaults to `Purpose.CHAT`):
            Which answers count.
        reference (`str`, *optional*):
            The version that win rates are against. Defaults to the one that answered first.
        after (`int`, *optional*, defaults to `0`), upto (`int`, *optional*):
            The interval. It ends with the log by default.

    Returns:
        `tuple[SatisfactionReport, ...]`: One of each version, in the order of their first answers.
    """
    return report_opinions(Opinions.read(store, purpose, after=after, upto=upto), reference=reference)


def report_opinions(opinions: Opinions, *, reference: str | None = None) -> tuple[SatisfactionReport, ...]:
    """
    Does what [`satisfaction_reports`] does for opinions that were read already.

    Args:
        opinions ([`~online_trl.evaluation.opinions.Opinions`]):
            What was said.
        reference (`str`, *optional*):
            As in [`satisfaction_reports`].
    """
    if not opinions.versions:
        return ()
    win_rates = bradley_terry(*opinions.comparisons(), reference=reference or opinions.versions[0])
    return tuple(_report(opinions, version, win_rates.get(version)) for version in opinions.versions)


def canary_feedback(opinions: Opinions, candidate: str, incumbent: str) -> CanaryFeedback:
    """
    Gathers what users said of what two versions answered side by side.

    Args:
        opinions ([`~online_trl.evaluation.opinions.Opinions`]):
            What users said of the answers that count: those that the draw of the canary gave to their users.
        candidate (`str`), incumbent (`str`):
            Names of the versions.
    """
    return CanaryFeedback(
        candidate=VersionFeedback(opinions.scores(candidate), opinions.responses(candidate)),
        incumbent=VersionFeedback(opinions.scores(incumbent), opinions.responses(incumbent)),
        comparisons=opinions.points(candidate, incumbent),
    )


def _report(opinions: Opinions, version: str, win_rate: Estimate | None) -> SatisfactionReport:
    responses = opinions.responses(version)
    return SatisfactionReport(
        policy_version=version,
        answers=len(responses.values),
        users=len(set(responses.users)),
        satisfaction=_sequence(opinions.scores(version)),
        thumb_rate=_sequence(opinions.scores(version, FeedbackKind.BINARY)),
        rating=_sequence(opinions.scores(version, FeedbackKind.RATING)),
        response_rate=_sequence(responses),
        win_rate=win_rate,
        implicit=opinions.implicit(version),
    )


def _sequence(judgements: Judgements) -> Estimate:
    return confidence_sequence(judgements.values, judgements.users)
