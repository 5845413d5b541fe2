"""Rows of the log as a reply that is made while it is sent, whatever its length."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import StreamingResponse

from ..store.wire import end_line, to_line

_BLOCK_BYTES = 65536
_GZIP = 16 + zlib.MAX_WBITS


class RowStream(StreamingResponse):
    """
    A reply of one line of JSON for each row, and a last line that is their number. The lines are made block by block
    in a thread, while the event loop goes on, and compressed for clients that understand gzip.

    Args:
        rows (`Sequence[Any]`):
            Records of the log.
        request (`Request`):
            What is replied to.
    """

    media_type = "application/x-ndjson"

    def __init__(self, rows: Sequence[Any], request: Request) -> None:
        headers = {"Vary": "Accept-Encoding"}
        body = _blocks(rows)
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = _compressed(body)
        super().__init__(body, headers=headers)


def row_schema(record: type[Any]) -> dict[str, Any]:
    """Returns the JSON schema of the line of a record, which needs no definitions beside it."""
    schema = TypeAdapter(record).json_schema(mode="serialization")
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(each) for each in part]
        if not isinstance(part, dict):
            return part
        named = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else {}
        return {name: resolved(each) for name, each in (named | part).items() if name != "$ref"}

    return {name: resolved(part) for name, part in schema.items()}


def _blocks(rows: Sequence[Any]) -> Iterator[bytes]:
    block = bytearray()
    for row in rows:
        block += to_line(row)
        if len(block) >= _BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block) + end_line(len(rows))


def _compressed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(wbits=_GZIP)
    for block in blocks:
        yield compressor.compress(block)
    yield compressor.flush()
