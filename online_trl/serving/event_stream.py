"""Server-sent events as they come over the wire: cut apart, and not changed by a byte."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
from httpx_sse import EventSource

_LINE_END = rb"(?:\r\n|\r(?!\n)|\n)"
_EVENT_END = re.compile(_LINE_END + rb"{2}")


async def split_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """
    Yields the events of a stream one by one, each with the line ends that close it. Joined, they are the stream.

    Args:
        chunks (`AsyncIterator[bytes]`):
            The stream, cut anywhere.
    """
    rest = b""
    async for chunk in chunks:
        rest += chunk
        while (end := _EVENT_END.search(rest)) is not None:
            yield rest[: end.end()]
            rest = rest[end.end() :]
    if rest:
        yield rest


def event_data(event: bytes) -> str:
    """Returns the data of an event; empty if it has none, as a comment, or if it was cut short."""
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=event)
    return "".join(sse.data for sse in EventSource(response).iter_sse())
