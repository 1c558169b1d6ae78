"""A decode stream that starts at the prompt's tail says what one of the whole prompt says."""

import pytest
import tokenizers.decoders
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from app.vllm_plugin import detokenizer
from app.vllm_plugin.tokenization import admissible_tokens
from tests.unit.vllm_plugin.test_tokenization import END, START, build, plain


def byte_level() -> Tokenizer:
    backend: Tokenizer = build(plain(START), plain(END)).backend_tokenizer
    return backend


def byte_fallback() -> Tokenizer:
    """As Llama 2's: words with a marked space, bytes for the rest, the first space of a text stripped."""
    words = ["▁", "▁hello", "▁world", "a", "b", "▁a"]
    vocabulary = {word: i for i, word in enumerate(["<unk>", *words, *(f"<0x{b:02X}>" for b in range(256))])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_tokens([plain(START), plain(END)])
    return backend


BACKENDS = {"byte level": byte_level(), "byte fallback": byte_fallback()}


def texts(
    stream: type, backend: Tokenizer, prompt: list[int], answer: list[int], skip: bool
) -> list[str | None]:
    """What each token of the answer adds, up to the first that the library cannot decode."""
    made = stream(ids=prompt, skip_special_tokens=skip)
    said: list[str | None] = []
    for token in answer:
        try:
            said.append(made.step(backend, token))
        except Exception as exc:
            return [*said, str(exc)[:20]]
    return said


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=150)
@given(data=st.data())
def test_any_answer_after_any_prompt(name: str, data: st.DataObject) -> None:
    backend = BACKENDS[name]
    added = {t.content: i for i, t in backend.get_added_tokens_decoder().items()}
    highest = min(added.values()) - 1
    ids = st.lists(st.one_of(st.integers(0, highest), st.sampled_from(list(added.values()))), max_size=60)
    written = st.lists(st.sampled_from(["hello", " world", "你好", "🙂", " ", "\n", "ab"]), max_size=30)
    turns = data.draw(st.lists(written, min_size=1, max_size=4))
    chat = "".join(f"{START}user\n{''.join(words)}{END}\n" for words in turns) + f"{START}assistant\n"
    prompt = backend.encode(chat, add_special_tokens=False).ids + data.draw(ids)
    answer = data.draw(st.one_of(ids, written.map(lambda w: backend.encode("".join(w)).ids)))
    skip = data.draw(st.booleans())
    tail = detokenizer.tail_stream(backend, admissible_tokens(backend), set(added.values()), short_prompt=0)
    ours = texts(tail, backend, prompt, answer, skip)
    assert ours == texts(tokenizers.decoders.DecodeStream, backend, prompt, answer, skip)


def test_the_tail_begins_at_a_boundary_with_ordinary_tokens_after_it() -> None:
    ids = [90, *range(20), 90, *range(20), 91, 1, 2, 90]
    assert detokenizer.tail_start(ids, {90}, {90, 91}) == 21
    assert detokenizer.tail_start(ids, {91}, {90, 91}) == 0
    assert detokenizer.tail_start([90] * 50, {90}, {90}) == 0
