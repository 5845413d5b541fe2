"""What `online-trl evaluate`, the recipes and the loop need for an evaluation, checked before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers

from .callbacks import EvaluateCallback
from .config import ConfigError, check_choice, check_range
from .dataset_import import load_hf_dataset
from .distributed import broadcast_from_main
from .estimates import share_estimate
from .evaluation.evaluator import Evaluator
from .evaluation.harness import check_harness
from .evaluation.reward_quality import RewardQuality, reward_quality
from .evaluation.tasks import Task
from .evaluation_settings import EvaluationSettings, TaskOptions, read_evaluation_settings
from .lineage import feedback_behind, ingredients
from .local_policies import LocalPolicies
from .preferences import read_preferences
from .registry import ModelRegistry, RegistryError
from .rewards.functions import load_reward_function
from .rewards.judgement import mean_scores
from .rewards.nesting import nested_trainer
from .rewards.pairwise_judge import PairwiseJudge
from .rewards.scorer import LiveReward, RewardScorer
from .rewards.source_options import LIVE, PAIRWISE_KINDS, find_reward_source, read_reward_sources
from .script import Job, OnlineScriptArguments
from .serving.generation import Sampling
from .store import LogReader
from .types import AccuracyPoint, Message, ModelRole, ModelVersion, PolicyEvaluation, Purpose, Statement

# The newest so many held-out statements say how right the reward model is.
_STATEMENTS = 2000

Progress = Callable[[str, int, int], None]


class Evaluation:
    """
    An evaluation of the policies of a registry, checked and ready to run. Loads no model until it is asked to measure.

    Args:
        settings ([`~online_trl.evaluation_settings.EvaluationSettings`]):
            How to evaluate.
        registry ([`~online_trl.registry.ModelRegistry`]):
            The versions; the one in service and the oldest are what others are compared with.
        store ([`~online_trl.store.LogReader`], *optional*):
            The log, for prompts and for the accuracy of the reward model.
        live_reward ([`~online_trl.rewards.scorer.LiveReward`], *optional*):
            The reward of a trainer, which judges as `live`. Defaults to the version in service.
        progress (`Callable[[str, int, int], None]`, *optional*):
            Called with what is being done, how much of it is done, and how much there is.

    Raises:
        [`~online_trl.config.ConfigError`]: if something that the settings name does not exist, or the held-out judge
            has paid a policy that the registry serves.
    """

    def __init__(
        self,
        settings: EvaluationSettings,
        registry: ModelRegistry,
        store: LogReader | None = None,
        *,
        live_reward: LiveReward | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.store = store
        self.live_reward = live_reward
        self.progress = progress
        self.harness = settings.harness_options
        check_trackers(settings.report_to)
        if self.harness is not None:
            check_harness(self.harness)
        if live_reward is not None:
            self._check_heldout(registry.live(ModelRole.REWARD))
        self._judges = {name: self._find_judge(name) for name in settings.judges}
        self._tasks = [_task(name, options) for name, options in settings.task_options.items()]
        self._prompts = broadcast_from_main(self._find_prompts)

    def evaluate(self, name: str) -> PolicyEvaluation:
        """
        Measures a policy version.

        Args:
            name (`str`):
                Its name in the registry.

        Raises:
            [`~online_trl.registry.RegistryError`]: if there is none of that name.
            [`~online_trl.config.ConfigError`]: if the held-out judge has paid it.
        """
        self.check_version(name)
        return self.evaluator.evaluate(self.policies.version(name))

    def evaluate_folder(self, name: str, folder: Path) -> PolicyEvaluation:
        """
        Measures a saved model, such as a copy of one in training, and leaves no trace in the process.

        Args:
            name (`str`):
                What to call it, which no other has been called.
            folder (`Path`):
                Where it is.
        """
        with nested_trainer():
            return self.evaluator.evaluate(self.policies.folder(name, folder))

    def check_version(self, name: str) -> None:
        """Finds a mistake in the name of a version, or in who judges it, before anything is loaded."""
        self._check_heldout(self.registry.get(name))

    @cached_property
    def policies(self) -> LocalPolicies:
        """Loads policies, and lets them answer."""
        settings = self.settings
        sampling = Sampling(
            temperature=settings.temperature, top_p=settings.top_p, max_tokens=settings.max_completion_length
        )
        return LocalPolicies(self.registry, sampling, seed=settings.seed, harness=self.harness, device=settings.device)

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator, with the callables and the data that the settings name."""
        versions = self.registry.versions(ModelRole.POLICY)
        live = self.registry.live(ModelRole.POLICY)
        return Evaluator(
            prompts=self._prompts,
            judges={name: judge for name, judge in self._judges.items() if not isinstance(judge, PairwiseJudge)},
            pairwise_judges={
                name: judge.compare for name, judge in self._judges.items() if isinstance(judge, PairwiseJudge)
            },
            live=self.policies.version(live.name) if live is not None else None,
            base=self.policies.version(versions[0].name) if versions else None,
            proxy=self.settings.proxy,
            heldout=self.settings.heldout_judge,
            main_judge=self.settings.main_judge,
            reference_logprobs=self.policies.logprobs(versions[0].name) if versions else None,
            tasks=self._tasks,
            measure_reward=self._measure_reward if self.store is not None and LIVE in self._judges else None,
            refusal_pattern=self.settings.refusal_pattern,
            batch_size=self.settings.batch_size,
            settings=asdict(self.settings),
            progress=self.progress,
        )

    def _check_heldout(self, version: ModelVersion | None) -> None:
        heldout = self.settings.heldout_judge
        made_of = ingredients(self.registry, version.name) if version is not None else []
        if version is not None and heldout in {ingredient.version.name for ingredient in made_of}:
            raise ConfigError(
                f"the held-out judge `{heldout}` took part in making {version.name}; name one that did not"
            )

    def _find_judge(self, name: str) -> Any:
        if name == LIVE:
            return self.live_reward or _ModelJudge(*self._reward_version(None), device=self.settings.device)
        if name in {version.name for version in self.registry.versions(ModelRole.REWARD)}:
            return _ModelJudge(*self._reward_version(name), device=self.settings.device)
        named = read_reward_sources(self.settings.reward_sources, kinds=PAIRWISE_KINDS)
        reward = find_reward_source(name, named).reward
        return _ModelJudge(name, reward, device=self.settings.device) if isinstance(reward, str) else reward

    def _reward_version(self, name: str | None) -> tuple[str, str]:
        if name is None:
            live = self.registry.live(ModelRole.REWARD)
            if live is None:
                raise ConfigError(
                    f"the judge `{LIVE}` has no version in {self.registry.location}; leave it out of `judges`"
                )
            name = live.name
        return name, str(self.registry.path(name))

    def _find_prompts(self) -> list[list[Message]]:
        settings = self.settings
        if settings.dataset_name is not None:
            rows = _rows(settings.dataset_name, settings.dataset_config, settings.dataset_split, settings.num_prompts)
            return Task(name="prompts", rows=rows, reward=lambda **batch: []).conversations
        prompts = _newest_prompts(self.store, settings.num_prompts) if self.store is not None else []
        if not prompts:
            raise ConfigError("there are no prompts to evaluate on: name a `dataset_name`, or a log that holds some")
        return prompts

    def _measure_reward(self) -> RewardQuality:
        judge = self._judges[LIVE]
        scorer, version = judge.scorer, str(judge.version)
        assert self.store is not None
        statements = heldout_statements(self.store, self.registry, version)
        scores = mean_scores(scorer, statements) if statements else []
        return reward_quality(version, statements, scores, by_version=accuracy_by_version(self.registry))


