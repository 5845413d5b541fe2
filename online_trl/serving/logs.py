"""
The log of the server process: one JSON object a line, for its own words and for those of the libraries alike.

An error's message may quote what a user wrote, and so do the database's. Unless the settings allow users' words in the
log, a traceback is told by its types and places alone.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

_QUOTING = ("exc_value", "exc_notes", "syntax_error")
_CLIENTS = ("httpx", "httpx2")


def start_logging(stream: TextIO = sys.stderr, *, log_messages: bool) -> FilteringBoundLogger:
    """
    Has everything that this process logs written as JSON lines, and returns the logger of its requests.

    Args:
        stream (`TextIO`, *optional*):
            Where to write. Defaults to standard error.
        log_messages (`bool`):
            Whether users' words may be in the log.
    """
    common = _processors(log_messages)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *common],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # They tell of every request to an upstream server, which the log of requests does, and of every look at the Hub.
    for client in _CLIENTS:
        logging.getLogger(client).setLevel(logging.WARNING)
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(cast(TextIO, _Gathering(stream))),
        processors=common,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    return logger


class _Gathering:
    """
    Writes the lines of all requests that end in one turn of the event loop at once.

    A write lets other threads run, and the event loop then has to wait until it may go on: with a write for each
    request, that would cost more than all else about it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str] = []

    def write(self, line: str) -> None:
        self._lines.append(line)

    def flush(self) -> None:
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_soon(self._write_out)

    def _write_out(self) -> None:
        lines, self._lines = self._lines, []
        self._stream.write("".join(lines))
        self._stream.flush()


def _processors(log_messages: bool) -> list[Processor]:
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
    ]
    if not log_messages:
        processors.append(_without_quotations)
    return [*processors, structlog.processors.JSONRenderer()]


def _without_quotations(logger: WrappedLogger, name: str, entry: EventDict) -> EventDict:
    _strip(entry.get("exception", ()))
    if entry.get("logger") == "asyncio":
        # What follows its first line is the representation of a task, with the error that it ended with.
        entry["event"] = entry["event"].partition("\n")[0]
    return entry


def _strip(exceptions: Iterable[dict[str, Any]]) -> None:
    for exception in exceptions:
        for field in _QUOTING:
            exception.pop(field, None)
        for group in exception.get("exceptions", ()):
            _strip(group)
