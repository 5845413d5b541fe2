"""
The durable, append-only log of interactions and feedback, in SQLite or PostgreSQL.

Both kinds of row take their `seq` from one counter, inside the transaction that writes them and that no other writer
overlaps. So the order of `seq` is the order of commits: whoever has read up to `latest_seq()` never finds a new row at
or below it later. An acknowledged row survives the death of any process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from ..database import Database
from ..migrations import schema
from ..types import COMPARISON, ErasedSubject, Feedback, Interaction, Message, Purpose, Tombstone
from .conversations import Turn, find_turn
from .erasure import erase_completion, erase_interaction, erase_user, erased_among, tombstones
from .group import AddFeedback, AddInteractions, Result, RunTask, Screen
from .keys import ApiKeys
from .quarantine import QuarantinedFeedback, admitted_feedback, quarantined, read_admitted, release
from .related import RELATED_FEEDBACK, RELATED_REGENERATIONS, read_by_index
from .rows import Lookup, Record, counts, find, interval, position, read_records, select_records, storable, where_in
from .tracing import Trace, trace
from .writer import Writer


@dataclass(frozen=True)
class StoreSummary:
    """
    What is in the log, counted.

    Args:
        latest_seq (`int`):
            End of the log.
        interactions (`int`):
            Number of interactions, of every purpose.
        users (`int`):
            Number of different users who asked something or gave feedback.
        feedback_by_kind (`dict[str, int]`):
            Number of feedback rows of each kind, superseded ones and retractions included.
        answers_by_version (`dict[str, int]`):
            Number of interactions that each policy version answered.
    """

    latest_seq: int
    interactions: int
    users: int
    feedback_by_kind: dict[str, int]
    answers_by_version: dict[str, int]


class FeedbackStore:
    """
    The log. Opening it creates the database, or brings an older one up to date.

    One store may be used by several threads, and one database by several processes.

    Args:
        url (`str`):
            Where the log is: `sqlite:///relative/path.db`, `sqlite:////absolute/path.db` or
            `postgresql://user@host/database`. A missing SQLite file is created, with its folder.

    Raises:
        [`StoreError`]: if the URL is of another kind, or the database cannot be opened.

    Example:

    ```python
    >>> with FeedbackStore("sqlite:///outputs/feedback.db") as store:
    ...     answer = store.add_interaction(interaction)
    ...     store.add_feedback(
    ...         Feedback(kind=FeedbackKind.BINARY, interaction_ids=[answer.interaction_id], value=True, user_id="ada")
    ...     )

    ```
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._database = Database(url)
        self.keys = ApiKeys(self._database)
        """The API keys of the servers on this log."""
        self._writer = Writer(self._database)

    def __enter__(self) -> FeedbackStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Writes what was submitted before, and closes the connections to the database."""
        self._writer.close()
        self._database.close()

    def claimed(self) -> AbstractContextManager[None]:
        """
        Keeps other servers off the log while the context lasts, if it is an SQLite file; other readers and writers may
        use it meanwhile. The claim ends with the process, however that dies.

        Raises:
            [`StoreError`]: if another server has claimed it; the message names its process.
        """
        return self._database.claimed()

    def add_interaction(self, interaction: Interaction) -> Interaction:
        """Appends one interaction and returns it as stored, with its `seq`; see [`add_interactions`]."""
        return self.add_interactions([interaction])[0]

    def add_interactions(self, interactions: Sequence[Interaction]) -> list[Interaction]:
        """
        Appends interactions in one transaction.

        Args:
            interactions (`Sequence[Interaction]`):
                What to append. One whose `interaction_id` is already in the log with the same contents is not added.

        Returns:
            `list[Interaction]`: The stored rows, in the order given, each with its `seq`.

        Raises:
            [`UnstorableError`]: if a row holds what the log cannot keep: a number that is not finite, half of a
                surrogate pair, or NUL in a name.
            [`IdempotencyConflictError`]: if an `interaction_id` is in the log with other contents.
        """
        return self.submit_interactions(interactions).result()

    def submit_interactions(self, interactions: Sequence[Interaction]) -> Future[list[Interaction]]:
        """Does what [`add_interactions`] does without waiting for it; the rows or the error are in the future."""
        request = AddInteractions(storable(interactions))
        self._writer.submit(request)
        return request.future

    def add_feedback(self, feedback: Feedback) -> Feedback:
        """Appends one feedback row and returns it as stored, with its `seq`; see [`add_feedback_batch`]."""
        return self.add_feedback_batch([feedback])[0]

    def add_feedback_batch(self, feedback: Sequence[Feedback]) -> list[Feedback]:
        """
        Appends feedback in one transaction: all rows or none.

        Args:
            feedback (`Sequence[Feedback]`):
                What to append. One whose `idempotency_key` is already in the log with the same contents (but for
                `feedback_id` and `created_at`) is not added.

        Returns:
            `list[Feedback]`: The stored rows, in the order given, each with its `seq`.

        Raises:
            [`UnstorableError`]: if a row holds what the log cannot keep.
            [`UnknownInteractionError`]: if a row names an interaction that is not in the log.
            [`UnknownFeedbackError`]: if a row supersedes one that is not in the log.
            [`ForeignFeedbackError`]: if a row supersedes what another user said.
            [`IdempotencyConflictError`]: if an `idempotency_key` or a `feedback_id` is in the log with other contents.
        """
        return self.submit_feedback(feedback).result()

    def submit_feedback(
        self, feedback: Sequence[Feedback], *, screening: Screen | None = None
    ) -> Future[list[Feedback]]:
        """
        Does what [`add_feedback_batch`] does without waiting for it; the rows or the error are in the future.

        Args:
            feedback (`Sequence[Feedback]`):
                What to append.
            screening (`Callable[[Connection, Sequence[Feedback]], None]`, *optional*):
                Is called with the rows that are new, in the transaction that adds them.

        Raises:
            [`StoreError`]: if a row cannot be stored.
        """
        request = AddFeedback(storable(feedback), screening)
        self._writer.submit(request)
        return request.future

    @property
    def waiting_writes(self) -> int:
        """Number of write requests that wait for their turn."""
        return self._writer.waiting

    def latest_seq(self) -> int:
        """Returns the `seq` of the last row of the log, 0 when it is empty."""
        with self._database.reading() as connection:
            return position(connection)

    def interactions(
        self,
        *,
        after: int = 0,
        upto: int | None = None,
        purpose: Purpose | None = None,
        policy_version: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
        tokens: bool = True,
    ) -> list[Interaction]:
        """
        Returns the interactions of the interval `(after, upto]`, in the order of the log.

        Args:
            after (`int`, *optional*, defaults to `0`):
                `seq` after which to read.
            upto (`int`, *optional*):
                Last `seq` to read. Defaults to the end of the log.
            purpose ([`~types.Purpose`], *optional*):
                Only interactions of this purpose.
            policy_version (`str`, *optional*):
                Only answers of this version.
            limit (`int`, *optional*):
                At most so many.
            newest_first (`bool`, *optional*, defaults to `False`):
                Whether to begin at the end of the interval.
            tokens (`bool`, *optional*, defaults to `True`):
                See [`get_interactions`].
        """
        columns = schema.interactions.c
        query = interval(select_records(Interaction, tokens=tokens), columns.seq, after, upto).limit(limit)
        if purpose is not None:
            query = query.where(columns.purpose == purpose)
        if policy_version is not None:
            query = query.where(columns.policy_version == policy_version)
        return self._read(Interaction, query.order_by(columns.seq.desc() if newest_first else columns.seq))

    def feedback(self, *, after: int = 0, upto: int | None = None, limit: int | None = None) -> list[Feedback]:
        """
        Returns the feedback rows of the interval `(after, upto]` as they were written, in the order of the log.

        Rows that a later one supersedes are among them; [`~preferences.standing_feedback`] drops them.

        Args:
            after (`int`, *optional*, defaults to `0`):
                `seq` after which to read.
            upto (`int`, *optional*):
                Last `seq` to read. Defaults to the end of the log.
            limit (`int`, *optional*):
                At most so many.
        """
        seq = schema.feedback.c.seq
        return self._read(Feedback, interval(select_records(Feedback), seq, after, upto).order_by(seq).limit(limit))

    def admitted_feedback(self, *, after: int = 0, upto: int | None = None, at: int | None = None) -> list[Feedback]:
        """
        Returns the feedback rows of the interval `(after, upto]` that counted at a position, in the order of the log.

        Rows in quarantine are not among them; a released one counts from its release on, whose `seq` it has here. A
        row that supersedes one which waits names here what that was to replace.

        Args:
            after (`int`, *optional*, defaults to `0`):
                `seq` after which to read.
            upto (`int`, *optional*):
                Last `seq` to read. Defaults to the end of the log.
            at (`int`, *optional*):
                The position, `upto` or later. Defaults to `upto`.
        """
        with self._database.reading() as connection:
            return admitted_feedback(connection, after=after, upto=upto, at=at)

    def quarantined(self, *, after: int = 0, limit: int | None = None) -> list[QuarantinedFeedback]:
        """
        Returns the feedback rows that wait in quarantine, in the order of the log.

        Args:
            after (`int`, *optional*, defaults to `0`):
                `seq` after which to read.
            limit (`int`, *optional*):
                At most so many.
        """
        with self._database.reading() as connection:
            return quarantined(connection, after=after, limit=limit)

    def release(self, feedback_ids: Iterable[str]) -> list[Feedback]:
        """
        Lets feedback out of quarantine: from now on it counts, as if said now.

        Args:
            feedback_ids (`Iterable[str]`):
                The rows, all or none. One that was released before stays as it is.

        Returns:
            `list[Feedback]`: The rows, each with the `seq` that it counts from.

        Raises:
            [`NotQuarantinedError`]: if one of them was never quarantined.
        """
        names = list(feedback_ids)
        return self._run(lambda connection: release(connection, names))

    def erase_user(self, user_id: str) -> Tombstone:
        """
        Erases what a user asked and said, and what anybody said about the user's answers. On SQLite the file is
        written anew, so that nothing of it is left in there: with a million rows, writers wait for seconds, and where
        that takes more than a minute they are refused. PostgreSQL frees the bytes at its next vacuum.

        Args:
            user_id (`str`):
                The user. Doing it twice does nothing more.

        Returns:
            [`~types.Tombstone`]: What stays in the log.

        Raises:
            [`UnknownUserError`]: if nothing in the log is of this user, nor ever was.
        """
        return self._erase(lambda connection: erase_user(connection, user_id))

    def erase_interaction(self, interaction_id: str) -> Tombstone:
        """
        Erases an answer, the later turns of its conversation and what else the same user asked that quotes it, and
        what anybody said about them. Other answers to the same prompt stay. It takes as long as [`erase_user`].

        Args:
            interaction_id (`str`):
                The answer. Doing it twice does nothing more.

        Returns:
            [`~types.Tombstone`]: What stays in the log.

        Raises:
            [`UnknownInteractionError`]: if it never was in the log.
        """
        return self._erase(lambda connection: erase_interaction(connection, interaction_id))

    def erase_completion(self, completion_id: str) -> Tombstone:
        """
        Erases all answers of one completion as [`erase_interaction`] erases one.

        Requests for the same turn that were answered at the same time, by the same version and in the same
        conversation, cannot be told from the choices of one, and go together.

        Args:
            completion_id (`str`):
                Id of one of the answers, or the id that an upstream server gave the completion. Doing it twice does
                nothing more.

        Returns:
            [`~types.Tombstone`]: What stays in the log.

        Raises:
            [`UnknownInteractionError`]: if it never was in the log.
        """
        return self._erase(lambda connection: erase_completion(connection, completion_id))

    def tombstones(self, *, after: int = 0, upto: int | None = None) -> list[Tombstone]:
        """
        Returns what was erased in the interval `(after, upto]`, in the order of the log.

        Args:
            after (`int`, *optional*, defaults to `0`):
                `seq` after which to read.
            upto (`int`, *optional*):
                Last `seq` to read. Defaults to the end of the log.
        """
        with self._database.reading() as connection:
            return tombstones(connection, after=after, upto=upto)

    def erased_among(self, ids: Iterable[str]) -> set[str]:
        """Returns which of these ids, of interactions or feedback, are those of erased rows."""
        with self._database.reading() as connection:
            return erased_among(connection, ids)

    def trace(self, subject: ErasedSubject, name: str) -> Trace:
        """
        Returns the rows that belong to a user or are an interaction, erased ones too.

        Args:
            subject ([`~types.ErasedSubject`]):
                Whether `name` is that of a user or of an interaction.
            name (`str`):
                Id of the user or the interaction.
        """
        with self._database.reading() as connection:
            return trace(connection, subject, name)

    def related_feedback(self, *, after: int, upto: int) -> list[Feedback]:
        """
        Returns the feedback rows of `(after, upto]` and the earlier ones that bear on them, as far as they counted at
        `upto` (see [`admitted_feedback`]), in the order of the log.

        These are the rows about any prompt that was asked or judged in the interval, or judged by what was superseded
        in it, and the rows that supersede them: what it takes to know which preferences are new, without reading the
        whole log.

        Args:
            after (`int`):
                `seq` after which the interval begins.
            upto (`int`):
                Last `seq` to read.
        """
        with self._database.reading() as connection:
            rows = read_by_index(connection, RELATED_FEEDBACK, after=after, upto=upto)
            return read_admitted(connection, rows, upto=upto)

    def related_regenerations(self, *, after: int, upto: int, tokens: bool = True) -> list[Interaction]:
        """
        Returns what tells whether a regenerated answer was accepted, in the order of the log.

        These are the answers to the prompts of the interval that replaced another one, the replaced ones, and the
        answers that the conversation went on to from either.

        Args:
            after (`int`):
                `seq` after which the interval begins.
            upto (`int`):
                Last `seq` to read.
            tokens (`bool`, *optional*, defaults to `True`):
                See [`get_interactions`].
        """
        with self._database.reading() as connection:
            rows = read_by_index(connection, RELATED_REGENERATIONS[tokens], after=after, upto=upto)
            return list(read_records(Interaction, rows))

    def get_interactions(self, ids: Iterable[str], *, tokens: bool = True) -> dict[str, Interaction]:
        """
        Returns the interactions of these ids, by id; unknown ids are missing from the result.

        Args:
            ids (`Iterable[str]`):
                The ids.
            tokens (`bool`, *optional*, defaults to `True`):
                Whether to read `prompt_ids`, `completion_ids` and `logprobs` as well, which takes several times as
                long as the rest. Otherwise they are `None`.
        """
        with self._database.reading() as connection:
            return find(connection, Interaction, "interaction_id", ids, tokens=tokens)

    def get_feedback(self, ids: Iterable[str]) -> dict[str, Feedback]:
        """Returns the feedback rows of these `feedback_id`s, by id; unknown ids are missing from the result."""
        with self._database.reading() as connection:
            return find(connection, Feedback, "feedback_id", ids)

    def feedback_about(self, interaction_id: str) -> list[Feedback]:
        """Returns the feedback rows about one interaction as they were written, in the order of the log."""
        rows, links = schema.feedback.c, schema.feedback_interactions.c
        about = sa.select(links.feedback_seq).where(links.interaction_id == interaction_id)
        return self._read(Feedback, select_records(Feedback).where(rows.seq.in_(about)).order_by(rows.seq))

    def interaction_ids_of_upstream(self, upstream_ids: Iterable[str]) -> dict[str, str]:
        """
        Returns the interaction behind each of these completion ids of an upstream server; unknown ones are missing.

        Of a completion with several choices it is the first: ids are made in the order of the choices.
        """
        columns = schema.interactions.c
        query = sa.select(columns.upstream_id, columns.interaction_id)
        with self._database.reading() as connection:
            rows = where_in(connection, query, columns.upstream_id, upstream_ids)
        newest_first = sorted(rows, key=lambda row: row["interaction_id"], reverse=True)
        return {row["upstream_id"]: row["interaction_id"] for row in newest_first}

    def policy_versions(self, interaction_ids: Iterable[str]) -> dict[str, str]:
        """Returns the version that gave each of these answers, by interaction id; unknown ones are missing."""
        columns = schema.interactions.c
        query = sa.select(columns.interaction_id, columns.policy_version)
        with self._database.reading() as connection:
            rows = where_in(connection, query, columns.interaction_id, interaction_ids)
        return {row["interaction_id"]: row["policy_version"] for row in rows}

    def comparison_strategies(self, interaction_ids: Iterable[str]) -> dict[str, str]:
        """Returns how those of these answers were chosen that were shown to be compared, by interaction id."""
        columns = schema.interactions.c
        # PostgreSQL itself cannot look into JSON that holds NUL, as what a client sent may.
        query = sa.select(columns.interaction_id, columns.sampling)
        with self._database.reading() as connection:
            rows = where_in(connection, query, columns.interaction_id, interaction_ids)
        shown = {row["interaction_id"]: row["sampling"].get(COMPARISON) for row in rows}
        return {name: how["strategy"] for name, how in shown.items() if isinstance(how, dict) and "strategy" in how}

    def session_interactions(self, session_ids: Iterable[str], *, upto: int, tokens: bool = True) -> list[Interaction]:
        """
        Returns the interactions of these sessions up to `upto`, in the order of the log.

        Args:
            session_ids (`Iterable[str]`):
                The sessions.
            upto (`int`):
                Last `seq` to read.
            tokens (`bool`, *optional*, defaults to `True`):
                See [`get_interactions`].
        """
        columns = schema.interactions.c
        lookup = Lookup(select_records(Interaction, tokens=tokens).where(columns.seq <= upto), columns.session_id)
        with self._database.reading() as connection:
            rows = lookup.records(connection, Interaction, session_ids)
            return sorted(rows, key=lambda row: row.seq or 0)

    def find_turn(
        self,
        prompt: Sequence[Message],
        *,
        user_id: str,
        purpose: Purpose = Purpose.CHAT,
        session_id: str | None = None,
    ) -> Turn:
        """
        Returns the place of a new request in a conversation of the same user and purpose.

        The conversation is the one named, else that of the latest interaction whose prompt and answer the prompt
        begins with, else a new one. Background requests, and users without a name, belong to no conversation but the
        one that they name.

        Args:
            prompt (`Sequence[Message]`):
                The messages that are to be answered.
            user_id (`str`):
                Who asks.
            purpose ([`~types.Purpose`], *optional*, defaults to `Purpose.CHAT`):
                What for.
            session_id (`str`, *optional*):
                The conversation, if the client names it.
        """
        with self._database.reading() as connection:
            return find_turn(connection, prompt, user_id=user_id, purpose=purpose, session_id=session_id)

    def summary(self) -> StoreSummary:
        """Counts what is in the log."""
        answers, rows = schema.interactions.c, schema.feedback.c
        users = sa.union(sa.select(answers.user_id), sa.select(rows.user_id)).subquery()
        with self._database.reading() as connection:
            versions = counts(connection, answers.policy_version)
            return StoreSummary(
                latest_seq=position(connection),
                interactions=sum(versions.values()),
                users=connection.execute(sa.select(sa.func.count()).select_from(users)).scalar_one(),
                feedback_by_kind={kind.value: count for kind, count in counts(connection, rows.kind).items()},
                answers_by_version=versions,
            )

    def _erase(self, task: Callable[[sa.Connection], Tombstone]) -> Tombstone:
        tombstone = self._run(task)
        # Also after an erasure that found nothing left: the one before may have been interrupted here.
        self._database.drop_old_pages()
        return tombstone

    def _run(self, task: Callable[[sa.Connection], Result]) -> Result:
        request: RunTask[Result] = RunTask(task)
        self._writer.submit(request)
        return request.future.result()

    def _read(self, record: type[Record], query: sa.Select[Any]) -> list[Record]:
        with self._database.reading() as connection:
            return list(read_records(record, connection.execute(query)))
