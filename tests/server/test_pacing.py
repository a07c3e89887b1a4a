"""A crowd gets its turns in order, a few at a time, and lets others through in between."""

import asyncio
import time

from roundel.server import pacing
from roundel.server.pacing import Pacer


def test_others_come_through_between_the_turns_of_a_crowd():
    happened: list[str] = []

    async def main() -> None:
        pacer = Pacer(together=2)

        async def one(name: str) -> None:
            await pacer.turn()
            happened.append(name)

        crowd = [asyncio.create_task(one(str(number))) for number in range(6)]
        while len(happened) < 9:
            await asyncio.sleep(0)
            happened.append("other")
        await asyncio.gather(*crowd)

    asyncio.run(main())
    assert [name for name in happened if name != "other"] == ["0", "1", "2", "3", "4", "5"]
    longest = max(len(run) for run in "".join(n[0] for n in happened).split("o"))
    assert longest <= 2


def test_one_that_hangs_up_does_not_hold_up_the_others():
    async def main() -> None:
        pacer = Pacer(together=1)
        turns = [asyncio.create_task(pacer.turn()) for _ in range(3)]
        await asyncio.sleep(0)
        turns[1].cancel()
        await asyncio.wait(turns, timeout=5.0)
        assert [turn.cancelled() for turn in turns] == [False, True, False]

    asyncio.run(main())


def test_it_can_be_asked_again_after_a_crowd_has_gone():
    async def main() -> None:
        pacer = Pacer(together=4)
        await pacer.turn()
        await asyncio.sleep(0.01)
        await asyncio.wait_for(pacer.turn(), 5.0)

    asyncio.run(main())


def long_turn() -> None:
    time.sleep(0.02)


def test_a_loop_that_has_much_to_do_lets_nobody_through_until_it_has_less(monkeypatch):
    monkeypatch.setattr(pacing, "_LONGEST_S", 10.0)
    happened: list[str] = []

    async def main() -> None:
        pacer = Pacer(together=1, long_s=0.01)

        async def busy() -> None:
            for _ in range(3):
                long_turn()
                happened.append("busy")
                await asyncio.sleep(0)

        async def one() -> None:
            await pacer.turn()
            happened.append("through")

        await asyncio.gather(one(), busy(), one())

    asyncio.run(main())
    assert happened.count("busy") == 3
    assert happened[-1] == "through"


def test_a_loop_that_is_never_idle_lets_all_through_in_the_end():
    async def main() -> None:
        pacer = Pacer(together=1, long_s=0.0)  # every turn is a long one
        await asyncio.wait_for(asyncio.gather(*(pacer.turn() for _ in range(3))), 5.0)

    asyncio.run(main())
