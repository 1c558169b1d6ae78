"""Which worker gets a turn."""

import pytest

from app.engine.pool import WorkerPool
from app.engine.worker import VllmWorker
from app.errors import EngineUnavailable, ModelNotFound

URLS = [f"http://w{n}" for n in range(4)]


@pytest.fixture
def pool() -> WorkerPool:
    pool = WorkerPool(URLS, None)
    for worker in pool.workers:
        worker.alive, worker.models = True, ({"id": "m", "max_model_len": 100},)
    return pool


async def test_the_holder_of_the_prefix_then_the_idlest(pool: WorkerPool) -> None:
    pool.workers[0].running = 1
    assert (await pool.pick("m"))[0].url == URLS[1]
    assert (await pool.pick("m", prefer=URLS[0], affinity="a"))[0].url == URLS[0]
    pool.workers[0].alive = False
    assert (await pool.pick("m", prefer=URLS[0]))[0].url == URLS[1]


async def test_one_word_means_one_worker_and_stays_there_when_another_goes(pool: WorkerPool) -> None:
    words = [f"user {n}" for n in range(40)]
    before = {word: (await pool.pick("m", affinity=word))[0].url for word in words}
    assert set(before.values()) == set(URLS)
    pool.workers[2].alive = False
    for word, url in before.items():
        now = (await pool.pick("m", affinity=word))[0].url
        assert now == url if url != URLS[2] else now != url


async def test_an_unknown_model_is_named(pool: WorkerPool) -> None:
    with pytest.raises(ModelNotFound, match="'x'"):
        await pool.pick("x")
    assert pool.workers[0].context_length == 100


async def test_who_served_a_model_is_looked_for_once_more(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, back = [], False

    async def refresh(worker: VllmWorker) -> None:
        asked.append(worker.url)
        worker.alive = back

    monkeypatch.setattr(VllmWorker, "refresh", refresh)
    own = pool.workers[2]
    own.alive, own.models = False, ({"id": "other", "max_model_len": 100},)
    with pytest.raises(EngineUnavailable, match="'other'"):
        await pool.pick("other")
    back = True
    assert (await pool.pick("other")) == (own, "other")
    assert asked == [own.url] * 2
    own.alive = False
    await pool.pick("m")
    with pytest.raises(ModelNotFound):
        await pool.pick("x")
    assert asked == [own.url] * 2, "they cost no look"


async def test_one_word_does_not_bury_its_worker(pool: WorkerPool) -> None:
    own = (await pool.pick("m", affinity="app"))[0]
    own.running = 4
    assert (await pool.pick("m", affinity="app"))[0] is own
    own.running = 5
    assert (await pool.pick("m", affinity="app"))[0] is not own


async def test_an_adapter_has_its_models_length(pool: WorkerPool) -> None:
    pool.workers[0].models = ({"id": "adapter", "max_model_len": None}, {"id": "m", "max_model_len": 100})
    assert pool.workers[0].context_length == 100
