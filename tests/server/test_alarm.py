"""Many events of a loop are set from another thread, all of them, at the price of a few turns."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from roundel.server.alarm import Alarm


def test_all_who_wait_are_woken_from_another_thread():
    async def main() -> None:
        alarm, events = Alarm(asyncio.get_running_loop()), [asyncio.Event() for _ in range(100)]
        waiting = [asyncio.create_task(event.wait()) for event in events]

        def ring() -> None:
            for event in events:
                alarm.ring(event)

        await asyncio.to_thread(ring)
        await asyncio.wait_for(asyncio.gather(*waiting), 5.0)

    asyncio.run(main())


def test_a_crowd_is_woken_by_one_call(monkeypatch):
    async def main() -> int:
        loop = asyncio.get_running_loop()
        calls = 0

        def counted(callback, *args):
            nonlocal calls
            calls += 1
            loop.call_soon(callback, *args)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        alarm, events = Alarm(loop), [asyncio.Event() for _ in range(100)]
        for event in events:
            alarm.ring(event)
        await asyncio.sleep(0)
        assert all(event.is_set() for event in events)
        alarm.ring(asyncio.Event())
        return calls

    assert asyncio.run(main()) == 2


def test_threads_that_ring_at_once_forget_nobody():
    async def main() -> None:
        alarm, events = Alarm(asyncio.get_running_loop()), [asyncio.Event() for _ in range(400)]
        with ThreadPoolExecutor(4) as threads:
            for event in events:
                threads.submit(alarm.ring, event)
            await asyncio.wait_for(asyncio.gather(*(event.wait() for event in events)), 5.0)

    asyncio.run(main())
