"""One view for many ranks: what the main process did or read, everywhere, and what failed on one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list, gather_object

T = TypeVar("T")


def broadcast_from_main(read: Callable[[], T]) -> T:
    """
    Calls a function on the main process and returns its result on every rank. An error is raised on every rank.

    Args:
        read (`Callable[[], T]`):
            What to call; its result must be picklable.
    """
    if not is_distributed():
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


def on_every_rank(act: Callable[[], T]) -> T:
    """
    Calls a function on every rank and returns each its own result. An error on one of them is raised on all.

    Args:
        act (`Callable[[], T]`):
            What to call. It must not wait for other ranks.
    """
    result, failure = None, None
    try:
        result = act()
    except Exception as error:  # noqa: BLE001  raised on every rank below, so that none waits for another
        failure = error
    failures = gather_object([failure]) if is_distributed() else [failure]
    first = next((each for each in failures if each is not None), None)
    if first is not None:
        raise first
    return result  # type: ignore[return-value]


def is_distributed() -> bool:
    """Whether this process is one of several that know each other."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def leave_process_group() -> None:
    """
    Leaves the process group at the end of a program, if there is one. A process that ends in it takes down threads
    that still run, and may abort although all its work is done.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
