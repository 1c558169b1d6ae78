"""Seeds: what another process can make of a conversation that it never saw."""

import dataclasses
import logging

import numpy as np
import pytest

from app.prefix.hashing import Ref, ids_hash
from app.prefix.wire import Boundary
from app.vllm_plugin.known import Delta, SampledSpan
from app.vllm_plugin.seed import logger, pack, restore
from app.vllm_plugin.store import Node

TOKENIZER = b"definition"


def node(number: int, parent: Node | None, keep: int, ids: list[int]) -> Node:
    made = Node(
        ref=Ref(number.to_bytes(16, "big")),
        parent=parent,
        namespace="n",
        model="m",
        fingerprint="f",
        messages=(b"{}",),
        delta=Delta(
            keep_boundaries=min(1, keep),
            keep_tokens=keep,
            keep_chars=keep * 3,
            ids=np.array(ids, np.int32),
            boundaries=(Boundary(number * 10, keep + 1, f"{number:032x}"),),
            span_hashes=(number.to_bytes(16, "big"),),
            sampled=(SampledSpan(keep, keep + 1, 3, 4),),
        ),
        hash="",
        final_chars=number,
        text_chars=number + 1,
        text_hash=f"{number + 1:032x}",
        samples=(np.array([number, 70_000], np.int32),),
        expires_at=0.0,
    )
    made.hash = ids_hash(made.all_ids().data)
    return made


@pytest.fixture
def chain() -> list[Node]:
    root = node(1, None, 0, [5, 6, 7, 200_000])
    child = node(2, root, 3, [8, 9])
    return [root, child, node(3, child, 4, [10])]


def test_the_newest_prompt_comes_back_whole(chain: list[Node]) -> None:
    restored, original = restore([pack(n, TOKENIZER) for n in chain], TOKENIZER), chain[-1].known()
    assert restored is not None
    known = restored.known()
    assert known.ids.tolist() == original.ids.tolist() == [5, 6, 7, 8, 10]
    assert known.ids.dtype == np.int32
    assert [s.tolist() for s in known.samples] == [[3, 70_000]]
    for field in dataclasses.fields(original):
        if field.name not in ("ids", "samples"):
            assert getattr(known, field.name) == getattr(original, field.name), field.name


def test_seeds_that_were_joined_are_as_good_as_apart(chain: list[Node]) -> None:
    first, *rest = [pack(n, TOKENIZER) for n in chain]
    restored = restore([first, b"".join(rest)], TOKENIZER)
    assert restored is not None
    assert restored.known().ids.tolist() == chain[-1].known().ids.tolist()


def test_what_lacks_its_parent_is_not_whole(chain: list[Node]) -> None:
    first, second, third = (pack(n, TOKENIZER) for n in chain)
    oldest = restore([first, third], TOKENIZER)
    assert oldest is not None and oldest.all_ids().tolist() == [5, 6, 7, 200_000]
    assert restore([second, third], TOKENIZER) is None
    assert restore([], TOKENIZER) is None


def test_another_tokenizers_ids_are_not_taken(chain: list[Node]) -> None:
    assert restore([pack(chain[0], b"other")], TOKENIZER) is None


def test_damage_is_noticed(
    chain: list[Node], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever vLLM, loaded or not, has made of its loggers.
    caplog.set_level(logging.WARNING, logger=logger.name)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    good = pack(chain[0], TOKENIZER)
    chain[0].delta.ids[0] += 1  # Its hash says what it was.
    for damaged in (pack(chain[0], TOKENIZER), good[:-1], b"", good[:20] + b"\0" + good[21:]):
        caplog.clear()
        assert restore([damaged], TOKENIZER) is None
        assert "damaged" in caplog.text


def test_a_seed_is_of_the_turns_size_not_of_the_history() -> None:
    ids = np.random.default_rng(0).integers(0, 150_000, 100_000).tolist()
    long = node(1, None, 0, ids)
    assert len(pack(node(2, long, 100_000, ids[:100]), TOKENIZER)) < 1000
    assert len(pack(long, TOKENIZER)) < 300_000
