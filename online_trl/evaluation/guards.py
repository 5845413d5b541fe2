"""What an evaluation says of the guard metrics of a promotion."""

from __future__ import annotations

from ..gates import GuardMeasurement
from ..types import PolicyEvaluation

_FIGURES = ("length", "refusals", "repetition", "reward_gap")
_FAMILIES = ("task", "harness")


def guard_measurements(evaluation: PolicyEvaluation) -> dict[str, GuardMeasurement]:
    """
    Returns the guard metrics of [`~online_trl.gates.promotion_gate`], as far as a version was compared with the one in
    service: `length`, `refusals`, `repetition`, each `task/NAME` and `harness/NAME` under the names of the figures,
    `heldout_reward` from the gain that the held-out judge sees, `reward_gap` from how far that of the proxy judge lies
    above it, and `kl` against 0.

    Args:
        evaluation ([`~online_trl.types.PolicyEvaluation`]):
            The evaluation.
    """
    figures = evaluation.figures
    among = {name: name for name in figures if name in _FIGURES or name.partition("/")[0] in _FAMILIES}
    among["heldout_reward"] = f"gain/{evaluation.heldout_judge}"
    guards = {
        guard: GuardMeasurement(figures[name].mean, figures[name].mean - figures[f"{name}_vs_live"].mean)
        for guard, name in among.items()
        if f"{name}_vs_live" in figures
    }
    return guards | ({"kl": GuardMeasurement(figures["kl"].mean, 0.0)} if "kl" in figures else {})
