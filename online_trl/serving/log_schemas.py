"""What goes over the wire for reading the log: the parameters and bodies of requests."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..store.wire import LOOKUP_NAMES, PAGE_ROWS
from ..types import ErasedSubject, Purpose
from .schemas import Seq, Text


class Query(BaseModel):
    """What is asked for. Nothing unknown is taken, so that a reader of another release is not half understood."""

    model_config = ConfigDict(extra="forbid")


class ClosedInterval(Query):
    """The interval `(after, upto]` of the log."""

    after: Seq = Field(description="`seq` after which to read")
    upto: Seq = Field(description="last `seq` to read")

    @model_validator(mode="after")
    def _runs_forwards(self) -> ClosedInterval:
        if self.after > self.upto:
            raise ValueError(f"({self.after}, {self.upto}] runs backwards: is `after` the cursor of another log?")
        return self


class AdmittedInterval(ClosedInterval):
    """The interval of which feedback is sent, as far as it counts at a position."""

    at: Seq | None = Field(None, description="the position, `upto` or later; by default `upto`")


class Page(ClosedInterval):
    """The first rows of an interval."""

    limit: int = Field(PAGE_ROWS, ge=1, le=PAGE_ROWS, description="at most so many rows")


class TokensOption(Query):
    """Interactions, whole or without what is longest in them."""

    tokens: bool = Field(True, description="whether to send `prompt_ids`, `completion_ids` and `logprobs` as well")


class InteractionPage(Page, TokensOption):
    """The first or the last interactions of an interval."""

    purpose: Purpose | None = Field(None, description="only interactions of this purpose")
    policy_version: Text | None = Field(None, description="only answers of this version")
    newest_first: bool = Field(False, description="begin at the end of the interval")


class Regenerations(ClosedInterval, TokensOption):
    """The interval of which regenerations are told."""


class Ids(Query):
    """Rows by id."""

    ids: list[Text] = Field(max_length=LOOKUP_NAMES)


class InteractionIds(Ids, TokensOption, strict=True):
    """Interactions by id."""


class Sessions(TokensOption, strict=True):
    """Conversations, up to a position in the log."""

    session_ids: list[Text] = Field(max_length=LOOKUP_NAMES)
    upto: Seq


class TraceRequest(Query):
    """A user, or an interaction, by id."""

    subject: ErasedSubject
    name: Text
