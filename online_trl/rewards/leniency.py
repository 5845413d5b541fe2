"""How good an answer has to be for a thumb up, and how much sooner each user gives one.

A verdict says as much about who gave it as about the answer. Thresholds and leniency take that part, so that it does
not end up in the reward model; they are fitted beside it on its scores and are no part of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import softplus

# In logits. Wide enough to leave any threshold to the data, and finite where the data would not be: without a verdict
# of the other kind, the best threshold is at infinity.
_THRESHOLD_STD = 10.0
_HALVINGS = 8


def fit_leniency(
    scores: torch.Tensor,
    labels: torch.Tensor,
    users: torch.Tensor,
    weights: torch.Tensor,
    num_users: int,
    leniency_std: float,
    *,
    start: tuple[torch.Tensor, torch.Tensor] | None = None,
    iterations: int = 25,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Fits, for each head, the threshold and the leniency of each user in
    `P(thumb up) = sigmoid(score - threshold + leniency[user])`.

    It is the posterior mode of a logistic regression with random intercepts, found by Newton's method. The Hessian has
    an arrow's shape (each user meets only the threshold), so a step costs as much as a gradient. A step that makes
    things worse for a head is halved for that head, so the method cannot diverge, whatever the labels.

    Source: McCullagh and Nelder 1989, "Generalized Linear Models", on iteratively reweighted least squares; Rasch 1960
    for the model.

    Args:
        scores (`torch.Tensor` of shape `(N, K)`):
            Scores of the answers.
        labels (`torch.Tensor` of shape `(N,)`):
            Verdicts from 0 to 1.
        users (`torch.Tensor` of shape `(N,)`):
            Who gave them, from 0 to `num_users - 1`.
        weights (`torch.Tensor` of shape `(N, K)`):
            How much each verdict counts for each head.
        num_users (`int`):
            `U`.
        leniency_std (`float`):
            Standard deviation of leniency among users, in logits; 0 makes all users alike.
        start (`tuple[torch.Tensor, torch.Tensor]`, *optional*):
            Thresholds and leniency to start from, such as those of the step before.
        iterations (`int`, *optional*, defaults to `25`):
            Newton steps.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Thresholds of shape `(K,)` and leniency of shape `(U, K)`, in float64.
    """
    problem = _Problem(scores, labels, users, weights, num_users, leniency_std)
    thresholds, leniency = start if start is not None else (problem.centres, problem.nobody)
    thresholds, leniency = thresholds.to(problem.centres), leniency.to(problem.centres)
    for _ in range(iterations):
        threshold_step, leniency_step = problem.newton_step(thresholds, leniency)
        size = problem.step_size(thresholds, leniency, threshold_step, leniency_step)
        thresholds = thresholds + size * threshold_step
        leniency = leniency + size * leniency_step
    return thresholds, leniency


