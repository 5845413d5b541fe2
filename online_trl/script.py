"""What the recipes share: their arguments, and the check of everything in them before a model is loaded."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from trl import GRPOConfig, ModelConfig, ScriptArguments, TrlParser

from .callbacks import StopCallback
from .checkpoint import last_complete_checkpoint
from .config import ConfigError, check_config_file
from .critic import CRITIC_FOLDER, is_saved_adapter
from .dataset_import import DatasetFormatError, import_dataset, load_hf_dataset
from .distributed import broadcast_from_main, leave_process_group
from .preferences import prompt_dataset
from .registry import ModelRegistry, RegistryError, copy_model
from .rewards.reward_trainer import save_merged
from .rewards.scorer import LiveReward
from .rewards.source_options import LIVE, find_reward_source, read_reward_sources
from .store import FeedbackStore, LogReader, StoreError, open_store
from .store.remote import PATIENCE, is_server_url
from .trainer import check_model, check_reward_config
from .types import ModelRole, Purpose


@dataclass
class OnlineScriptArguments(ScriptArguments):
    """
    Arguments of the recipes, beside the trainer's config and TRL's `ModelConfig`.

    Args:
        dataset_name (`str`, *optional*):
            Prompts to train on: a hub id, a folder written by `save_to_disk`, or a JSON or Parquet file, with a
            `prompt` column. Defaults to the prompts that users sent, from the log.
        store (`str`, *optional*):
            URL of the feedback log: its database, such as `sqlite:///feedback.db`, or the server before it on another
            machine, such as `https://chat.example.org`, with its key in the environment variable `ONLINE_TRL_API_KEY`.
        store_patience (`float`, *optional*, defaults to `300.0`):
            Seconds that training waits for that server when it has gone away, as for a restart.
        registry (`str`, *optional*):
            The model registry: a folder, or `hf://owner/name`. Needed by the live reward; the trained policy is
            published there.
        reward_funcs (`list[str]`, *optional*):
            Reward sources, weighted by `reward_weights`: `live` for the live reward model, `package.module:function`
            for a custom function, the hub id or folder of a reward model, or a name in `reward_sources`.
        reward_sources (`dict` or `str`, *optional*):
            Options of reward sources by name, such as `{"helpful": {"kind": "judge", "url": "http://127.0.0.1:8001/v1",
            "model": "Qwen/Qwen2.5-7B-Instruct"}}`; see [`~online_trl.rewards.source_options.read_reward_sources`].
        seed_preferences (`str`, *optional*):
            A preference dataset that is imported into the log first, given like `dataset_name`. Importing the same one
            again adds nothing.
        evaluation_config (`str`, *optional*):
            YAML file of an evaluation of the policy in training, see
            [`~online_trl.evaluation_settings.EvaluationSettings`]. Defaults to none.
        evaluation_steps (`int`, *optional*, defaults to `50`):
            Policy steps between two evaluations.
    """

    dataset_name: str | None = field(default=None, metadata={"help": "Prompts: hub id, folder or file."})
    store: str | None = field(
        default=None, metadata={"help": "URL of the feedback log: sqlite:///feedback.db or https://chat.example.org"}
    )
    store_patience: float = field(
        default=PATIENCE, metadata={"help": "Seconds that training waits for the server of the log."}
    )
    registry: str | None = field(default=None, metadata={"help": "The model registry: a folder, or hf://owner/name."})
    reward_funcs: list[str] = field(
        default_factory=lambda: [LIVE],
        metadata={"help": "Reward sources: `live`, a function, a reward model, or a name."},
    )
    reward_sources: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Options of reward sources by name, as JSON."}
    )
    seed_preferences: str | None = field(
        default=None, metadata={"help": "Preference dataset imported into the log first: hub id, folder or file."}
    )
    evaluation_config: str | None = field(
        default=None, metadata={"help": "YAML file of an evaluation of the policy in training."}
    )
    evaluation_steps: int = field(default=50, metadata={"help": "Policy steps between two evaluations."})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """
    A recipe's parts, checked and opened, ready to be passed to a trainer.

    Args:
        prompts (`Dataset`):
            Prompts to train on.
        eval_prompts (`Dataset`, *optional*):
            Prompts of TRL's own evaluation, if the trainer's `eval_strategy` asks for one.
        reward_funcs (`list`):
            Reward functions, in the order of the arguments.
        store ([`~online_trl.store.LogReader`], *optional*):
            The log, if it was named.
        registry ([`~online_trl.registry.ModelRegistry`], *optional*):
            The registry, if it was named.
    """

    prompts: Dataset
    eval_prompts: Dataset | None = None
    reward_funcs: list[Any]
    store: LogReader | None
    registry: ModelRegistry | None


def parse_arguments(
    config_type: type, argv: list[str] | None = None
) -> tuple[OnlineScriptArguments, Any, ModelConfig]:
    """
    Reads the command line and the YAML file behind `--config`; flags override the file.

    Args:
        config_type (`type`):
            The trainer's config class.
        argv (`list[str]`, *optional*):
            The command line. Defaults to that of the process.

    Returns:
        `tuple[OnlineScriptArguments, config_type, ModelConfig]`: The parsed arguments.

    Raises:
        [`~online_trl.config.ConfigError`]: if the file cannot be read or holds a key that none of them has.
    """
    argv = sys.argv[1:] if argv is None else argv
    types = (OnlineScriptArguments, config_type, ModelConfig)
    if "--config" in argv[:-1]:
        check_config_file(argv[argv.index("--config") + 1], types)
    script_args, training_args, model_args = TrlParser(types).parse_args_and_config(argv)
    return script_args, training_args, model_args


def prepare(script_args: OnlineScriptArguments, training_args: GRPOConfig, model_args: ModelConfig) -> Job:
    """
    Checks and opens everything that a recipe names, before any model is loaded.

    Args:
        script_args ([`OnlineScriptArguments`]), training_args (`GRPOConfig`), model_args (`ModelConfig`):
            The parsed arguments. How the model is to be loaded is put into the trainer's `model_init_kwargs`, as TRL's
            own scripts do.

    Returns:
        [`Job`]: The parts to pass to a trainer.

    Raises:
        [`~online_trl.config.ConfigError`]: if a reward source, a dataset, a column or the model does not exist.
        [`~online_trl.store.StoreError`]: if the log cannot be opened or read.
    """
    _check_script_arguments(script_args, training_args)
    training_args.model_init_kwargs = _model_init_kwargs(training_args, model_args)
    check_model("model_name_or_path", model_args.model_name_or_path, training_args.model_init_kwargs)
    check_reward_config(training_args)
    sources: dict[str, Any] = _reward_sources(script_args, training_args)
    if LIVE in script_args.reward_funcs and not (script_args.store and script_args.registry):
        raise ConfigError("the reward source `live` needs both `store` and `registry`")
    registry = ModelRegistry(script_args.registry) if script_args.registry else None
    # The main process opens the log first: it alone creates and migrates it, imports into it, and reads it.
    broadcast_from_main(lambda: _create_log(script_args))
    store = open_log(script_args.store, script_args.store_patience) if script_args.store else None
    if registry is not None:
        sources[LIVE] = LiveReward(registry)
    reward_funcs = [sources[name] for name in script_args.reward_funcs]
    prompts = broadcast_from_main(lambda: _prompts(script_args, store))
    eval_prompts = None
    if training_args.eval_strategy != "no":
        eval_prompts = broadcast_from_main(lambda: _named_prompts(script_args, script_args.dataset_test_split))
    return Job(prompts=prompts, eval_prompts=eval_prompts, reward_funcs=reward_funcs, store=store, registry=registry)


def launch(main: Callable[[], Any]) -> None:
    """
    Runs a recipe. A mistake in what it was asked ends it with one line that says so, and exit status 1.

    Args:
        main (`Callable[[], Any]`):
            The recipe.
    """
    try:
        main()
        leave_process_group()
    except (ConfigError, DatasetFormatError, StoreError, RegistryError) as error:
        sys.exit(f"error: {error}")


def run(trainer: Any, job: Job) -> str | None:
    """
    Trains, saves the policy to the trainer's output directory and, if there is a registry, publishes it there: live if
    it is the first one, a candidate otherwise. Ctrl-C leaves a checkpoint to resume from, and publishes nothing.

    Args:
        trainer (`Trainer`):
            The trainer; it resumes from `args.resume_from_checkpoint`, where `true` stands for the newest complete
            checkpoint, and `auto` for that one if there is one. Every rank calls this.
        job ([`Job`]):
            The recipe's parts.

    Returns:
        `str`, *optional*: Name of the published version.
    """
    stop = StopCallback()
    trainer.add_callback(stop)
    trainer.train(resume_from_checkpoint=_checkpoint(trainer.args))
    if stop.stopped:
        return None
    trainer.save_model(trainer.args.output_dir)
    registry = job.registry
    if registry is None:
        return None
    with _whole_policy(trainer) as folder:
        return broadcast_from_main(lambda: _publish(trainer, registry, folder))


@contextmanager
def _whole_policy(trainer: Any) -> Iterator[Path]:
    """Gives the folder of the policy as a whole model, to be served and trained on, also where it is an adapter."""
    if not is_peft_model(trainer.accelerator.unwrap_model(trainer.model)):
        yield Path(trainer.args.output_dir)
        return
    with tempfile.TemporaryDirectory(prefix="policy-") as temporary:
        folder = Path(broadcast_from_main(lambda: temporary))
        save_merged(trainer, folder)
        broadcast_from_main(lambda: _copy_critic(Path(trainer.args.output_dir), folder))
        yield folder


def _copy_critic(saved: Path, merged: Path) -> None:
    critic = saved / CRITIC_FOLDER
    # One that is an adapter is on the base as it was before the policy's was merged into it.
    if critic.is_dir() and not is_saved_adapter(critic):
        shutil.copytree(critic, merged / CRITIC_FOLDER)


def _checkpoint(args: GRPOConfig) -> str | bool | None:
    wanted: str | None = args.resume_from_checkpoint
    if wanted == "auto":
        return last_complete_checkpoint(args.output_dir)
    return True if wanted in ("true", "True") else wanted


def _publish(trainer: Any, registry: ModelRegistry, folder: Path) -> str:
    incumbent = registry.live(ModelRole.POLICY)
    known = {version.name for version in registry.versions(ModelRole.POLICY)}
    # What it was trained from, which somebody may have replaced in service meanwhile.
    start = Path(trainer.model.config._name_or_path).name
    parent = start if start in known else incumbent.name if incumbent is not None else None
    collator = trainer.online_collator
    version = registry.publish(
        ModelRole.POLICY,
        copy_model(folder),
        parent=parent,
        feedback_interval=(0, trainer.feedback_cursor) if trainer.feedback_cursor is not None else None,
        prompt_interval=(0, collator.cursor) if collator is not None else None,
        reward_versions=tuple(trainer.live_reward.versions_used) if trainer.live_reward is not None else (),
        config=changed_settings(trainer.args),
    )
    if incumbent is None:
        registry.promote(version.name, "the first policy of this registry")
    return version.name


def changed_settings(args: Any) -> dict[str, Any]:
    """
    Returns the settings that are not at their default, as far as they are plain values, for the record of a version.

    Args:
        args (`TrainingArguments`):
            Settings of a trainer.
    """
    plain = (str, int, float, bool, list, dict)
    changed = {
        each.name: getattr(args, each.name)
        for each in fields(args)
        if each.init and each.default is not MISSING and getattr(args, each.name) != each.default
    }
    return {name: value for name, value in changed.items() if type(value) in plain}


def _reward_sources(script_args: OnlineScriptArguments, training_args: GRPOConfig) -> dict[str, Any]:
    names, weights = script_args.reward_funcs, training_args.reward_weights
    if weights is not None and len(weights) != len(names):
        raise ConfigError(
            f"there are {len(weights)} `reward_weights` for {len(names)} `reward_funcs`: give one for each"
        )
    named = read_reward_sources(_as_mapping(script_args.reward_sources))
    return {name: find_reward_source(name, named) for name in names if name != LIVE}


def _as_mapping(value: dict[str, Any] | str | None) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigError(f"`reward_sources` is not valid JSON: {error}") from error
    if not isinstance(value, dict | None):
        raise ConfigError(f"`reward_sources` must be a mapping of names to options, not {type(value).__name__}")
    return value or {}


def _create_log(script_args: OnlineScriptArguments) -> None:
    url, seed = script_args.store, script_args.seed_preferences
    if url is None or is_server_url(url):
        if seed is not None:
            raise ConfigError(
                "`seed_preferences` are imported into the database of the log: name it with `store`, or run "
                "`online-trl import` where it is"
            )
        return
    with FeedbackStore(url) as store:
        if seed is not None:
            import_dataset(store, load_hf_dataset(seed))


def open_log(url: str, patience: float) -> LogReader:
    """
    Opens a log and reads from it once.

    Raises:
        [`~online_trl.store.StoreError`]: if it cannot be opened or read.
    """
    store = open_store(url, patience=patience)
    try:
        broadcast_from_main(store.latest_seq)
    except StoreError:
        store.close()
        raise
    return store


def _check_script_arguments(script_args: OnlineScriptArguments, training_args: GRPOConfig) -> None:
    if script_args.dataset_streaming:
        raise ConfigError("`dataset_streaming` is not for the recipes, which read prompts whole: leave it out")
    if training_args.eval_strategy == "no":
        return
    name = script_args.dataset_name
    if name is None or Path(name).is_file() or (Path(name) / "state.json").is_file():
        raise ConfigError(
            f"`eval_strategy` is `{training_args.eval_strategy.value}`, but "
            + ("there is no `dataset_name`" if name is None else f"the dataset `{name}` is not divided into splits")
            + ", of which `dataset_test_split` would be evaluated on: name one that is, or see `evaluation_config`"
        )


def _model_init_kwargs(training_args: GRPOConfig, model_args: ModelConfig) -> dict[str, Any]:
    named = {
        "revision": model_args.model_revision,
        "trust_remote_code": training_args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    return {**named, **(training_args.model_init_kwargs or {})}


def _named_prompts(script_args: OnlineScriptArguments, split: str) -> Dataset:
    name = str(script_args.dataset_name)
    dataset = load_hf_dataset(name, script_args.dataset_config, split)
    if "prompt" not in dataset.column_names:
        raise ConfigError(f"the dataset `{name}` has no column `prompt`; it has {', '.join(dataset.column_names)}")
    return dataset


def _prompts(script_args: OnlineScriptArguments, store: LogReader | None) -> Dataset:
    if script_args.dataset_name is not None:
        return _named_prompts(script_args, script_args.dataset_train_split)
    prompts = prompt_dataset(store.interactions(purpose=Purpose.CHAT)) if store is not None else None
    if not prompts:
        raise ConfigError("there are no prompts to train on: name a `dataset_name`, or a `store` that holds some")
    return prompts
