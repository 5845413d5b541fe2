"""
Kills a process at every moment of a change to a registry in turn, and looks at what it left.

Run as `python killing.py FOLDER CHANGE`. What lies on the disk changes by operations on files alone, so a moment is
just before each of those, and the middle of each write. A fork dies there by SIGKILL; prints how often.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from datetime import datetime, timezone
from pathlib import Path

from online_trl.registry import ModelRegistry
from online_trl.types import EvaluationRecord, ModelRole
from registry.publishing import publish, weights

_OPERATIONS = ("open", "os.", "shutil.", "fcntl.")


def prepare(registry: ModelRegistry) -> None:
    for _ in range(5):
        publish(registry)
    for name in ("policy-0001", "policy-0002", "policy-0003"):
        registry.promote(name, "better")
    registry.record_evaluation("policy-0003", EvaluationRecord("kl", datetime.now(timezone.utc), {"kl": 1.0}))


CHANGES = {
    "publish": lambda registry: registry.publish(ModelRole.POLICY, weights()),
    "promote": lambda registry: registry.promote("policy-0004", "better"),
    "rollback": lambda registry: registry.rollback(ModelRole.POLICY, "worse"),
    "canary": lambda registry: registry.start_canary("policy-0004", 0.1),
    "record": lambda registry: registry.record_evaluation(
        "policy-0003", EvaluationRecord("win_rate", datetime.now(timezone.utc), {"mean": 0.6})
    ),
    "prune": lambda registry: registry.prune(ModelRole.POLICY, keep=1),
}


def seen(registry: ModelRegistry) -> tuple[object, ...]:
    """What readers see; whatever is not whole raises."""
    versions = registry.versions(ModelRole.POLICY)
    for version in versions:
        if version.pruned_at is None:
            registry.verify(version.name)
    live = registry.live(ModelRole.POLICY)
    return (
        [(version.name, version.status, version.reason, version.pruned_at is None) for version in versions],
        live and live.name,
        len(registry.history(ModelRole.POLICY)),
        registry.canary() is not None,
        [record.kind for record in registry.evaluations("policy-0003")],
    )


class Killer:
    """Ends the process by SIGKILL at the n-th moment."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def arm(self) -> None:
        write = Path.write_text

        def write_in_two(path: Path, text: str, encoding: str | None = None) -> None:
            write(path, text[: len(text) // 2], encoding=encoding)
            self.tick()
            write(path, text, encoding=encoding)

        Path.write_text = write_in_two
        sys.addaudithook(lambda event, _: self.tick() if event.startswith(_OPERATIONS) else None)

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def survives(folder: Path, change: str, moment: int) -> bool:
    """Returns whether the change was over before the moment came."""
    child = os.fork()
    if child == 0:
        Killer(moment).arm()
        CHANGES[change](ModelRegistry(folder))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, f"the change failed: {status}"
    return not os.WIFSIGNALED(status)


def main(root: Path, change: str) -> None:
    original, folder = root / "original", root / "registry"
    prepare(ModelRegistry(original))
    before = seen(ModelRegistry(original))
    shutil.copytree(original, folder)
    CHANGES[change](ModelRegistry(folder))
    after = seen(ModelRegistry(folder))
    assert before != after
    outcomes, moment = [], 0
    done = False
    while not done:
        moment += 1
        shutil.rmtree(folder)
        shutil.copytree(original, folder)
        done = survives(folder, change, moment)
        registry = ModelRegistry(folder)
        found = seen(registry)
        assert found in (before, after), f"killed at moment {moment}: {found}"
        outcomes.append(found == after)
        # Whoever comes next is not hindered, and clears up.
        publish(registry)
        registry.prune(ModelRole.POLICY, keep=1)
        assert list((folder / ".staging").iterdir()) == []
        for version in registry.versions(ModelRole.POLICY):
            weights_left = (folder / "policies" / version.name / "model.safetensors").exists()
            assert weights_left == (version.pruned_at is None)
    assert outcomes == sorted(outcomes), "a change that was there was lost again"
    print(f"{change}: killed at {moment - 1} moments, {outcomes.index(True)} of them before the change was there")


if __name__ == "__main__":
    # A process that dies takes nothing with it that the system has been given; waiting for the disk proves nothing.
    os.fsync = lambda descriptor: None
    main(Path(sys.argv[1]), sys.argv[2])
