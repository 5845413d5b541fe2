import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from online_trl.serving.arrivals import Arrivals


def test_results_and_errors_of_one_group_reach_those_who_wait():
    async def wait() -> list[object]:
        arrivals, futures = Arrivals(), [Future() for _ in range(4)]
        waiting = [asyncio.ensure_future(arrivals.wait(future)) for future in futures]
        await asyncio.sleep(0)
        waiting[2].cancel()
        futures[0].set_result("first")
        futures[1].set_exception(KeyError("second"))
        futures[2].set_result("nobody waits")
        await asyncio.to_thread(futures[3].set_result, "from another thread")
        return await asyncio.gather(*waiting, return_exceptions=True)

    first, second, third, fourth = asyncio.run(wait())
    assert (first, fourth) == ("first", "from another thread")
    assert isinstance(second, KeyError)
    assert isinstance(third, asyncio.CancelledError)


def test_a_future_that_is_done_already_is_not_waited_for_in_vain():
    future: Future[int] = Future()
    future.set_result(7)
    assert asyncio.run(Arrivals().wait(future)) == 7


def test_giving_up_does_not_cancel_the_write():
    async def give_up() -> Future[int]:
        future: Future[int] = Future()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(Arrivals().wait(future), 0.01)
        return future

    assert not asyncio.run(give_up()).cancelled()


class PreemptingList(list[Any]):
    """Takes the interpreter away from another thread than the main one as soon as it has appended something."""

    def __init__(self) -> None:
        super().__init__()
        self.appended = threading.Event()
        self.go_on = threading.Event()

    def append(self, item: Any) -> None:
        super().append(item)
        if threading.current_thread() is not threading.main_thread():
            self.appended.set()
            self.go_on.wait(0.2)


def test_the_writer_may_be_interrupted_while_the_loop_finds_a_future_that_is_done(monkeypatch: pytest.MonkeyPatch):
    async def main() -> list[int]:
        arrivals, slow = Arrivals(), PreemptingList()
        monkeypatch.setattr(arrivals, "_done", slow)
        written: Future[int] = Future()
        done: Future[int] = Future()
        done.set_result(2)
        waiting = [asyncio.ensure_future(arrivals.wait(written))]
        await asyncio.sleep(0)
        writer = threading.Thread(target=written.set_result, args=(1,))
        writer.start()
        slow.appended.wait()
        waiting.append(asyncio.ensure_future(arrivals.wait(done)))
        await asyncio.sleep(0)
        slow.go_on.set()
        writer.join()
        return await asyncio.wait_for(asyncio.gather(*waiting), 10)

    assert asyncio.run(main()) == [1, 2]
