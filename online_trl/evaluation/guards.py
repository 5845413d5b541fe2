"""What an evaluation says of the guard metrics of a promotion."""

from __future__ import annotations

from statistics import fmean

from ..gates import GuardMeasurement
from ..types import PolicyEvaluation


def guard_measurements(evaluation: PolicyEvaluation) -> dict[str, GuardMeasurement]:
    """
    Returns the guard metrics of [`~online_trl.gates.promotion_gate`], as far as a version was compared with the one in
    service.

    | guard | figure |
    |---|---|
    | `length`, `refusal_rate`, `repetition` | `length`, `refusals`, `repetition` |
    | `heldout_reward` | `gain/JUDGE` of the held-out judge |
    | `task_performance` | mean of all `task/NAME` |
    | `kl` | `kl`, against 0 |

    Args:
        evaluation ([`~online_trl.types.PolicyEvaluation`]):
            The evaluation.
    """
    figures = evaluation.figures
    names = {
        "length": ["length"],
        "refusal_rate": ["refusals"],
        "repetition": ["repetition"],
        "heldout_reward": [f"gain/{evaluation.heldout_judge}"],
        "task_performance": [name for name in figures if name.startswith("task/")],
    }
    compared = {
        guard: [
            (figures[name].mean, figures[f"{name}_vs_live"].mean) for name in among if f"{name}_vs_live" in figures
        ]
        for guard, among in names.items()
    }
    guards = {
        guard: GuardMeasurement(fmean(own for own, _ in rows), fmean(own - more for own, more in rows))
        for guard, rows in compared.items()
        if rows
    }
    return guards | ({"kl": GuardMeasurement(figures["kl"].mean, 0.0)} if "kl" in figures else {})
