"""The arguments of `recipes/reward_refresh.py`, and the check of everything in them before a model is loaded."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from accelerate import PartialState
from trl import ModelConfig, TrlParser, get_peft_config

from .config import ConfigError, RefreshArguments, check_config_file, check_range
from .data import PreferenceFeed
from .distributed import broadcast_from_main
from .registry import ModelRegistry
from .rewards.outcome import RefreshOutcome
from .rewards.refresh import RewardRefresher, learned_upto
from .rewards.reward_trainer import OnlineRewardConfig
from .rewards.schedule import RefreshSchedule
from .rewards.scorer import LiveReward
from .script import open_log
from .store.remote import PATIENCE
from .trainer import check_model
from .types import ModelRole


@dataclass
class RefreshScriptArguments(RefreshArguments):
    """
    Arguments of `recipes/reward_refresh.py`, beside [`~online_trl.rewards.reward_trainer.OnlineRewardConfig`] and
    TRL's `ModelConfig`.

    Args:
        store (`str`):
            URL of the feedback log: its database, or the server before it on another machine.
        store_patience (`float`, *optional*, defaults to `300.0`):
            Seconds to wait for that server when it has gone away, as for a restart.
        registry (`str`):
            The model registry, where versions are published: a folder, or `hf://owner/name`.
        pause (`float`, *optional*, defaults to `5.0`):
            Seconds between two looks at the log.
        max_refreshes (`int`, *optional*, defaults to `0`):
            Ends it after so many refreshes; 0 goes on until stopped.
    """

    store: str | None = field(
        default=None, metadata={"help": "URL of the feedback log: sqlite:///feedback.db or https://chat.example.org"}
    )
    store_patience: float = field(default=PATIENCE, metadata={"help": "Seconds to wait for the server of the log."})
    registry: str | None = field(default=None, metadata={"help": "The model registry: a folder, or hf://owner/name."})
    pause: float = field(default=5.0, metadata={"help": "Seconds between two looks at the log."})
    max_refreshes: int = field(default=0, metadata={"help": "Ends it after so many refreshes; 0: never."})

    def __post_init__(self) -> None:
        self.check_refresh_arguments()
        for name in ("store_patience", "pause", "max_refreshes"):
            check_range(name, getattr(self, name), 0, None)


def prepare_refresh(argv: list[str] | None = None) -> tuple[RefreshScriptArguments, RefreshSchedule]:
    """
    Reads the command line, checks and opens everything that it names, and wires it.

    Args:
        argv (`list[str]`, *optional*):
            The command line. Defaults to that of the process.

    Returns:
        `tuple[RefreshScriptArguments, RefreshSchedule]`: The arguments and what refreshes the model.

    Raises:
        [`~online_trl.config.ConfigError`]: if something is missing or does not exist.
        [`~online_trl.store.StoreError`]: if the log cannot be opened or read.
    """
    argv = sys.argv[1:] if argv is None else argv
    PartialState()  # the ranks find each other before one of them reads for all
    script_args, reward_args, model_args = _parse(argv)
    if not (script_args.store and script_args.registry):
        raise ConfigError("a refresh needs both `store`, where feedback comes from, and `registry`, where versions go")
    check_model("model_name_or_path", model_args.model_name_or_path)
    store = open_log(script_args.store, script_args.store_patience)
    registry = ModelRegistry(script_args.registry)
    live = LiveReward(registry, device=reward_args.device, pessimism=script_args.reward_pessimism)
    version = broadcast_from_main(lambda: live.registry.live(ModelRole.REWARD))
    if version is not None:
        live.load(version.name)
    feed = PreferenceFeed(store, broadcast=broadcast_from_main)
    feed.cursor = broadcast_from_main(lambda: learned_upto(live.registry))
    refresher = RewardRefresher(
        live,
        base_model=model_args.model_name_or_path,
        make_args=lambda: _parse(argv)[1],
        settings=script_args,
        peft_config=get_peft_config(model_args),
        broadcast=broadcast_from_main,
        seed=reward_args.seed,
    )
    schedule = RefreshSchedule(
        feed,
        refresher,
        rows=script_args.refresh_rows,
        on_drift=script_args.refresh_on_drift,
        min_statements=script_args.refresh_min_statements,
        on_refresh=_announce,
    )
    return script_args, schedule


def _parse(argv: list[str]) -> tuple[RefreshScriptArguments, OnlineRewardConfig, ModelConfig]:
    types: tuple[Any, ...] = (RefreshScriptArguments, OnlineRewardConfig, ModelConfig)
    if "--config" in argv[:-1]:
        check_config_file(argv[argv.index("--config") + 1], types)
    parsed: tuple[RefreshScriptArguments, OnlineRewardConfig, ModelConfig] = TrlParser(types).parse_args_and_config(
        argv
    )
    return parsed


def _announce(outcome: RefreshOutcome) -> None:
    if PartialState().is_main_process:
        print(f"{outcome.version} {outcome.decision.reason} ({outcome.seconds:.1f} s)", flush=True)
