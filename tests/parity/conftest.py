"""Families are loaded once per session; the seconds that this takes are vLLM's and the tokenizers' own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.parity.families import FAMILIES
from tests.parity.offline import Offline


@pytest.fixture(scope="session")
def load() -> Iterator[Callable[[str], Offline]]:
    """A family's worker, by name."""
    loaded: dict[Path, Offline] = {}

    def get(name: str) -> Offline:
        family = FAMILIES[name]
        directory = family.directory()
        if directory not in loaded:
            loaded[directory] = Offline(family)
        loaded[directory].become(family)
        return loaded[directory]

    yield get
    for worker in loaded.values():
        worker.close()
