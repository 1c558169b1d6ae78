"""Exact continuation: whatever is reused, the ids are those of tokenizing the whole text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from app.prefix.wire import Boundary
from app.vllm_plugin.tokenization import BoundaryTokenizer, admissible_tokens

CORPUS = [
    "hello world, the quick brown fox\n\njumps over the lazy dog",
    "hello there\n\n\nhow are you? <|im_ and end|> im_start",
    "naïve café über 你好 世界 🙂🙂",
] * 4


def build(*added: AddedToken, normalizer: object = None) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def plain(content: str, **options: bool) -> AddedToken:
    return AddedToken(content, normalized=False, **options)


def admissible(*added: AddedToken, normalizer: object = None) -> set[str]:
    return set(BoundaryTokenizer(build(*added, normalizer=normalizer)).admissible.values())


START, END = "<|im_start|>", "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer() -> BoundaryTokenizer:
    return BoundaryTokenizer(
        build(plain(START), plain(END), plain("<think>"), plain("\n"), plain("\n\n"), plain("\n\n\n"))
    )


def test_chat_tokens_are_admissible_and_prefixes_of_other_added_tokens_are_not(
    tokenizer: BoundaryTokenizer,
) -> None:
    # Gemma 3 has "\n" and "\n\n" as added tokens: what follows decides which one it is.
    assert set(tokenizer.admissible.values()) == {START, END, "<think>", "\n\n\n"}


@pytest.mark.parametrize("option", ["lstrip", "rstrip", "single_word"])
def test_tokens_that_take_in_their_surroundings_are_not_admissible(option: str) -> None:
    assert admissible(plain(START, **{option: True}), plain(END)) == {END}


def test_inside_or_prefix_of_another_is_not_admissible_but_suffix_is() -> None:
    assert admissible(plain("<a>"), plain("<a><b>")) == {"<a><b>"}
    assert admissible(plain("<a>"), plain("[<a>]")) == {"[<a>]"}
    assert admissible(plain("<a>"), plain("x<a>")) == {"<a>", "x<a>"}


def test_normalized_tokens_only_without_normalizer_and_without_a_straddling_token() -> None:
    normal = AddedToken("<a>", normalized=True)
    assert admissible(normal) == {"<a>"}
    assert admissible(normal, normalizer=normalizers.Lowercase()) == set()
    assert admissible(normal, normalizer=normalizers.Sequence([])) == {"<a>"}
    assert admissible(normal, normalizer=normalizers.Sequence([normalizers.Lowercase()])) == set()
    assert admissible(normal, AddedToken(">b", normalized=True)) == {">b"}


def test_dropout_admits_nothing() -> None:
    source = build(plain(START))
    source.backend_tokenizer.model.dropout = 0.1
    assert admissible_tokens(source.backend_tokenizer) == {}


def test_the_self_test_is_of_the_loaded_backend() -> None:
    source = build(plain(START))

    class Lowercasing:
        """A tokenizer whose own call does more than its backend."""

        backend_tokenizer = source.backend_tokenizer

        def __call__(self, text: str, **options: object) -> object:
            return source(text.lower(), **options)

    refused = BoundaryTokenizer(Lowercasing())
    assert refused.refusal == "tokenizer_self_test_failed"
    assert refused.admissible == {}


def test_without_a_boundary_there_is_a_reason() -> None:
    assert BoundaryTokenizer(build()).refusal == "no_admissible_boundary"


def test_tokens_added_later_are_noticed() -> None:
    source = build(plain(START))
    clone = BoundaryTokenizer(source)
    assert not clone.changed()
    source.add_tokens([plain("<new>")])
    assert clone.changed()


def continue_(
    tokenizer: BoundaryTokenizer, text: str, known: list[Boundary], ids: list[int]
) -> tuple[list[int], list[Boundary], int]:
    result = tokenizer.tokenize(text, known, np.array(ids, np.int32))
    kept = result.kept
    boundaries = [*known[: known.index(kept) + 1], *result.boundaries] if kept else list(result.boundaries)
    reused = kept.tokens if kept else 0
    return [*ids[:reused], *result.ids.tolist()], boundaries, reused


def test_only_the_new_text_is_tokenized(tokenizer: BoundaryTokenizer) -> None:
    first = f"{START}user\nhello{END}\n{START}assistant\n"
    ids, boundaries, _ = continue_(tokenizer, first, [], [])
    longer = f"{first}world{END}\n{START}user\nbye{END}\n"
    ids, _, reused = continue_(tokenizer, longer, boundaries, ids)
    assert ids == tokenizer.encode(longer)
    assert reused == boundaries[-1].tokens > 0


def test_changed_text_falls_back_to_the_last_boundary_that_holds(tokenizer: BoundaryTokenizer) -> None:
    before = f"{START}a{END}<think>old thoughts{END}{START}"
    ids, boundaries, _ = continue_(tokenizer, before, [], [])
    after = f"{START}a{END}{START}b{END}"
    ids, _, reused = continue_(tokenizer, after, boundaries, ids)
    assert ids == tokenizer.encode(after)
    assert reused == boundaries[1].tokens


def test_a_shorter_text_is_not_a_match(tokenizer: BoundaryTokenizer) -> None:
    text = f"{START}a{END}"
    ids, boundaries, _ = continue_(tokenizer, text, [], [])
    again, _, reused = continue_(tokenizer, text[:-1], boundaries, ids)
    assert again == tokenizer.encode(text[:-1])
    assert reused == boundaries[0].tokens


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [START, END, "<think>", "\n", "\n\n", "\n\n\n", " ", "<|im_", "start|>", "hello", "🙂"]
        ),
        st.text(max_size=6),
    ),
    max_size=12,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(PIECES, st.integers(0, 30)), min_size=1, max_size=6))
def test_any_sequence_of_edits_gives_the_ids_of_the_whole_text(steps: list[tuple[str, int]]) -> None:
    tokenizer = _shared()
    text, ids, boundaries = "", [], []
    for addition, cut in steps:
        text = text[: max(0, len(text) - cut)] + addition
        ids, boundaries, _ = continue_(tokenizer, text, boundaries, ids)
        assert ids == tokenizer.encode(text)
        for boundary in boundaries:
            assert tokenizer.encode(text[: boundary.chars]) == ids[: boundary.tokens]


_cache: list[BoundaryTokenizer] = []


def _shared() -> BoundaryTokenizer:
    if not _cache:
        added = [START, END, "<think>", "\n", "\n\n", "\n\n\n", "x<think>"]
        _cache.append(BoundaryTokenizer(build(*map(plain, added))))
    return _cache[0]
