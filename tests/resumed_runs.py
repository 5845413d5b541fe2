"""
Runs of both trainers, to be compared: one that goes straight on, one that is killed, and one that resumes what is left
of it: `resumed_runs.py MODEL FOLDER PORT...`, as it is or on several processes.

All see the same feedback arrive at the same step. Each run is a process of its own, and they are forked when all is
imported, since importing takes longer than a run.
"""

import gc
import os
import signal
import sys
import traceback
from datetime import datetime, timedelta, timezone
from pathlib import Path

import alembic.context  # noqa: F401
from datasets import Dataset
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parent))

from online_trl.registry import ModelRegistry
from online_trl.rewards.scorer import LiveReward
from online_trl.rewards.sources import RewardSource
from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind, Interaction
from trainer_runs import REWARD, TRAINERS, brevity, make

STEPS, KILLED_AFTER = 12, 8
BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
# A rollout lasts two steps an iteration, and an epoch two rollouts. With two iterations, the checkpoint of step 6 lies
# in the middle of a rollout; with one, in the second epoch, when the dataloader has drawn the next rollout's prompts.
ITERATIONS = {("grpo", 1): 2, ("ppo", 1): 1, ("grpo", 2): 1, ("ppo", 2): 2}
SETTINGS = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 2,
    "gradient_accumulation_steps": 1,
    "save_strategy": "steps",
    "save_steps": 6,
    "refresh_steps": 4,
    "refresh_min_statements": 4,
    "reward_config": REWARD,
    "log_completions": True,
    "num_completions_to_print": 0,
}


class RecordedLog(FeedbackStore):
    """A log that ends where it had come to at the step that a run is at, whatever was written later."""

    arrived = 0

    def latest_seq(self):
        return self.arrived


class Arrivals(TrainerCallback):
    """Lets feedback arrive at each step: the same, under the same ids, whenever a run comes to that step."""

    def __init__(self, store):
        self.store = store

    def on_train_begin(self, args, state, control, **kwargs):
        self._write(state)

    def on_step_end(self, args, state, control, **kwargs):
        self._write(state)

    def _write(self, state):
        if state.is_world_process_zero:
            self.store.arrived = write_comparisons(self.store, state.global_step, 6 if state.global_step else 40)


class Kill(TrainerCallback):
    """Kills its process after a refresh, before the checkpoint that follows it."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == KILLED_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)


def write_comparisons(store, step, count):
    """Adds comparisons in which the answer `yes` wins over `no`; returns the `seq` of the last one."""
    for number in range(count):
        key, said_at = f"{step}-{number}", BEGIN + timedelta(minutes=step, seconds=number)
        user = f"user-{number % 7}"
        answers = [
            Interaction(
                prompt=[{"role": "user", "content": f"question {key}"}],
                completion=[{"role": "assistant", "content": f"{text} {number}"}],
                policy_version="policy-0001",
                session_id=f"session-{key}",
                user_id=user,
                created_at=said_at,
                interaction_id=f"{text}-{key}",
            )
            for text in ("yes", "no")
        ]
        store.add_interactions(answers)
        comparison = Feedback(
            kind=FeedbackKind.COMPARISON,
            interaction_ids=[answer.interaction_id for answer in answers],
            value="first",
            user_id=user,
            created_at=said_at,
            feedback_id=f"comparison-{key}",
        )
        stored = store.add_feedback(comparison)
    return stored.seq


def train(kind, model, folder, *, killed=False, resumed=False):
    store = RecordedLog(f"sqlite:///{folder / 'log.db'}")
    rewards = [LiveReward(ModelRegistry(folder / "registry")), RewardSource(reward=brevity, normalise="running")]
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    per_rollout = 8 * ranks // (4 if kind == "grpo" else 1)
    prompts = [{"prompt": [{"role": "user", "content": f"seed {index}"}]} for index in range(per_rollout * 5 // 2)]
    trainer = make(
        kind,
        model,
        folder / "out",
        rewards,
        Dataset.from_list(prompts),
        store=store,
        callbacks=[Arrivals(store)],
        num_iterations=ITERATIONS[kind, ranks],
        **SETTINGS,
    )
    if killed:
        trainer.add_callback(Kill())
    trainer.train(resume_from_checkpoint=resumed or None)
    store.close()


def forked(port, run, *args, **kwargs):
    """Runs a function in a process of its own, where ranks find each other at a port of their own; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
    try:
        run(*args, **kwargs)
    except BaseException:  # noqa: BLE001  nothing of the parent's may run in the child
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(model, folder, ports):
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed  # noqa: F401
    gc.freeze()  # whatever trains collects garbage, and goes through all that was imported
    for kind in TRAINERS:
        straight, stopped = folder / kind / "straight", folder / kind / "stopped"
        for path in (straight, stopped):
            path.mkdir(parents=True, exist_ok=True)
        assert forked(next(ports), train, kind, model, straight) == 0
        assert forked(next(ports), train, kind, model, stopped, killed=True) == signal.SIGKILL
        assert forked(next(ports), train, kind, model, stopped, resumed=True) == 0


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), map(int, sys.argv[3:]))
