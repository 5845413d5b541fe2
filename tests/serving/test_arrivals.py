import asyncio
from concurrent.futures import Future

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
