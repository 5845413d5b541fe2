"""What `online-trl run` is told: one YAML file as dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..canary import CanarySettings
from ..config import ConfigError, check_config_file, check_keys, check_range, from_mapping
from ..evaluation_settings import EvaluationSettings, read_evaluation_settings
from ..gates import DEFAULT_BUDGETS, PromotionThresholds
from ..loop import Retry
from ..serving.settings import read_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSettings:
    """
    A recipe and how `accelerate launch` starts it.

    Args:
        script (`str`):
            The recipe, such as `recipes/online_grpo.py`.
        config (`str`):
            Its YAML file. The loop itself sets the log, the registry, the model and the output folder.
        accelerate_config (`str`, *optional*):
            Config file of `accelerate launch`, such as `ds_configs/accelerate_zero2.yaml`. Defaults to one process.
    """

    script: str
    config: str
    accelerate_config: str | None = None

    def __post_init__(self) -> None:
        for name in ("script", "config", "accelerate_config"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise ConfigError(f"`{name}` is {path}, which is no file")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """
    The server that the loop keeps up.

    Args:
        host (`str`, *optional*, defaults to `"127.0.0.1"`), port (`int`, *optional*, defaults to `8000`):
            Where it listens.
        settings (`dict[str, Any]`, *optional*):
            Fields of [`~online_trl.serving.settings.ServerSettings`].
    """

    host: str = "127.0.0.1"
    port: int = 8000
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range("port", self.port, 0, 65_535)
        read_settings(self.settings, where="`serve.settings`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggers:
    """
    When a round begins. There is none without new feedback.

    Args:
        feedback (`int`, *optional*, defaults to `200`):
            As soon as so many rows of feedback came since the last one. `0` turns the trigger off.
        minutes (`float`, *optional*, defaults to `0.0`):
            As soon as the candidate of the last one was published so long ago. `0` turns the trigger off.
        drift (`bool`, *optional*, defaults to `False`):
            As soon as the process that refreshes the reward model notices that people have changed.
            It needs `refresh`.
    """

    feedback: int = 200
    minutes: float = 0.0
    drift: bool = False

    def __post_init__(self) -> None:
        check_range("feedback", self.feedback, 0, None)
        check_range("minutes", self.minutes, 0, None)
        if not (self.feedback or self.minutes or self.drift):
            raise ConfigError("all `triggers` are off, so that no round would ever begin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """
    After what no further round begins; serving goes on.

    Args:
        rounds (`int`, *optional*, defaults to `0`):
            So many rounds in all. `0` for any number.
        train_hours (`float`, *optional*, defaults to `0.0`):
            So many hours of training in all. `0` for any number.
    """

    rounds: int = 0
    train_hours: float = 0.0

    def __post_init__(self) -> None:
        check_range("rounds", self.rounds, 0, None)
        check_range("train_hours", self.train_hours, 0, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentSettings:
    """
    What `online-trl run` is told.

    Args:
        store (`str`):
            URL of the feedback log.
        registry (`str`):
            The model registry.
        train ([`LaunchSettings`]):
            What trains the policy.
        output_dir (`str`, *optional*, defaults to `"outputs/loop"`):
            Where the state of the loop, the logs of its processes and unfinished training runs are kept.
        policy (`str`, *optional*):
            The first policy, if the registry holds none: a folder or a hub id.
        serve ([`ServeSettings`], *optional*):
            The server to keep up. Without it, one runs elsewhere.
        refresh ([`LaunchSettings`], *optional*):
            `recipes/reward_refresh.py`, to keep up beside the training. Without it, the reward model is refreshed
            while the policy trains.
        evaluate (`str`, *optional*):
            YAML file of `online-trl evaluate`.
        gate ([`~online_trl.gates.PromotionThresholds`], *optional*):
            What a candidate has to show before users see it.
        canary ([`~online_trl.canary.CanarySettings`], *optional*):
            How it is tried out on some of them. Without it, a candidate that passes the gate goes into service.
        triggers ([`Triggers`], *optional*):
            When a round begins.
        budget ([`Budget`], *optional*):
            After what none does.
        retry ([`~online_trl.loop.Retry`], *optional*):
            What becomes of a step that fails.
        keep (`int`, *optional*, defaults to `0`):
            Newest versions of each role whose weights are kept, beside those in service or needed for a rollback. `0`
            keeps all.
    """

    store: str
    registry: str
    train: LaunchSettings
    output_dir: str = "outputs/loop"
    policy: str | None = None
    serve: ServeSettings | None = None
    refresh: LaunchSettings | None = None
    evaluate: str | None = None
    gate: PromotionThresholds = field(default_factory=PromotionThresholds)
    canary: CanarySettings | None = None
    triggers: Triggers = field(default_factory=Triggers)
    budget: Budget = field(default_factory=Budget)
    retry: Retry = field(default_factory=Retry)
    keep: int = 0

    def __post_init__(self) -> None:
        check_range("retry.attempts", self.retry.attempts, 1, None)
        check_range("retry.seconds", self.retry.seconds, 0.0, None)
        check_range("retry.longest", self.retry.longest, 0.0, None)
        check_range("keep", self.keep, 0, None)
        self._check_budgets(read_evaluation_settings(self.evaluate))
        if self.triggers.drift and self.refresh is None:
            raise ConfigError(
                "`triggers.drift` listens to the process that refreshes the reward model: describe it under `refresh`"
            )

    def _check_budgets(self, evaluation: EvaluationSettings) -> None:
        """A metric that has a budget and is not measured would refuse every candidate, after its training."""
        needs = (
            ("heldout_reward", evaluation.heldout_judge, "`heldout_judge`"),
            ("reward_gap", evaluation.heldout_judge, "`heldout_judge`"),
            ("reward_gap", evaluation.proxy, "`proxy_judge`"),
            ("task", evaluation.tasks, "`tasks`"),
            ("harness", evaluation.harness, "`harness`"),
            ("kl", evaluation.temperature == evaluation.top_p == 1, "`temperature` and `top_p` to 1"),
        )
        for metric, is_measured, setting in needs:
            limited = [name for name in self.gate.budgets if name.partition("/")[0] == metric]
            if limited and not is_measured:
                raise ConfigError(
                    f"`gate.budgets` limits `{limited[0]}`, which the evaluation does not measure: set {setting} in "
                    "the file that `evaluate` names"
                )
        # Which metrics a benchmark has is known when it has run.
        names = [name for name in self.gate.budgets if not name.startswith("harness/")]
        check_keys(names, [*DEFAULT_BUDGETS, *(f"task/{name}" for name in evaluation.tasks)], where="`gate.budgets`")

    @property
    def trusts_proxy_alone(self) -> bool:
        """Whether a candidate goes into service on the word of the reward model alone that it was trained on."""
        evaluation = read_evaluation_settings(self.evaluate)
        return self.canary is None and set(evaluation.judges) == {evaluation.proxy}


_PARTS: dict[str, type] = {
    "train": LaunchSettings,
    "serve": ServeSettings,
    "refresh": LaunchSettings,
    "gate": PromotionThresholds,
    "canary": CanarySettings,
    "triggers": Triggers,
    "budget": Budget,
    "retry": Retry,
}


def read_deployment(path: str | Path) -> DeploymentSettings:
    """
    Reads the YAML file of a loop.

    Args:
        path (`str` or `Path`):
            The file.

    Raises:
        [`~online_trl.config.ConfigError`]: if it cannot be read, or a name or a value in it is wrong.
    """
    content: dict[str, Any] = check_config_file(path, [DeploymentSettings])
    for name, type_ in _PARTS.items():
        if content.get(name) is not None:
            content[name] = _part(type_, name, content[name], path)
    return from_mapping(DeploymentSettings, content, where=str(path))


def _part(type_: type, name: str, content: Any, path: str | Path) -> Any:
    where = f"`{name}` of {path}"
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where} must hold a mapping of settings, not {type(content).__name__}")
    return from_mapping(type_, content, where=where)
