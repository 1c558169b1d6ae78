"""Which added tokens are safe boundaries, and the self-test of the loaded tokenizer."""

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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


def test_how_many_ids_the_end_of_a_text_has(tokenizer: BoundaryTokenizer) -> None:
    ids = np.array(tokenizer.encode(f"hello{END}你好🙂{START}world\n"), np.int32)
    counts = [tokenizer.ids_at_end(ids, chars) for chars in range(len(f"🙂{START}world\n") + 1)]
    assert counts[0] == 0
    assert counts[len("d\n")] == len(tokenizer.encode("d\n"))
    # A part of a token is all of it, and a character of several tokens has them all.
    upto = len(tokenizer.encode(f"{START}world\n"))
    assert counts[-1 - len("🙂") - 1] == counts[-1 - len("🙂")] == upto
    assert counts[-1] == len(tokenizer.encode(f"🙂{START}world\n"))
    assert counts == sorted(counts)
    assert tokenizer.ids_at_end(ids[:1], 100) == 1
