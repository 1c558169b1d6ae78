"""Each rule of ADR 0002 on a tokenizer that breaks what is weaker: none of these passes without its rule."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from app.vllm_plugin.continuation import continue_prompt
from app.vllm_plugin.known import NOTHING
from app.vllm_plugin.spans import Splitter
from app.vllm_plugin.tokenization import BoundaryTokenizer
from tests.parity.offline import Offline
from tests.unit.vllm_plugin.test_continuation import known_of
from tests.unit.vllm_plugin.test_tokenization import build, plain


def continued(tokenizer: BoundaryTokenizer, texts: Sequence[str]) -> tuple[list[int], int]:
    """Ids of the last text after the others were its history, and how many of them were reused."""
    known, reused = NOTHING, 0
    for text in texts:
        made = continue_prompt(tokenizer, text, known)
        reused = made.reused_tokens
        known = known_of(made, known, text)
    return known.ids.tolist(), reused


@pytest.fixture(scope="session")
def gemma3(load: Callable[[str], Offline]) -> BoundaryTokenizer:
    return load("gemma3").service._tokenizer


@pytest.mark.parametrize(
    "texts",
    [
        ["<bos>a\n", "<bos>a\n\n\nb"],
        ["<bos>a\n\n", "<bos>a\n\n\n\nb"],
        ["<bos>▁▁", "<bos>▁▁▁"],
        ["<bos>" + "\n" * 30, "<bos>" + "\n" * 64],
    ],
)
def test_gemmas_runs_are_no_boundaries(gemma3: BoundaryTokenizer, texts: list[str]) -> None:
    ids, reused = continued(gemma3, texts)
    assert ids == gemma3.encode(texts[-1])
    assert reused == 1, "of <bos>"


def test_a_run_that_grows_is_no_boundary_of_what_follows(gemma3: BoundaryTokenizer) -> None:
    """What the rules are for: cut behind any added token, and the ids are wrong."""
    assert gemma3.encode("a\n") + gemma3.encode("\n\nb") != gemma3.encode("a\n\n\nb")


def test_even_as_a_boundary_a_run_that_grows_is_noticed(gemma3: BoundaryTokenizer) -> None:
    """Rule 4 alone: tokenizing from the start of the boundary gives another first id."""
    weaker = copy.copy(gemma3)
    weaker.admissible = {t: a.content for t, a in gemma3.backend.get_added_tokens_decoder().items()}
    weaker.admissible_ids = np.fromiter(weaker.admissible, np.int32)
    weaker.splitter = Splitter(weaker.backend, weaker.admissible)
    ids, reused = continued(weaker, ["<bos>a\n", "<bos>a\n\n\nb"])
    assert (ids, reused) == (gemma3.encode("<bos>a\n\n\nb"), 1)
    assert continued(weaker, ["<bos>a\n", "<bos>a\nb"])[1] == 3


def test_inside_of_another_added_token_is_no_boundary() -> None:
    """Rule 2 alone: from the start of `<a>` nothing shows that the text before it now goes with it."""
    tokenizer = BoundaryTokenizer(build(plain("<a>"), plain("[<a>]")))
    assert continued(tokenizer, ["x[<a>", "x[<a>]"])[0] == tokenizer.encode("x[<a>]")


def test_the_longest_run_is_a_boundary(gemma3: BoundaryTokenizer) -> None:
    # What no other added token holds, cannot become another one.
    ids, reused = continued(gemma3, ["a" + "\n" * 31, "a" + "\n" * 50])
    assert (ids, reused) == (gemma3.encode("a" + "\n" * 50), 2)


def test_the_id_alone_is_not_enough(gemma3: BoundaryTokenizer) -> None:
    """31 spaces have the id of the added token "▁" * 31, which is admissible, but nothing splits there."""
    run = "▁" * 31
    (token,) = gemma3.encode(run)
    assert gemma3.encode(" " * 31) == [token]
    assert gemma3.admissible[token] == run
    assert len(continue_prompt(gemma3, run, NOTHING).delta.boundaries) == 1
    assert continue_prompt(gemma3, " " * 31, NOTHING).delta.boundaries == ()


def test_the_text_after_a_boundary_is_tokenized_from_the_boundarys_start() -> None:
    """This tokenizer treats the start of a text specially, as Llama 2's does."""
    backend = Tokenizer(models.BPE(vocab={"▁": 0, "a": 1, "▁a": 2}, merges=[("▁", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.add_tokens([plain("<s>")])
    tokenizer = BoundaryTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert tokenizer.encode("a") == [2]
    ids, reused = continued(tokenizer, ["<s>", "<s>a"])
    assert (ids, reused) == (tokenizer.encode("<s>a"), 1)
    assert ids[1:] == [1]


def test_a_boundary_that_the_new_text_swallows_is_not_used() -> None:
    """A later token takes in the blank at the boundary's end: the same text, and no boundary any more."""
    tokenizer = BoundaryTokenizer(build(AddedToken("<a> ", normalized=True), plain("<b>", lstrip=True)))
    assert set(tokenizer.admissible.values()) == {"<a> "}
    ids, reused = continued(tokenizer, ["x<a> ", "x<a> <b>"])
    assert (ids, reused) == (tokenizer.encode("x<a> <b>"), 0)


@pytest.mark.parametrize("texts", [["x<t>a", "x<t> a"], ["x<t", "x<t>", "x<t>a"]])
def test_a_word_that_is_found_but_does_not_stand_alone_hides_a_boundary(texts: list[str]) -> None:
    """`x<t>` is an added token only before a blank. Before a letter the model gets the text, and this model
    spells `<t>` itself: the id and the text at its offset are those of a boundary, and it is none."""
    letters = {letter: n for n, letter in enumerate("<t>xa ")}
    vocabulary = letters | {"<t": len(letters), "<t>": len(letters) + 1}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("<", "t"), ("<t", ">")]))
    backend.add_tokens([plain("<t>"), plain("x<t>", single_word=True)])
    tokenizer = BoundaryTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert continued(tokenizer, texts)[0] == tokenizer.encode(texts[-1])


def test_truncation_and_padding_of_the_loaded_tokenizer_are_not_ours() -> None:
    """vLLM sets both on its own backend, per request."""
    source = build(plain("<a>"))
    backend = source.backend_tokenizer
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.encode_special_tokens = True
    tokenizer = BoundaryTokenizer(source)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = False
    text = "hello <a> world"
    assert tokenizer.encode(text) == source(text, add_special_tokens=False)["input_ids"]
