"""Fresh prompts and preference batches into a running trainer.

Every training rank runs the [`OnlineDataCollator`], but only the main process reads the log: what it read is
broadcast, so all ranks train on the same prompts and refresh on the same feedback however fast the log grows
meanwhile. The cursors say what has been consumed; they belong to the checkpoint, so a resumed run neither skips nor
repeats feedback.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .preferences import PreferenceBatch, read_preferences, voice_of
from .store import LogReader
from .types import Interaction, Message, Purpose

Row = dict[str, Any]

# How many of the newest interactions are looked through for distinct prompts at once, per prompt that is wanted, and
# how often, so that somebody who asks much does not hide the others.
_CANDIDATES_PER_PROMPT = 8
_LOOKS = 8


@dataclass(frozen=True, slots=True)
class Draw:
    """
    What one generation batch took from the log, the same on every rank.

    Args:
        prompts (`tuple[tuple[str, list[Message]], ...]`):
            Interaction id and messages of each fresh prompt.
        upto (`int`):
            `seq` that the log had reached: how far the run has read after this draw.
    """

    prompts: tuple[tuple[str, list[Message]], ...]
    upto: int


class PreferenceFeed:
    """
    Hands fresh preference batches to the reward refresh, the same on every rank.

    Args:
        store ([`LogReader`]):
            The feedback log: a [`FeedbackStore`], or a [`RemoteStore`] of another machine's.
        broadcast (`Callable[[Callable[[], T]], T]`, *optional*):
            Calls its argument on the main process and returns the result on every rank. Defaults to a plain call, for
            a single process.

    Attributes:
        cursor (`int`):
            Feedback up to this `seq` has been used.
    """

    def __init__(
        self,
        store: LogReader,
        *,
        broadcast: Callable[[Callable[[], Any]], Any] | None = None,
    ) -> None:
        self.store = store
        self.broadcast: Callable[[Callable[[], Any]], Any] = broadcast or (lambda read: read())
        self.cursor = 0

    def latest(self) -> int:
        """Returns the `seq` that the log has reached now."""
        upto: int = self.broadcast(self.store.latest_seq)
        return upto

    def take(self, *, upto: int, after: int | None = None) -> PreferenceBatch:
        """
        Reads feedback.

        Args:
            upto (`int`):
                End of the interval, such as [`~PreferenceFeed.latest`].
            after (`int`, *optional*):
                Start of the interval. Defaults to the cursor: what has not been used yet.

        Returns:
            [`PreferenceBatch`]: What the interval `(after, upto]` has to teach. Call [`~PreferenceFeed.commit`] once
            it is used.
        """
        start = self.cursor if after is None else after
        batch: PreferenceBatch = self.broadcast(lambda: read_preferences(self.store, after=start, upto=upto))
        return batch

    def commit(self, batch: PreferenceBatch) -> None:
        """Moves the cursor past a batch that has been used."""
        self.cursor = batch.upto


class OnlineDataCollator:
    """
    Mixes fresh prompts from the feedback log into each generation batch.

    TRL's GRPO sampler repeats each prompt `num_generations` times, deals the generation batch out to the ranks in
    contiguous slices, and repeats it while its completions are reused. The collator replaces whole prompt groups,
    never part of one, and draws once per generation.

    Args:
        store ([`LogReader`]):
            The feedback log.
        num_generations (`int`):
            Completions per prompt.
        generation_batch_size (`int`):
            Completions of one generation batch over all ranks.
        generate_every (`int`):
            Dataloader batches per generation (`steps_per_generation × num_iterations`).
        fresh_fraction (`float`, *optional*, defaults to `0.5`):
            Share of the prompts that is taken from the log; of a batch of one prompt, the share of the batches.
        process_index (`int`, *optional*, defaults to `0`):
            Rank of this process.
        broadcast (`Callable[[Callable[[], T]], T]`, *optional*):
            Calls its argument on the main process and returns the result on every rank. Defaults to a plain call, for
            a single process.
        max_user_share (`float`, *optional*, defaults to `1.0`):
            Largest share of the places for fresh prompts that one user may fill. With fewer users than
            `1 / max_user_share` each may fill as many places as the others.
        admits (`Callable[[list[Message]], bool]`, *optional*):
            Whether a prompt may be trained on. Defaults to all.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the choice of the prompt groups that are replaced.

    Attributes:
        cursor (`int`):
            Prompts up to this `seq` have been offered to the policy.
    """

    def __init__(
        self,
        store: LogReader,
        *,
        num_generations: int,
        generation_batch_size: int,
        generate_every: int,
        fresh_fraction: float = 0.5,
        process_index: int = 0,
        broadcast: Callable[[Callable[[], Any]], Any] | None = None,
        max_user_share: float = 1.0,
        admits: Callable[[list[Message]], bool] | None = None,
        seed: int = 0,
    ) -> None:
        self.store = store
        self.num_generations = num_generations
        self.num_prompts = generation_batch_size // num_generations
        self.generate_every = generate_every
        self.fresh_fraction = fresh_fraction
        self.process_index = process_index
        self.broadcast: Callable[[Callable[[], Any]], Any] = broadcast or (lambda read: read())
        self.max_user_share = max_user_share
        self.admits: Callable[[list[Message]], bool] = admits or (lambda prompt: True)
        self.seed = seed
        self.cursor = 0
        self._batches = self._begins_at = 0
        # A checkpoint is written while the dataloader is already a batch or two ahead of the trainer: how far the
        # recent draws have read is kept, and a resumed run repeats those that were ahead.
        self._read_upto: deque[int] = deque([0], maxlen=64)
        self._to_repeat: deque[int] = deque()

    def __call__(self, features: list[Row]) -> list[Row]:
        """Returns the rank's slice of the generation batch with fresh prompts in place of some of its groups."""
        index, self._batches = self._batches, self._batches + 1
        if index < self._begins_at or index % self.generate_every != 0:
            return features  # TRL reuses the completions of the last generation and does not look at these rows
        generation = index // self.generate_every
        draw = self._draw(self._wanted(generation))
        slots = self._slots(generation, len(draw.prompts))
        offset = self.process_index * len(features)
        return [
            self._with_prompt(row, draw, slots.get((offset + position) // self.num_generations))
            for position, row in enumerate(features)
        ]

    def state_at(self, *, batches: int) -> dict[str, Any]:
        """
        Returns what a resumed run needs, as plain values: `cursor` is how far the log was read for the prompts that
        the trainer has used, `ahead` how far for those that the dataloader holds ready for it.

        Args:
            batches (`int`):
                Batches of the dataloader that the trainer has used.
        """
        ahead = self._generations(self._batches) - self._generations(batches)
        read = list(self._read_upto)
        return {"cursor": read[-1 - ahead], "ahead": read[len(read) - ahead :]}

    def go_to(self, state: dict[str, Any], *, batches: int, fetched_again: int = 0) -> None:
        """
        Goes back to a state of [`~OnlineDataCollator.state_at`].

        Args:
            state (`dict[str, Any]`), batches (`int`):
                The state, and the `batches` that it is of.
            fetched_again (`int`, *optional*, defaults to `0`):
                How many of these the dataloader fetches again, and throws away, before the batch that comes next.
        """
        self.cursor, self._begins_at, self._batches = state["cursor"], batches, batches - fetched_again
        self._read_upto = deque([self.cursor], maxlen=self._read_upto.maxlen)
        self._to_repeat = deque(state["ahead"])

    def _generations(self, batches: int) -> int:
        return -(-batches // self.generate_every)

    def _wanted(self, generation: int) -> int:
        """How many prompts of a generation batch are to be fresh: what the share comes to over the batches so far."""
        share = self.fresh_fraction * self.num_prompts
        return math.floor((generation + 1) * share + 0.5) - math.floor(generation * share + 0.5)

    def _draw(self, wanted: int) -> Draw:
        upto = self._to_repeat.popleft() if self._to_repeat else None
        draw: Draw = self.broadcast(lambda: self._read(wanted, upto))
        self.cursor = draw.upto
        self._read_upto.append(draw.upto)
        return draw

    def _read(self, wanted: int, upto: int | None) -> Draw:
        if not wanted:
            return Draw(prompts=(), upto=self.cursor)
        upto = self.store.latest_seq() if upto is None else upto
        fresh = self._fresh_prompts(wanted, upto)
        return Draw(prompts=tuple((one.interaction_id, one.prompt) for one in fresh), upto=upto)

    def _fresh_prompts(self, wanted: int, upto: int) -> list[Interaction]:
        """The newest prompts that differ, of no user more than the share."""
        size = wanted * _CANDIDATES_PER_PROMPT
        found: list[Interaction] = []
        for _ in range(_LOOKS):
            page = self.store.interactions(
                after=self.cursor, upto=upto, purpose=Purpose.CHAT, limit=size, newest_first=True
            )
            found += [row for row in page if self.admits(row.prompt)]
            if len(page) < size or len(_spread(found, wanted, self.max_user_share)) == wanted:
                break
            upto = (page[-1].seq or 0) - 1
        voices = {voice_of(row.user_id, row) for row in found}
        return _spread(found, wanted, max(self.max_user_share, 1 / max(1, len(voices))))

    def _slots(self, generation: int, count: int) -> dict[int, int]:
        """Which prompt group of the generation batch takes which fresh prompt, the same on every rank."""
        groups = random.Random(f"{self.seed}-{generation}").sample(range(self.num_prompts), count)
        return {group: number for number, group in enumerate(groups)}

    @staticmethod
    def _with_prompt(row: Row, draw: Draw, number: int | None) -> Row:
        if number is None:
            return {**row, "interaction_id": None}
        interaction_id, prompt = draw.prompts[number]
        return {**dict.fromkeys(row), "prompt": prompt, "interaction_id": interaction_id}


def _spread(interactions: list[Interaction], wanted: int, share: float) -> list[Interaction]:
    """The first interactions whose prompts differ, of no user more than a share of those wanted, or one."""
    most = max(1, math.floor(share * wanted + 1e-9))
    asked: Counter[str] = Counter()
    chosen: dict[str, Interaction] = {}
    for interaction in interactions:
        prompt, voice = json.dumps(interaction.prompt, sort_keys=True), voice_of(interaction.user_id, interaction)
        if prompt not in chosen and asked[voice] < most:
            chosen[prompt] = interaction
            asked[voice] += 1
    return list(chosen.values())[:wanted]
