"""Lanes of a WebSocket: what waits for what, and the bounds."""

import asyncio

import pytest

from app.api.body import MAX_BODY_BYTES
from app.api.lanes import MAX_NAMED, MAX_RUNNING, MAX_WAITING, Lanes
from app.errors import StreamLimitReached, TooManyWaiting


class Work:
    """What runs and what has ended, by message; each goes on once it is let."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.ended: list[str] = []
        self.aborted: list[str] = []
        self.lanes = Lanes(self._respond)
        self._gates: dict[str, asyncio.Event] = {}

    def add(self, name: str, stream_id: str | None = None) -> None:
        self.lanes.add(name.encode(), stream_id)

    async def let(self, *names: str) -> None:
        for name in names:
            self._gates.setdefault(name, asyncio.Event()).set()
        await settled()

    async def _respond(self, message: bytes, stream_id: str | None) -> None:
        name = message.decode()
        self.running.append(name)
        try:
            await self._gates.setdefault(name, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.aborted.append(name)
            raise
        finally:
            self.running.remove(name)
        self.ended.append(name)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.mark.parametrize("stream_id", [None, "a"])
async def test_a_lane_works_off_one_after_the_other(work: Work, stream_id: str | None) -> None:
    for name in "123":
        work.add(name, stream_id)
    await work.let("3")
    assert work.running == ["1"]
    await work.let("1")
    assert work.running == ["2"]
    await work.let("2")
    assert work.ended == ["1", "2", "3"]
    work.add("4", stream_id)
    await work.let("4")
    assert work.ended == ["1", "2", "3", "4"]


async def test_lanes_run_beside_each_other(work: Work) -> None:
    work.add("1")
    work.add("2", "a")
    work.add("3", "b")
    await settled()
    assert work.running == ["1", "2", "3"]
    await work.let("3", "2", "1")
    assert sorted(work.ended) == ["1", "2", "3"]


async def test_more_than_may_run_wait_for_one_that_ends(work: Work) -> None:
    names = [str(number) for number in range(MAX_RUNNING + 1)]
    for name in names:
        work.add(name, name)
    await settled()
    assert work.running == names[:-1]
    await work.let("5")
    assert work.running[-1] == names[-1]
    await work.let(*names)
    assert work.running == []


async def test_one_lane_more_than_there_may_be_is_refused(work: Work) -> None:
    work.add("default")
    for number in range(MAX_NAMED):
        work.add(str(number), str(number))
    with pytest.raises(StreamLimitReached) as caught:
        work.add("more", "more")
    assert caught.value.param == "stream_id"
    await work.let("default", *map(str, range(MAX_NAMED)))
    with pytest.raises(StreamLimitReached):
        work.add("more", "more")
    work.add("again", "0")
    work.add("default again")
    await work.let("again", "default again")
    assert work.ended[-2:] == ["again", "default again"]


async def test_too_many_that_wait_are_refused(work: Work) -> None:
    work.add("runs")
    await settled()
    for number in range(MAX_WAITING):
        work.add(str(number))
    with pytest.raises(TooManyWaiting):
        work.add("more", "a")
    await work.let("runs")
    work.add("more", "a")
    await work.let("more")
    assert work.ended == ["runs", "more"]
    await work.lanes.aclose()


async def test_too_much_that_waits_is_refused(work: Work) -> None:
    largest = "x" * MAX_BODY_BYTES
    work.add("runs")
    await settled()
    work.add(largest)
    with pytest.raises(TooManyWaiting):
        work.add("y", "a")
    await work.let("runs")
    assert work.running == [largest]
    work.add("y", "a")
    await work.let(largest, "y")
    assert len(work.ended) == 3


async def test_closing_aborts_what_runs_and_forgets_what_waits(work: Work) -> None:
    for name, stream_id in (("1", None), ("2", "a"), ("3", "a")):
        work.add(name, stream_id)
    await settled()
    await work.lanes.aclose()
    assert work.aborted == ["1", "2"]
    assert (work.running, work.ended) == ([], [])
