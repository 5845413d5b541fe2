"""What an evaluation says of the guard metrics of a promotion."""

from __future__ import annotations

from ..gates import GuardMeasurement
from ..types import PolicyEvaluation

_ALWAYS = ("length", "refusals", "repetition")
_EACH = ("task/", "harness/")


def guard_measurements(evaluation: PolicyEvaluation) -> dict[str, GuardMeasurement]:
    """
    Returns the guard metrics of [`~online_trl.gates.promotion_gate`], as far as a version was compared with the one in
    service.

    They bear the names of the figures: `length`, `refusals`, `repetition`, each `task/NAME` and `harness/NAME`; `kl`,
    against 0; and `heldout_reward`, the gain by the held-out judge.

    Args:
        evaluation ([`~online_trl.types.PolicyEvaluation`]):
            The evaluation.
    """
    figures = evaluation.figures
    names = {name: name for name in figures if name in _ALWAYS or name.startswith(_EACH)}
    names["heldout_reward"] = f"gain/{evaluation.heldout_judge}"
    guards = {
        guard: GuardMeasurement(figures[name].mean, figures[name].mean - figures[f"{name}_vs_live"].mean)
        for guard, name in names.items()
        if f"{name}_vs_live" in figures
    }
    return guards | ({"kl": GuardMeasurement(figures["kl"].mean, 0.0)} if "kl" in figures else {})
