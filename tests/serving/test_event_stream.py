from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from online_trl.serving.event_stream import event_data, split_events

EVENTS = {
    "LF": [b"data: a\n\n", b"data: b\n\n"],
    "CRLF": [b"data: a\r\n\r\n", b"event: x\r\ndata: b\r\n\r\n"],
    "CR": [b"data: a\r\r", b"data: b\r\r"],
    "mixed": [b"data: a\r\n\n", b": comment\n\r\n", b"data: b\n\n"],
    "no end": [b"data: a\n\n", b"data: b"],
    "empty line inside text": [b'data: "a\\n\\nb"\n\n'],
    "nothing": [],
}


def split(stream: bytes, size: int) -> list[bytes]:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(stream), size):
            yield stream[start : start + size]

    async def collect() -> list[bytes]:
        return [event async for event in split_events(chunks())]

    return asyncio.run(collect())


@pytest.mark.parametrize("events", EVENTS.values(), ids=EVENTS.keys())
def test_stream_is_cut_between_its_events(events: list[bytes]):
    assert split(b"".join(events), 10_000) == events


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("events", EVENTS.values(), ids=EVENTS.keys())
def test_no_byte_is_lost_wherever_the_stream_was_cut(events: list[bytes], size: int):
    pieces = split(b"".join(events), size)
    assert b"".join(pieces) == b"".join(events)
    assert [data for piece in pieces if (data := event_data(piece))] == [
        data for event in events if (data := event_data(event))
    ]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", "a"),
        (b"data:a\ndata: b\n\n", "a\nb"),
        (b"id: 1\nevent: x\r\ndata: \xc3\xbc\xe2\x80\xa8x\r\n\r\n", "ü\u2028x"),
        (b": comment\n\n", ""),
        (b"data: cut sho", ""),
        (b"\n\n", ""),
    ],
)
def test_data_of_an_event_is_read(event: bytes, data: str):
    assert event_data(event) == data
