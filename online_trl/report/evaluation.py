"""The evaluation of a policy version as a table in the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..types import AccuracyPoint, Estimate, PolicyEvaluation
from .result import interval, number


def evaluation_table(evaluation: PolicyEvaluation) -> Table:
    """
    Returns a table with one row per figure.

    Args:
        evaluation ([`~online_trl.types.PolicyEvaluation`]):
            The evaluation.
    """
    against = ", ".join(
        f"{role} {name}" for role, name in (("live", evaluation.live), ("base", evaluation.base)) if name is not None
    )
    table = Table(
        title=f"{evaluation.policy_version} on {evaluation.prompts} prompts"
        + (f", against {against}" if against else ""),
        caption=_caption(evaluation),
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("Figure", overflow="fold")
    for heading in ("Value", "95 % interval", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = [*evaluation.figures.items(), *_trend("reward_accuracy, rows", evaluation.accuracy_over_feedback)]
    for name, estimate in [*rows, *_trend("reward_accuracy,", evaluation.accuracy_by_reward_version)]:
        table.add_row(*map(Text, (name, number(estimate.mean), _interval(estimate), str(estimate.n))))
    return table


def _interval(estimate: Estimate) -> str:
    return "–" if number(estimate.low) == number(estimate.high) == "–" else interval(estimate)


def _trend(name: str, points: tuple[AccuracyPoint, ...]) -> list[tuple[str, Estimate]]:
    return [(f"{name} {point.at}", point.accuracy) for point in points]


def _caption(evaluation: PolicyEvaluation) -> str:
    roles = {
        "win rates of": evaluation.main_judge,
        "proxy": evaluation.proxy_judge,
        "held out": evaluation.heldout_judge,
        "accuracy of": evaluation.reward_version,
    }
    return "; ".join(f"{role} {name}" for role, name in roles.items() if name is not None)
