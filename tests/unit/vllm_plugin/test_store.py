"""The prefix store against a simple model: what is resident, what may go, what is counted."""

import dataclasses

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from app.prefix.hashing import Ref
from app.prefix.wire import Boundary
from app.vllm_plugin.known import Delta
from app.vllm_plugin.store import Node, PrefixStore


def make_node(
    number: int, parent: Node | None = None, *, keep: int = 0, ids: list[int] | None = None, size: int = 0
) -> Node:
    return Node(
        ref=Ref(number.to_bytes(16, "big")),
        parent=parent,
        namespace="n",
        model="m",
        fingerprint="f",
        messages=(b"x" * size,),
        delta=Delta(
            keep_boundaries=0,
            keep_tokens=keep,
            keep_chars=0,
            ids=np.array(ids or [], np.int32),
            boundaries=(),
            span_hashes=(),
            sampled=(),
        ),
        hash="h",
        final_chars=0,
        text_chars=0,
        text_hash="",
        samples=(),
        expires_at=0.0,
    )


def test_ids_are_the_parents_up_to_what_is_kept_then_the_nodes_own() -> None:
    root = make_node(1, ids=[1, 2, 3, 4])
    child = make_node(2, root, keep=3, ids=[5, 6])
    rewound = make_node(3, child, keep=2, ids=[7])
    nothing_kept = make_node(4, rewound, keep=0, ids=[8, 9])
    assert child.all_ids().tolist() == [1, 2, 3, 5, 6]
    assert rewound.all_ids().tolist() == [1, 2, 7]
    assert nothing_kept.all_ids().tolist() == [8, 9]
    assert nothing_kept.tokens == 2


def test_boundaries_are_the_parents_up_to_what_is_kept_then_the_nodes_own() -> None:
    first, second, third = (Boundary(n, n, str(n)) for n in (1, 2, 3))
    root = make_node(1)
    root.delta = dataclasses.replace(root.delta, boundaries=(first, second))
    child = make_node(2, root)
    child.delta = dataclasses.replace(child.delta, keep_boundaries=1, boundaries=(third,))
    assert child.known().boundaries == [first, third]


def test_the_least_recently_used_leaf_goes_first() -> None:
    store = PrefixStore(budget_bytes=11_000)
    nodes = [make_node(n, size=200) for n in range(3)]
    for node in nodes:
        assert store.put(node, 60)
    with store.pinned(nodes[0]):
        pass
    assert store.put(make_node(9, size=200), 60)
    assert [store.get(node.ref) is not None for node in nodes] == [True, False, True]


def test_a_pinned_node_and_a_trunk_are_never_evicted() -> None:
    store = PrefixStore(budget_bytes=7_000)
    trunk = make_node(1)
    leaf = make_node(2, trunk)
    assert store.put(trunk, 60)
    assert store.put(leaf, 60)
    with store.pinned(leaf):
        assert not store.put(make_node(3), 60), "nothing can go, so nothing comes"
        assert store.get(trunk.ref) is trunk
    assert store.put(make_node(3), 60)
    assert store.get(leaf.ref) is None


def test_a_node_whose_parent_is_gone_is_refused() -> None:
    store = PrefixStore(budget_bytes=12_000)
    orphan = make_node(2, make_node(1))
    assert not store.put(orphan, 60)
    assert store.get(orphan.ref) is None


def test_a_dropped_trunk_goes_with_its_last_leaf() -> None:
    store = PrefixStore(budget_bytes=12_000)
    trunk = make_node(1)
    leaf = make_node(2, trunk)
    store.put(trunk, 60)
    store.put(leaf, 60)
    assert store.drop(trunk.ref)
    assert store.get(trunk.ref) is trunk
    assert store.expired(trunk)
    assert store.drop(leaf.ref)
    assert len(store) == 0
    assert store.bytes_used == 0
    assert not store.drop(leaf.ref)


