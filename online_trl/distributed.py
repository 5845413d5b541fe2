"""One view for many ranks: what the main process did or read, everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def broadcast_from_main(read: Callable[[], T]) -> T:
    """
    Calls a function on the main process and returns its result on every rank. An error is raised on every rank.

    Args:
        read (`Callable[[], T]`):
            What to call; its result must be picklable.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return read()
    box: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        try:
            box[0] = read()
        except Exception as error:  # noqa: BLE001  raised on every rank below, so that none waits for another
            box[1] = error
    result, failure = broadcast_object_list(box)
    if failure is not None:
        raise failure
    return result  # type: ignore[no-any-return]
