"""Exact continuation: whatever is reused, the ids are those of tokenizing the whole text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, processors

from app.vllm_plugin.continuation import Continuation, continue_prompt
from app.vllm_plugin.known import NOTHING, Known
from app.vllm_plugin.tokenization import BoundaryTokenizer
from tests.unit.vllm_plugin.test_tokenization import END, START, build, plain


@pytest.fixture(scope="module")
def tokenizer() -> BoundaryTokenizer:
    return _shared()


def known_of(made: Continuation, before: Known, text: str, *samples: list[int]) -> Known:
    """What a turn that made this prompt would keep of it."""
    ids = np.concatenate((before.ids[: made.delta.keep_tokens], made.delta.ids))
    whole = made.delta.whole(before, ids)
    return Known(
        ids,
        whole.boundaries,
        whole.span_hashes,
        whole.sampled,
        len(text),
        len(text),
        made.text_hash,
        tuple(np.array(sample, np.int32) for sample in samples),
    )


def prompt(tokenizer: BoundaryTokenizer, text: str, *samples: list[int]) -> Known:
    return known_of(continue_prompt(tokenizer, text, NOTHING), NOTHING, text, *samples)


def test_only_the_new_text_is_tokenized(tokenizer: BoundaryTokenizer) -> None:
    first = f"{START}user\nhello{END}\n{START}assistant\n"
    known = prompt(tokenizer, first)
    longer = f"{first}world{END}\n{START}user\nbye{END}\n"
    made = continue_prompt(tokenizer, longer, known)
    assert known_of(made, known, longer).ids.tolist() == tokenizer.encode(longer)
    assert made.delta.keep_tokens == known.boundaries[-1].tokens > 0


def test_changed_text_falls_back_to_the_last_boundary_that_holds(tokenizer: BoundaryTokenizer) -> None:
    known = prompt(tokenizer, f"{START}a{END}<think>old thoughts{END}{START}")
    after = f"{START}a{END}{START}b{END}"
    made = continue_prompt(tokenizer, after, known)
    assert known_of(made, known, after).ids.tolist() == tokenizer.encode(after)
    assert made.delta.keep_tokens == known.boundaries[1].tokens


def test_a_shorter_text_is_not_a_match(tokenizer: BoundaryTokenizer) -> None:
    text = f"{START}a{END}"
    known = prompt(tokenizer, text)
    made = continue_prompt(tokenizer, text[:-1], known)
    assert known_of(made, known, text[:-1]).ids.tolist() == tokenizer.encode(text[:-1])
    assert made.delta.keep_tokens == known.boundaries[0].tokens


def test_after_a_rewind_only_spans_of_new_text_are_tokenized(tokenizer: BoundaryTokenizer) -> None:
    spans = [f"{START}user\nmessage number {n}{END}" for n in range(20)]
    known = prompt(tokenizer, "".join(spans))
    # One goes, one changes, one moves to the front, one is new at the end.
    changed = [spans[9], *spans[:5], f"{START}user\nother{END}", *spans[7:9], *spans[10:], f"{START}new"]
    text = "".join(changed)
    made = continue_prompt(tokenizer, text, known)
    assert known_of(made, known, text).ids.tolist() == tokenizer.encode(text)
    new = len(tokenizer.encode(f"user\nother{END}")) + len(tokenizer.encode("new"))
    assert len(known_of(made, known, text).ids) - made.reused_tokens == new


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                START,
                END,
                "<think>",
                "\n",
                "\n\n",
                "\n\n\n",
                " ",
                "<|im_",
                "start|>",
                "hello",
                "🙂",
                "x<think>",
            ]
        ),
        st.text(max_size=6),
    ),
    max_size=12,
).map("".join)

_cache: list[BoundaryTokenizer] = []


def _shared() -> BoundaryTokenizer:
    if not _cache:
        added = [START, END, "<think>", "\n", "\n\n", "\n\n\n", "x<think>"]
        _cache.append(BoundaryTokenizer(build(*map(plain, added))))
        _cache.append(BoundaryTokenizer(build(*map(plain, added), normalizer=normalizers.NFC())))
    return _cache[0]


@settings(max_examples=600)
@given(
    st.lists(st.tuples(PIECES, st.integers(0, 30), st.integers(0, 40)), min_size=1, max_size=6), st.booleans()
)
def test_any_sequence_of_edits_gives_the_ids_of_the_whole_text(
    steps: list[tuple[str, int, int]], normalizing: bool
) -> None:
    _shared()
    tokenizer = _cache[normalizing]
    text, known = "", NOTHING
    for addition, cut, at in steps:
        # In the middle as well: what follows is found again by its spans.
        at = min(at, len(text))
        text = text[:at] + addition + text[at + cut :]
        made = continue_prompt(tokenizer, text, known)
        known = known_of(made, known, text)
        assert known.ids.tolist() == tokenizer.encode(text)
        assert len(known.span_hashes) == len(known.boundaries)
        for boundary in known.boundaries:
            assert tokenizer.encode(text[: boundary.chars]) == known.ids[: boundary.tokens].tolist()


ASK = f"{START}user\nhello{END}\n{START}assistant\n"
"""A prompt; what the model answers comes after it."""


def spell(tokenizer: BoundaryTokenizer, text: str) -> list[int]:
    """`text` one byte per token: as good as any other sample that says it."""
    alphabet = [tokenizer.backend.id_to_token(token) for token in tokenizer.encode(text)]
    ids = [tokenizer.backend.token_to_id(c) for token in alphabet for c in token]
    assert tokenizer.backend.decode(ids) == text
    return ids


def after(tokenizer: BoundaryTokenizer, sample: list[int], text: str) -> tuple[Continuation, list[int]]:
    """`text` after ASK, where the model said `sample`."""
    known = prompt(tokenizer, ASK, sample)
    made = continue_prompt(tokenizer, ASK + text, known)
    ids = known_of(made, known, ASK + text).ids.tolist()
    assert tokenizer.backend.decode(ids, skip_special_tokens=False) == ASK + text
    return made, ids


def token(tokenizer: BoundaryTokenizer, content: str) -> int:
    found: int = tokenizer.backend.token_to_id(content)
    return found


def test_what_was_sampled_goes_on_as_it_was_sampled(tokenizer: BoundaryTokenizer) -> None:
    sample = spell(tokenizer, "hello there")
    next_turn = f"\n{START}user\nbye{END}\n"
    made, ids = after(tokenizer, [*sample, token(tokenizer, END)], f"hello there{END}{next_turn}")
    before = tokenizer.encode(ASK)
    assert ids == [*before, *sample, *tokenizer.encode(f"{END}{next_turn}")]
    assert ids != tokenizer.encode(f"{ASK}hello there{END}{next_turn}")
    assert (made.delta.keep_tokens, made.sampled_tokens) == (len(before), len(sample))
    (span,) = made.delta.sampled
    # What was not sampled is what a full render would give, on both sides.
    whole = tokenizer.encode(f"{ASK}hello there{END}{next_turn}")
    assert whole[: span.first_token] == ids[: span.first_token]
    assert whole[-(len(ids) - span.end_token) :] == ids[span.end_token :]
    # And all boundaries after it count its own tokens.
    known = known_of(made, prompt(tokenizer, ASK), f"{ASK}hello there{END}{next_turn}")
    assert [ids[b.tokens - 1] for b in known.boundaries] == [
        token(tokenizer, content) for content in (START, END, START, END, START, END)
    ]


def test_ids_past_a_stop_string_or_of_half_a_character_are_left_out(tokenizer: BoundaryTokenizer) -> None:
    said = spell(tokenizer, "hello ")
    made, ids = after(tokenizer, [*said, *spell(tokenizer, "STOP")], f"hello {END}")
    assert ids == [*tokenizer.encode(ASK), *said, token(tokenizer, END)]
    assert made.sampled_tokens == len(said)
    half = spell(tokenizer, "🙂")[:2]
    made, ids = after(tokenizer, [*said, *half], f"hello {END}")
    assert made.sampled_tokens == len(said)


def test_where_a_stop_string_cuts_a_token_the_text_is_tokenized(tokenizer: BoundaryTokenizer) -> None:
    (hello,) = [t for t in tokenizer.encode("hello") if tokenizer.backend.decode([t]) == "hello"] or [None]
    assert hello is not None
    made, ids = after(tokenizer, [hello], f"hel{END}")
    assert made.sampled_tokens == 0
    assert ids == tokenizer.encode(f"{ASK}hel{END}")


def test_what_the_template_changed_is_tokenized_from_the_last_boundary_that_was_sampled(
    tokenizer: BoundaryTokenizer,
) -> None:
    thought = [*spell(tokenizer, "let me see"), token(tokenizer, "<think>")]
    sample = [*thought, *spell(tokenizer, '{"a":1}'), token(tokenizer, END)]
    # As a template writes the arguments of a tool call anew.
    made, ids = after(tokenizer, sample, f'let me see<think>{{"a": 1}}{END}')
    assert ids == [*tokenizer.encode(ASK), *thought, *tokenizer.encode(f'{{"a": 1}}{END}')]
    assert made.sampled_tokens == len(thought) - 1
    # Dropped altogether: nothing of it is left.
    made, ids = after(tokenizer, sample, f'{{"a": 1}}{END}')
    assert (made.sampled_tokens, made.delta.sampled) == (0, ())
    assert ids == tokenizer.encode(f'{ASK}{{"a": 1}}{END}')


@pytest.mark.parametrize("spelled", [END, START, "x<think>", "\n\n"])
def test_an_added_token_spelled_in_ordinary_ones_is_not_reused(
    tokenizer: BoundaryTokenizer, spelled: str
) -> None:
    sample = [i for c in spelled for i in spell(tokenizer, c) if c != "\n"] or [token(tokenizer, "\n")] * 2
    made, ids = after(tokenizer, [*spell(tokenizer, "hello "), *sample], f"hello {spelled}{END}")
    assert ids == tokenizer.encode(f"{ASK}hello {spelled}{END}")
    assert made.sampled_tokens <= len("hello ")


def test_a_sample_whose_end_a_token_straddles_is_not_reused() -> None:
    tokenizer = BoundaryTokenizer(build(plain(START), plain(END), plain("hello<|im")))
    made, ids = after(tokenizer, spell(tokenizer, "hello"), f"hello{END}")
    assert ids == tokenizer.encode(f"{ASK}hello{END}")
    assert made.sampled_tokens == 0


def test_the_longest_of_several_answers_is_taken(tokenizer: BoundaryTokenizer) -> None:
    known = prompt(tokenizer, ASK, spell(tokenizer, "one"), spell(tokenizer, "two"), [], [10**6])
    made = continue_prompt(tokenizer, f"{ASK}two{END}", known)
    assert made.sampled_tokens == 3
    # The longest text, in however few tokens: the other agrees up to its boundary only.
    begun = [*spell(tokenizer, "hello there"), token(tokenizer, "<think>"), *spell(tokenizer, "no")]
    whole = tokenizer.encode("hello there<think>yes")
    for samples in ((begun, whole), (whole, begun)):
        made = continue_prompt(
            tokenizer, f"{ASK}hello there<think>yes{END}", prompt(tokenizer, ASK, *samples)
        )
        assert made.sampled_tokens == len(whole) < len("hello there")


def test_what_was_sampled_after_another_text_of_the_same_length_is_not_reused(
    tokenizer: BoundaryTokenizer,
) -> None:
    known = prompt(tokenizer, f"{START}user\none{END}\n{ASK}", spell(tokenizer, "yes"))
    text = f"{START}user\ntwo{END}\n{ASK}yes{END}"
    made = continue_prompt(tokenizer, text, known)
    assert known_of(made, known, text).ids.tolist() == tokenizer.encode(text)


def test_half_a_character_is_not_the_sign_that_stands_for_it(tokenizer: BoundaryTokenizer) -> None:
    """Both decode to U+FFFD: of such a text the ids cannot be told."""
    half = spell(tokenizer, "🙂")[:2]
    said = spell(tokenizer, "hello ")
    text = tokenizer.backend.decode([*said, *half])
    made, ids = after(tokenizer, [*said, *half], f"{text}{END}")
    assert made.sampled_tokens == 0
    assert ids == tokenizer.encode(f"{ASK}{text}{END}")


def test_an_added_token_that_reads_elsewhere_in_the_same_text_is_not_reused() -> None:
    """The model says `a`, then the token `aa`; a tokenizer reads `aa`, then `a`."""
    tokenizer = BoundaryTokenizer(build(plain(START), plain(END), plain("aa")))
    sample = [*spell(tokenizer, "a"), token(tokenizer, "aa")]
    made, ids = after(tokenizer, sample, f"aaa{END}")
    assert made.sampled_tokens == 0
    assert ids == tokenizer.encode(f"{ASK}aaa{END}")


@settings(max_examples=400)
@given(st.data())
def test_any_sample_gives_the_same_text_and_elsewhere_the_same_ids(data: st.DataObject) -> None:
    tokenizer = _shared()
    said = data.draw(PIECES)
    sample = data.draw(
        st.lists(st.sampled_from([*tokenizer.encode(said), *tokenizer.encode(END), 0, 5]), max_size=9)
        | st.just(tokenizer.encode(said))
        | st.just([i for t in tokenizer.encode(said) for i in _in_bytes(tokenizer, t)])
    )
    ending = data.draw(st.sampled_from([END, f"{END}\n{START}", "", "<think>", "\n"]))
    cut = data.draw(st.integers(0, 3))
    text = f"{ASK}{said[: len(said) - cut]}{ending}"
    known = prompt(tokenizer, ASK, sample)
    made = continue_prompt(tokenizer, text, known)
    ids = known_of(made, known, text).ids.tolist()
    assert tokenizer.backend.decode(ids, skip_special_tokens=False) == tokenizer.backend.decode(
        tokenizer.encode(text), skip_special_tokens=False
    )
    whole = tokenizer.encode(text)
    for span in made.delta.sampled:
        assert ids[: span.first_token] == whole[: span.first_token]
        assert ids[span.end_token :] == whole[len(whole) - (len(ids) - span.end_token) :]
        added = [t for t in ids if t in tokenizer.added]
        assert added == [t for t in whole if t in tokenizer.added]
    if not made.delta.sampled:
        assert ids == whole
    for boundary in known_of(made, known, text).boundaries:
        content = tokenizer.admissible[ids[boundary.tokens - 1]]
        assert text.endswith(content, 0, boundary.chars)


def _in_bytes(tokenizer: BoundaryTokenizer, token_id: int) -> list[int]:
    if token_id in tokenizer.added:
        return [token_id]
    return [tokenizer.backend.token_to_id(c) for c in tokenizer.backend.id_to_token(token_id)]


def test_an_answer_full_of_boundaries_counts_each_of_them(tokenizer: BoundaryTokenizer) -> None:
    thought = token(tokenizer, "<think>")
    sample = [i for _ in range(300) for i in (*spell(tokenizer, "cell"), thought)]
    text = "cell<think>" * 300 + END
    known = prompt(tokenizer, ASK, sample)
    made = continue_prompt(tokenizer, ASK + text, known)
    assert made.sampled_tokens == len(sample) == 1500
    known = known_of(made, known, ASK + text)
    assert [b.tokens for b in known.boundaries[-301:-1]] == [
        len(tokenizer.encode(ASK)) + 5 * n for n in range(1, 301)
    ]
    assert [b.chars for b in known.boundaries[-301:-1]] == [len(ASK) + 11 * n for n in range(1, 301)]


def test_offsets_are_the_texts_whatever_a_post_processor_makes_of_them() -> None:
    source = build(plain(START), plain(END), plain("\n\n\n"))
    source.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trimming = BoundaryTokenizer(source)
    made = continue_prompt(trimming, f"{START}a \n\n\n{END}", NOTHING)
    assert [b.chars for b in made.delta.boundaries] == [12, 17, 27]