class _ModelJudge:
    """A reward model as a reward function; loaded when it is first asked."""

    def __init__(self, version: str, path: str, *, device: str | None) -> None:
        self.version = version
        self._path = path
        self._device = device

    @cached_property
    def scorer(self) -> RewardScorer:
        import torch

        return RewardScorer(self._path, device=self._device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def __call__(self, prompts: list[list[Message]], completions: list[list[Message]], **columns: Any) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return self.scorer.scores([prompt + completion for prompt, completion in pairs]).tolist()


def heldout_statements(store: LogReader, registry: ModelRegistry, version: str) -> list[Statement]:
    """
    Returns the newest statements of the log that neither a reward version nor any that it began with was trained on.

    Args:
        store ([`~online_trl.store.LogReader`]):
            The log.
        registry ([`~online_trl.registry.ModelRegistry`]):
            The versions.
        version (`str`):
            The reward version.
    """
    learned = feedback_behind(ingredients(registry, version)).feedback_ids
    statements = read_preferences(store, after=0, upto=store.latest_seq()).statements
    unseen = [statement for statement in statements if learned.isdisjoint(statement.feedback_ids)]
    return sorted(unseen, key=lambda statement: statement.seq)[-_STATEMENTS:]


def accuracy_by_version(registry: ModelRegistry) -> list[AccuracyPoint]:
    """Returns how each reward version of a registry did on held-out statements when it was published, oldest first."""
    return [
        AccuracyPoint(
            version.name,
            share_estimate(version.metrics["reward_accuracy"], int(version.metrics["heldout_statements"])),
        )
        for version in registry.versions(ModelRole.REWARD)
        if {"reward_accuracy", "heldout_statements"} <= version.metrics.keys()
    ]


def newest_policy(registry: ModelRegistry) -> str:
    """
    Returns the newest policy version of a registry.

    Raises:
        [`~online_trl.registry.RegistryError`]: if there is none.
    """
    versions = registry.versions(ModelRole.POLICY)
    if not versions:
        raise RegistryError(f"the registry {registry.location} has no policy to evaluate")
    return versions[-1].name


def add_evaluation(trainer: Any, script_args: OnlineScriptArguments, evaluation: Evaluation | None) -> None:
    """
    Lets a trainer evaluate its policy every `evaluation_steps`.

    Args:
        trainer (`Trainer`):
            The trainer.
        script_args ([`~online_trl.script.OnlineScriptArguments`]):
            The arguments of its recipe.
        evaluation ([`Evaluation`], *optional*):
            What [`prepare_evaluation`] returned.
    """
    if evaluation is not None:
        callback = EvaluateCallback(trainer, evaluation.evaluate_folder, steps=script_args.evaluation_steps)
        trainer.add_callback(callback)


def prepare_evaluation(script_args: OnlineScriptArguments, job: Job) -> Evaluation | None:
    """
    Checks the evaluation that a recipe asks for, before any model is loaded.

    Args:
        script_args ([`~online_trl.script.OnlineScriptArguments`]):
            The arguments of the recipe.
        job ([`~online_trl.script.Job`]):
            Its parts.

    Returns:
        [`Evaluation`], *optional*: `None` if it asks for none.

    Raises:
        [`~online_trl.config.ConfigError`]: if something in it is wrong, or there is no registry.
    """
    if script_args.evaluation_config is None:
        return None
    if job.registry is None:
        raise ConfigError("`evaluation_config` needs a `registry`, whose policies the new one is compared with")
    check_range("evaluation_steps", script_args.evaluation_steps, 1, None)
    live = next((reward for reward in job.reward_funcs if isinstance(reward, LiveReward)), None)
    settings = read_evaluation_settings(script_args.evaluation_config)
    return Evaluation(settings, job.registry, job.store, live_reward=live)


def check_trackers(names: Sequence[str]) -> None:
    """
    Checks that trackers can be logged to.

    Raises:
        [`~online_trl.config.ConfigError`]: if accelerate does not know one, or its package is not installed.
    """
    available = [str(tracker) for tracker in get_available_trackers()]
    for name in names:
        check_choice("report_to", name, available)


def log_to_trackers(evaluation: PolicyEvaluation, trackers: Iterable[str | GeneralTracker]) -> None:
    """
    Logs the figures of an evaluation below `eval/`, at the number of the version.

    Args:
        evaluation ([`~online_trl.types.PolicyEvaluation`]):
            The evaluation.
        trackers (`Iterable[str | GeneralTracker]`):
            Trackers as accelerate takes them in `log_with`.
    """
    accelerator = Accelerator(log_with=list(trackers), project_dir=".")
    accelerator.init_trackers("online-trl")
    figures = {f"eval/{name}": value for name, value in evaluation.scalars.items()}
    accelerator.log(figures, step=int(evaluation.policy_version.rpartition("-")[2]))
    accelerator.end_training()


def _task(name: str, options: TaskOptions) -> Task:
    reward = load_reward_function(options.reward_func)
    rows = _rows(options.dataset_name, options.dataset_config, options.dataset_split, options.num_prompts)
    return Task(name=name, rows=rows, reward=reward)


def _rows(name: str, config: str | None, split: str, count: int | None) -> list[Mapping[str, Any]]:
    dataset = load_hf_dataset(name, config, split)
    if "prompt" not in dataset.column_names:
        raise ConfigError(f"the dataset `{name}` has no column `prompt`; it has {', '.join(dataset.column_names)}")
    if not len(dataset):
        raise ConfigError(f"the dataset `{name}` (split `{split}`) has no rows")
    rows: list[Mapping[str, Any]] = dataset.select(range(min(len(dataset), count or len(dataset)))).to_list()
    return rows


def _newest_prompts(store: LogReader, count: int) -> list[list[Message]]:
    found: dict[str, list[Message]] = {}
    for purpose in (Purpose.EVALUATION, Purpose.CHAT):
        for row in store.interactions(purpose=purpose, newest_first=True, limit=8 * count, tokens=False):
            found.setdefault(json.dumps(row.prompt, sort_keys=True), row.prompt)
    return list(found.values())[:count]
