"""The part of a checkpoint that is the online trainers': with it, a resumed run is the run that was never stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from datasets import IterableDataset
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .callbacks import RefreshCallback
from .config import ConfigError
from .data import OnlineDataCollator
from .distributed import broadcast_from_main
from .rewards.reward_model import gathered
from .rewards.scorer import LiveReward
from .rewards.sources import RewardSources
from .types import ModelRole, VersionStatus

STATE_FILE = "online_state.json"
REFERENCE_FILE = "reference.pt"
# The last file that transformers writes into a checkpoint.
_LAST_FILE = "trainer_state.json"


class CheckpointMixin:
    """
    Saves and restores what a TRL trainer of the GRPO family does not know of.

    A resumed run goes on as if it had not stopped. Beside what transformers keeps in a checkpoint (weights, optimiser,
    random streams of each rank), `online_state.json` holds:

    - `step`: batches that were trained on; it tells where in a rollout the run was.
    - `prompts`: how far the prompts in the log were read, by the trainer and by the dataloader ahead of it.
    - `reward_sources`: the running moments of each source's rewards.
    - `rollout_log`: what the table of completions shows of the rollout under way.
    - `reward_version`, `reward_versions_used`: which version pays, and which ones did.
    - `refresh`: the feedback cursor, the step of the last refresh, and what is known of how people change.

    The statements that refreshes have learned from are read from the log again. In the middle of a rollout, each rank
    keeps its share of it in `rollout_RANK.pt`. A reference that follows the policy (`sync_ref_model`) is in
    `reference.pt`. Reward versions that a killed run made after the checkpoint are abandoned, and made again under
    other names.
    """

    args: Any
    state: Any
    accelerator: Any
    train_dataset: Any
    reward_sources: RewardSources
    live_reward: LiveReward | None
    online_collator: OnlineDataCollator | None
    refresh_callback: RefreshCallback | None
    ref_model: Any
    _step: int
    _logs: dict[str, Any]
    _buffered_inputs: Any
    _train_sampler: Any = None

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """
        Trains, as TRL's trainer does.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                Folder of a checkpoint, or `True` for the newest complete one in `output_dir`: one whose writing was
                interrupted is passed over.
            **kwargs:
                Further arguments of transformers' `Trainer.train`.

        Raises:
            [`~online_trl.config.ConfigError`]: if there is nothing to resume from.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ConfigError(f"nothing to resume from: {self.args.output_dir} holds no complete checkpoint")
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)  # type: ignore[misc]

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        self._train_sampler = super()._get_train_sampler(*args, **kwargs)  # type: ignore[misc]
        return self._train_sampler

    def _save_rng_state(self, output_dir: str) -> None:
        # The last that every rank writes. transformers' own last file, which says that the checkpoint is complete,
        # comes after it, and must not come before another rank is done.
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        folder = Path(output_dir)
        if not self._at_rollout_end:
            torch.save(self._buffered_inputs, folder / self._rollout_file)
        if self._moves_reference:
            reference = self.accelerator.unwrap_model(self.ref_model)
            with gathered(list(reference.parameters())):
                if self.args.should_save:
                    torch.save(reference.state_dict(), folder / REFERENCE_FILE)
        if self.args.should_save:
            (folder / STATE_FILE).write_text(json.dumps(self._online_state()), encoding="utf-8")
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        if not (folder / STATE_FILE).is_file():
            raise ConfigError(
                f"{folder} holds no {STATE_FILE}: it was not written by an online trainer, or with `save_only_model`"
            )
        self._load_online_state(json.loads((folder / STATE_FILE).read_text(encoding="utf-8")))
        if (folder / self._rollout_file).is_file():
            rollout = torch.load(folder / self._rollout_file, map_location="cpu", weights_only=True)
            self._buffered_inputs = send_to_device(rollout, self.args.device)
        if self._moves_reference:
            if not (folder / REFERENCE_FILE).is_file():
                raise ConfigError(
                    "the checkpoint was written without `sync_ref_model`: resume without it, or start anew"
                )
            reference = self.accelerator.unwrap_model(self.ref_model)
            with gathered(list(reference.parameters()), written_by=0):
                reference.load_state_dict(torch.load(folder / REFERENCE_FILE, map_location="cpu", weights_only=True))
        if self._train_sampler is not None:
            # It shuffles anew for each epoch, and goes on from where its random stream is.
            for _ in range(int(self.state.epoch)):
                next(iter(self._train_sampler), None)

    @property
    def _moves_reference(self) -> bool:
        return getattr(self.args, "sync_ref_model", False) and self.ref_model is not None

    @property
    def _rollout_file(self) -> str:
        return f"rollout_{self.args.process_index}.pt"

    def _online_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"step": self._step, "cut": self._cut}
        state["reward_sources"] = self.reward_sources.state_dict()
        state["rollout_log"] = self._rollout_log()
        if self.online_collator is not None:
            state["prompts"] = self.online_collator.state_at(batches=self._step)
        if self.live_reward is not None:
            state["reward_version"] = self.live_reward.version
            state["reward_versions_used"] = self.live_reward.versions_used
        if self.refresh_callback is not None:
            state["refresh"] = self.refresh_callback.state_dict()
        return state

    def _rollout_log(self) -> dict[str, Any]:
        """What the table of completions shows of the rollout under way; of one with images, nothing."""
        if self._at_rollout_end or self._logs["images"]:
            return {}
        names = ("prompt", "completion", "rewards", "advantages", "extra")
        logged = {name: _as_lists(self._logs[name]) for name in names}
        # A function may log what is no JSON; the table shows it as a text.
        plain: dict[str, Any] = json.loads(json.dumps(logged, default=str))
        return plain

    @property
    def _at_rollout_end(self) -> bool:
        return self._step % (self.args.steps_per_generation * self.args.num_iterations) == 0

    @property
    def _cut(self) -> dict[str, int]:
        """What decides which rank trains on what of a rollout, and when the next one is made."""
        names = ("world_size", "steps_per_generation", "num_iterations", "generation_batch_size")
        return {name: getattr(self.args, name) for name in names}

    def _check_same_parts(self, state: dict[str, Any]) -> None:
        """Finds out now, on every rank, that a run shall go on with other parts than it had."""
        now = self._cut
        changed = [f"`{name}` {was}, not {now[name]}" for name, was in state["cut"].items() if was != now[name]]
        if changed:
            raise ConfigError(f"the checkpoint was written with {', '.join(changed)}: resume with what it had")
        parts = {
            "prompts": (self.online_collator, "a `store`"),
            "reward_version": (self.live_reward, "a live reward"),
            "refresh": (self.refresh_callback, "a live reward that it refreshes"),
        }
        for name, (part, what) in parts.items():
            if part is not None and name not in state:
                raise ConfigError(f"the checkpoint was written without {what}: resume without it, or start anew")

    def _load_online_state(self, state: dict[str, Any]) -> None:
        self._check_same_parts(state)
        self._step = state["step"]
        self.reward_sources.load_state_dict(state["reward_sources"])
        for name, logged in state["rollout_log"].items():
            _fill(self._logs[name], logged)
        if self.online_collator is not None:
            # transformers takes a streamed dataset from its beginning, and an ordinary one from where the run was.
            streamed = isinstance(self.train_dataset, IterableDataset) and not self.args.ignore_data_skip
            self.online_collator.go_to(
                state["prompts"], batches=self._step, fetched_again=self._step if streamed else 0
            )
        if self.live_reward is not None:
            self.live_reward.load(state["reward_version"])
            self.live_reward.versions_used = state["reward_versions_used"]
        if self.refresh_callback is not None:
            self.refresh_callback.load_state_dict(state["refresh"])
            upto = self.refresh_callback.schedule.feed.cursor
            # Whoever only follows must not undo what somebody else put into service.
            broadcast_from_main(lambda: self._go_back_to(state["reward_version"], upto))

    def _go_back_to(self, version: str, upto: int) -> None:
        """Makes the checkpoint's reward version live again and abandons those that a killed run made after it."""
        registry = self.live_reward.registry  # type: ignore[union-attr]
        live = registry.live(ModelRole.REWARD)
        if live is None or live.name != version:
            registry.promote(version, "a run was resumed from the checkpoint that used it")
        for later in registry.versions(ModelRole.REWARD):
            interval = later.feedback_interval
            orphaned = interval is not None and interval[1] > upto
            if orphaned and later.status is not VersionStatus.ABANDONED:
                registry.abandon(later.name, "left behind by a run that was resumed from an earlier checkpoint")


def _as_lists(logged: Any) -> Any:
    return {name: list(column) for name, column in logged.items()} if isinstance(logged, dict) else list(logged)


def _fill(column: Any, logged: Any) -> None:
    if isinstance(logged, dict):
        for name, values in logged.items():
            _fill(column[name], values)
    else:
        column.clear()
        column.extend(logged)


def last_complete_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """
    Finds the newest checkpoint that was written to its end.

    Args:
        output_dir (`str`):
            The trainer's output directory.

    Returns:
        `str`, *optional*: The checkpoint's folder, or `None`.
    """
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    complete = [folder for folder in folders if (folder / STATE_FILE).is_file() and (folder / _LAST_FILE).is_file()]
    newest = max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
    return str(newest) if newest is not None else None
