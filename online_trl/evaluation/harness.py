"""Benchmarks of EleutherAI's lm-evaluation-harness, run through its own Python API."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from ..config import ConfigError, check_range, suggestion
from ..types import Estimate

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessOptions:
    """
    Which benchmarks to run, under the names of `lm_eval.simple_evaluate`.

    Args:
        tasks (`list[str]`):
            Names of tasks or groups.
        include_path (`str`, *optional*):
            Folder with task files of one's own.
        include_defaults (`bool`, *optional*, defaults to `True`):
            Whether the harness's own tasks are known too; to look through them takes some seconds.
        num_fewshot (`int`, *optional*):
            Examples before each question. Defaults to what the task says.
        limit (`int`, *optional*):
            Questions of each task. Defaults to all.
        batch_size (`int`, *optional*, defaults to `8`):
            Questions at once.
        apply_chat_template (`bool`, *optional*, defaults to `False`):
            Whether questions are put as a chat.

    Raises:
        [`~online_trl.config.ConfigError`]: if no task is named, or a number is out of bounds.
    """

    tasks: list[str]
    include_path: str | None = None
    include_defaults: bool = True
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 8
    apply_chat_template: bool = False

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("`tasks` names no benchmark")
        for name, least in (("num_fewshot", 0), ("limit", 1), ("batch_size", 1)):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name), least, None)


def check_harness(options: HarnessOptions) -> None:
    """
    Checks that the harness is installed and knows the tasks; loads neither a model nor a dataset.

    Raises:
        [`~online_trl.config.ConfigError`]: if it is not, or it does not.
    """
    manager = _task_manager(options.include_path, options.include_defaults)
    for name in options.tasks:
        if not manager.match_tasks([name]):
            raise ConfigError(f"lm-evaluation-harness has no task `{name}`{suggestion(name, manager.all_tasks)}")


def run_harness(model: Any, tokenizer: Any, options: HarnessOptions, *, seed: int = 0) -> dict[str, Estimate]:
    """
    Runs the benchmarks on a loaded model.

    Args:
        model (`PreTrainedModel`), tokenizer (`PreTrainedTokenizerBase`):
            A causal language model and its tokenizer.
        options ([`HarnessOptions`]):
            Which benchmarks.
        seed (`int`, *optional*, defaults to `0`):
            Seed of what is drawn, such as few-shot examples.

    Returns:
        `dict[str, Estimate]`: `TASK/METRIC` to its value, of metrics of which more is better, with the interval of the
        standard error that the harness reports, where it does.
    """
    manager = _task_manager(options.include_path, options.include_defaults)
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    results = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch_size),
        tasks=list(options.tasks),
        num_fewshot=options.num_fewshot,
        limit=options.limit,
        apply_chat_template=options.apply_chat_template,
        task_manager=manager,
        log_samples=False,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    # On other ranks than the first there are no results.
    return {} if results is None else _estimates(results)


@functools.lru_cache(maxsize=1)
def _task_manager(include_path: str | None, include_defaults: bool) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError("`harness` needs lm-evaluation-harness: `pip install online-trl[lm-eval]`") from error
    return TaskManager(include_path=include_path, include_defaults=include_defaults)


def _estimates(results: dict[str, Any]) -> dict[str, Estimate]:
    found = {}
    for task, values in results["results"].items():
        count = results["n-samples"].get(task, {}).get("effective", 0)
        for key, value in values.items():
            metric, _, of_filter = key.partition(",")
            if not results["higher_is_better"].get(task, {}).get(metric):
                continue
            error = values.get(f"{metric}_stderr,{of_filter}")
            half = _Z * error if isinstance(error, int | float) else float("nan")
            name = f"{task}/{metric}" if of_filter == "none" else f"{task}/{metric},{of_filter}"
            found[name] = Estimate(float(value), value - half, value + half, count)
    return found
