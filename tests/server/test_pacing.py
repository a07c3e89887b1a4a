"""A crowd gets its turns in order, a few at a time, and the next one whenever one is over."""

import asyncio
from collections.abc import Callable

from roundel.server.pacing import Pacer


class Crowd:
    """Asks for turns, and ends them."""

    def __init__(self, pacer: Pacer) -> None:
        self.through: list[str] = []
        self._pacer = pacer
        self._ends: dict[str, Callable[[], None]] = {}

    def ask(self, names: str) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._one(name)) for name in names]

    def end(self, names: str) -> None:
        for name in names:
            self._ends[name]()

    async def _one(self, name: str) -> None:
        def keep(over: Callable[[], None]) -> None:
            self._ends[name] = over

        await self._pacer.turn(keep)
        self.through.append(name)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_crowd_comes_through_a_few_at_a_time_and_in_order():
    async def main() -> None:
        crowd = Crowd(Pacer(together=2, longest_s=60.0))
        crowd.ask("abcde")
        await settled()
        assert crowd.through == ["a", "b"]
        crowd.end("b")
        await settled()
        assert crowd.through == ["a", "b", "c"]
        crowd.end("ac")
        await settled()
        assert crowd.through == ["a", "b", "c", "d", "e"]

    asyncio.run(main())


def test_a_turn_ends_once_however_often_it_is_said():
    async def main() -> None:
        crowd = Crowd(Pacer(together=1, longest_s=60.0))
        crowd.ask("abc")
        await settled()
        crowd.end("aaa")
        await settled()
        assert crowd.through == ["a", "b"]

    asyncio.run(main())


def test_a_turn_whose_end_nobody_tells_is_over_after_a_while():
    async def main() -> None:
        crowd = Crowd(Pacer(together=1, longest_s=0.02))
        await asyncio.wait_for(asyncio.gather(*crowd.ask("abc")), 5.0)
        assert crowd.through == ["a", "b", "c"]
        crowd.end("abc")  # for two of them it is too late to count
        crowd.ask("def")
        await settled()
        assert crowd.through == ["a", "b", "c", "d"]

    asyncio.run(main())


def test_one_that_hangs_up_does_not_hold_up_the_others():
    async def main() -> None:
        crowd = Crowd(Pacer(together=1, longest_s=60.0))
        turns = crowd.ask("abc")
        await settled()
        turns[1].cancel()
        await settled()
        crowd.end("a")
        await settled()
        assert crowd.through == ["a", "c"]

    asyncio.run(main())


def test_one_that_hangs_up_when_its_turn_has_come_passes_it_on():
    async def main() -> None:
        crowd = Crowd(Pacer(together=1, longest_s=60.0))
        turns = crowd.ask("abc")
        await settled()
        crowd.end("a")
        turns[1].cancel()  # before it could go on
        await settled()
        assert crowd.through == ["a", "c"]

    asyncio.run(main())


def test_nobody_overtakes_those_who_wait():
    async def main() -> None:
        crowd = Crowd(Pacer(together=1, longest_s=60.0))
        crowd.ask("ab")
        await settled()
        crowd.end("a")
        crowd.ask("c")
        await settled()
        assert crowd.through == ["a", "b"]

    asyncio.run(main())


def test_it_can_be_asked_again_after_a_crowd_has_gone():
    async def main() -> None:
        crowd = Crowd(Pacer(together=2, longest_s=60.0))
        crowd.ask("ab")
        await settled()
        crowd.end("ab")
        crowd.ask("cde")
        await settled()
        assert crowd.through == ["a", "b", "c", "d"]

    asyncio.run(main())