def test_another_answer_to_a_prompt_is_kept_beside_the_first() -> None:
    store = PrefixStore(budget_bytes=12_000)
    node = make_node(1)
    store.put(node, 60)
    for answer in ([1], [2, 3], [1], [4], [5], [6]):
        store.put(dataclasses.replace(node, samples=(np.array(answer, np.int32),)), 60)
    assert [s.tolist() for s in node.samples] == [[1], [4], [5], [6]]
    assert store.bytes_used == node.size


def test_time_to_live() -> None:
    now = [0.0]
    store = PrefixStore(budget_bytes=12_000, clock=lambda: now[0])
    node = make_node(1)
    store.put(node, 10)
    now[0] = 9.9
    assert not store.expired(node)
    store.put(make_node(1), 10)
    now[0] = 15
    assert not store.expired(node), "the same content again lives longer"
    now[0] = 19.9
    assert store.expired(node)


BUDGET = 24_000


class StoreMachine(RuleBasedStateMachine):
    """Random puts, pins, drops; the counts must always agree with a recount."""

    nodes = Bundle("nodes")

    def __init__(self) -> None:
        super().__init__()
        self.store = PrefixStore(BUDGET)
        self.numbers = iter(range(1, 1 << 30))
        self.pins: list[tuple[Node, object]] = []

    @rule(target=nodes, size=st.integers(0, 9000))
    def put_root(self, size: int) -> Node:
        return self._put(None, size)

    @rule(target=nodes, parent=nodes, size=st.integers(0, 9000))
    def put_child(self, parent: Node, size: int) -> Node:
        return self._put(parent, size)

    def _put(self, parent: Node | None, size: int) -> Node:
        node = make_node(next(self.numbers), parent, size=size)
        self.store.put(node, 60)
        return node

    @rule(node=nodes, size=st.integers(1, 1800))
    def answer_again(self, node: Node, size: int) -> None:
        if self.store.get(node.ref) is node:
            again = dataclasses.replace(node, samples=(np.arange(size, dtype=np.int32),))
            self.store.put(again, 60)

    @rule(node=nodes)
    def pin(self, node: Node) -> None:
        if self.store.get(node.ref) is node:
            pin = self.store.pinned(node)
            pin.__enter__()
            self.pins.append((node, pin))

    @rule()
    def unpin(self) -> None:
        if self.pins:
            self.pins.pop(0)[1].__exit__(None, None, None)  # type: ignore[attr-defined]

    @rule(node=nodes)
    def drop(self, node: Node) -> None:
        self.store.drop(node.ref)

    @invariant()
    def counts_agree(self) -> None:
        resident = list(self.store._nodes.values())
        assert self.store.bytes_used == sum(node.size for node in resident) <= BUDGET
        for node in resident:
            assert node.children == sum(child.parent is node for child in resident)
            assert node.parent is None or self.store.get(node.parent.ref) is node.parent
            idle = node.children == 0 and node.pins == 0
            assert idle == (node.ref in self.store._idle)
        for node, _ in self.pins:
            assert self.store.get(node.ref) is node

    def teardown(self) -> None:
        while self.pins:
            self.unpin()
        for node in list(self.store._nodes.values()):
            self.store.drop(node.ref)
        assert len(self.store) == 0
        assert self.store.bytes_used == 0


StoreMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=50)
TestStoreMachine = StoreMachine.TestCase


@pytest.mark.parametrize("size", [BUDGET, BUDGET * 10])
def test_what_is_larger_than_the_budget_is_refused_and_evicts_nothing(size: int) -> None:
    store = PrefixStore(BUDGET)
    small = make_node(1)
    store.put(small, 60)
    assert not store.put(make_node(2, size=size), 60)
    assert store.get(small.ref) is small


def test_a_node_that_outlived_its_place_leaves_the_next_one_of_its_reference_alone() -> None:
    store = PrefixStore(budget_bytes=12_000)
    forgotten, again = make_node(1, size=100), make_node(1, size=3000)
    store.put(forgotten, 60)
    store.drop(forgotten.ref)
    # As between a turn's headers and its first chunk: nothing pins what it continues.
    with store.pinned(forgotten):
        store.put(again, 60)
    assert store.put(make_node(2, size=8500), 60)
    assert (len(store), store.bytes_used) == (1, make_node(2, size=8500).size)