class _Problem:
    """The penalised log-likelihood of all heads at once."""

    def __init__(
        self,
        scores: torch.Tensor,
        labels: torch.Tensor,
        users: torch.Tensor,
        weights: torch.Tensor,
        num_users: int,
        leniency_std: float,
    ) -> None:
        self.scores, self.weights = scores.double(), weights.double()
        self.labels, self.users = labels.double()[:, None], users
        total = self.weights.sum(dim=0)
        self.centres = (self.weights * self.scores).sum(dim=0) / total.clamp(min=1e-12)
        self.nobody = self.scores.new_zeros(num_users, scores.shape[1])
        self.threshold_precision = _THRESHOLD_STD**-2
        # Finite for a spread of 0, and too strong for any data to move.
        self.leniency_precision = max(leniency_std, 1e-9) ** -2

    def logits(self, thresholds: torch.Tensor, leniency: torch.Tensor) -> torch.Tensor:
        return self.scores - thresholds + leniency[self.users]

    def objective(self, thresholds: torch.Tensor, leniency: torch.Tensor) -> torch.Tensor:
        logits = self.logits(thresholds, leniency)
        likelihood = (self.weights * (softplus(logits) - self.labels * logits)).sum(dim=0)
        priors = self.threshold_precision * (thresholds - self.centres).square()
        priors = priors + self.leniency_precision * leniency.square().sum(dim=0)
        return likelihood + priors / 2

    def newton_step(self, thresholds: torch.Tensor, leniency: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chances = self.logits(thresholds, leniency).sigmoid()
        residuals = self.weights * (chances - self.labels)
        curvature = self.weights * chances * (1 - chances)
        user_curvature = self._by_user(curvature)
        gradient = self.threshold_precision * (thresholds - self.centres) - residuals.sum(dim=0)
        user_gradient = self._by_user(residuals) + self.leniency_precision * leniency
        pivot = user_curvature + self.leniency_precision
        # Users are eliminated: what is left of the Hessian is a number for each head.
        schur = self.threshold_precision + (user_curvature * (1 - user_curvature / pivot)).sum(dim=0)
        threshold_step = -(gradient + (user_curvature / pivot * user_gradient).sum(dim=0)) / schur
        return threshold_step, (user_curvature * threshold_step - user_gradient) / pivot

    def step_size(
        self,
        thresholds: torch.Tensor,
        leniency: torch.Tensor,
        threshold_step: torch.Tensor,
        leniency_step: torch.Tensor,
    ) -> torch.Tensor:
        """The largest of 1, 1/2, 1/4, … that makes nothing worse, for each head; 0 where none is left."""
        size = torch.ones_like(thresholds)
        best = self.objective(thresholds, leniency)
        slack = 1e-9 * best.abs().clamp(min=1)
        for _ in range(_HALVINGS):
            worse = self.objective(thresholds + size * threshold_step, leniency + size * leniency_step) > best + slack
            if not worse.any():
                return size
            size = torch.where(worse, size / 2, size)
        return torch.where(worse, torch.zeros_like(size), size)

    def _by_user(self, values: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(self.nobody).index_add_(0, self.users, values)


class VerdictTable:
    """
    The latest score of every verdict that a run has seen, and the thresholds and leniency that follow from them.

    Verdicts and users are known by numbers, see [`~online_trl.rewards.statements.stable_number`]. Ranks that are given
    the same verdicts in the same order hold the same table.

    Args:
        num_heads (`int`):
            `K`.
        leniency_std (`float`):
            As in [`fit_leniency`].
    """

    def __init__(self, num_heads: int, leniency_std: float) -> None:
        self.leniency_std = leniency_std
        self.thresholds = torch.zeros(num_heads, dtype=torch.float64)
        self.leniency = torch.zeros(0, num_heads, dtype=torch.float64)
        self._rows: dict[int, int] = {}
        self._user_rows: dict[int, int] = {}
        self._users = torch.zeros(0, dtype=torch.long)
        self._labels = torch.zeros(0)
        self._scores = self._weights = torch.zeros(0, num_heads)

    def update(
        self,
        keys: Sequence[int],
        users: Sequence[int],
        labels: torch.Tensor,
        weights: torch.Tensor,
        scores: torch.Tensor,
        *,
        iterations: int = 3,
    ) -> None:
        """
        Puts down new scores and fits again, from where the last fit ended.

        Args:
            keys (`Sequence[int]`), users (`Sequence[int]`):
                Which verdicts these are, and whose.
            labels (`torch.Tensor` of shape `(N,)`), weights (`torch.Tensor` of shape `(N, K)`):
                As in [`fit_leniency`].
            scores (`torch.Tensor` of shape `(N, K)`):
                The present scores of their answers.
            iterations (`int`, *optional*, defaults to `3`):
                Newton steps.
        """
        first = not self._rows
        rows = torch.tensor([self._rows.setdefault(key, len(self._rows)) for key in keys], dtype=torch.long)
        owners = [self._user_rows.setdefault(user, len(self._user_rows)) for user in users]
        self._grow()
        self._users[rows] = torch.tensor(owners, dtype=torch.long)
        self._labels[rows] = labels.float().cpu()
        self._weights[rows] = weights.float().cpu()
        self._scores[rows] = scores.float().cpu()
        self.thresholds, self.leniency = fit_leniency(
            self._scores,
            self._labels,
            self._users,
            self._weights,
            len(self._user_rows),
            self.leniency_std,
            start=None if first else (self.thresholds, self.leniency),
            iterations=iterations,
        )

    def offsets(self, users: Sequence[int]) -> torch.Tensor:
        """Returns leniency less threshold for each user and head, shape `(N, K)`; strangers have no leniency."""
        leniency = torch.cat([self.leniency, torch.zeros_like(self.thresholds)[None]])
        rows = [self._user_rows.get(user, -1) for user in users]
        return (leniency[rows] - self.thresholds).float()

    def _grow(self) -> None:
        more = len(self._rows) - len(self._labels)
        self._users = torch.cat([self._users, self._users.new_zeros(more)])
        self._labels = torch.cat([self._labels, self._labels.new_zeros(more)])
        self._weights = torch.cat([self._weights, self._weights.new_zeros(more, self._weights.shape[1])])
        self._scores = torch.cat([self._scores, self._scores.new_zeros(more, self._scores.shape[1])])
        strangers = len(self._user_rows) - len(self.leniency)
        self.leniency = torch.cat([self.leniency, self.leniency.new_zeros(strangers, self.leniency.shape[1])])
