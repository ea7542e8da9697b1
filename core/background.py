"""Blocking work away from the event loop, on threads that never hold up the end of the process."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def off_loop(work: Callable[[], Result]) -> Result:
    """Run `work` on a thread of its own and give what it returns or raises.

    The thread is a daemon: a database that hangs for ever keeps nobody from stopping."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  handed to whoever waits
            _deliver_result(loop, done, error)
        else:
            _deliver_result(loop, done, result)

    threading.Thread(target=run, name=getattr(work, "__name__", "work"), daemon=True).start()
    return await asyncio.shield(done)


def _deliver_result(
    loop: asyncio.AbstractEventLoop, done: "asyncio.Future[Result]", outcome: Result | Exception
) -> None:
    def settle() -> None:
        if done.done():
            return
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
            done.exception()  # who has stopped waiting has taken another way
        else:
            done.set_result(outcome)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        return  # the loop is closed, so nothing is waiting for this
