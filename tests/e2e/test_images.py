"""Images through a real vLLM that sees them: what reaches the prompt, and what is shared between prompts.

The model is tiny and random, so its words say nothing of the image: prompts are told apart by their tokens
and by what of them the engine's cache gives to another.
"""

import base64
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import Response

from app.local.vllm import LocalVllm
from tests.e2e import tiny_idefics
from tests.e2e.stack import SECRET, ask, path, rendered_ids, running
from tests.parity.families import FAMILIES

Rgb = tuple[int, int, int]
RED, BLUE, GREEN, GREY = (255, 0, 0), (0, 0, 255), (0, 255, 0), (9, 9, 9)
BLOCK_TOKENS = 128
"""Of vLLM's KV cache on a CPU: it shares no less."""


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    scratch = tmp_path_factory.mktemp("images")
    model = tiny_idefics.make(FAMILIES["smollm2"].directory(), scratch / "model")
    server = LocalVllm(str(model), "seer", log_dir=scratch, secret=SECRET, extra_args=tiny_idefics.LOAD_ARGS)
    with running(server, timeout_s=500):
        yield server.url


@pytest.fixture
def client(vllm_url: str, client_for: Callable[..., OpenAI]) -> OpenAI:
    return client_for(vllm_url)


def png(colour: Rgb, width: int = 64, height: int = 64) -> str:
    """A data: URL of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes(colour) * width) * height
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return data_url(b"\x89PNG\r\n\x1a\n" + parts)


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def seen(*urls: str, text: str = "What is this?") -> list[dict[str, Any]]:
    pictures = [{"type": "input_image", "image_url": url} for url in urls]
    return [{"role": "user", "content": [*pictures, {"type": "input_text", "text": text}]}]


def tokens(response: Response) -> int:
    assert response.usage is not None
    return response.usage.input_tokens


def cached(response: Response) -> int:
    assert response.usage is not None
    return response.usage.input_tokens_details.cached_tokens


def in_full(client: OpenAI, question: Any, previous: str | None = None) -> Response:
    """The same turn on vLLM's own route, with the whole history and no reference."""
    answer = ask(client, question, previous, extra_body={"caching": {"type": "disabled"}})
    assert path(answer) == ("full", "caching_disabled")
    return answer


def test_an_image_is_part_of_the_prompt_as_large_as_it_is(client: OpenAI, vllm_url: str) -> None:
    square, strip = png(RED), png(RED, height=32)
    counts = [tokens(ask(client, seen(*urls))) for urls in ((), (strip,), (square,), (square, strip))]
    assert counts == sorted({*counts})
    assert counts[3] - counts[2] == counts[1] - counts[0]

    answer = ask(client, seen(square))
    assert path(answer) == ("full", "not_continuable")
    assert answer.status in ("completed", "incomplete")
    content = [
        {"type": "image_url", "image_url": {"url": square}},
        {"type": "text", "text": "What is this?"},
    ]
    assert tokens(answer) == len(rendered_ids(vllm_url, [{"role": "user", "content": content}]))
    assert tokens(in_full(client, seen(square))) == tokens(answer)


def test_the_images_of_a_history_are_in_the_next_prompt(client: OpenAI) -> None:
    first = ask(client, seen(png(RED)))
    second = ask(client, "And now?", first.id)
    assert path(second) == ("full", "not_continuable")
    assert cached(second) >= BLOCK_TOKENS
    assert tokens(second) == tokens(in_full(client, "And now?", first.id)) > tokens(first)
    third = ask(client, seen(png(BLUE)), second.id)
    assert tokens(third) == tokens(in_full(client, seen(png(BLUE)), second.id)) > 2 * tokens(first)


def test_an_image_joins_a_conversation_that_was_continued_by_reference(client: OpenAI) -> None:
    first = ask(client, "Hello.")
    second = ask(client, "Hello again.", first.id)
    assert path(second) == ("hit", None)
    third = ask(client, seen(png(RED)), second.id)
    assert path(third) == ("full", "not_continuable")
    assert tokens(third) == tokens(in_full(client, seen(png(RED)), second.id))
    # The turns before it can still be continued.
    assert path(ask(client, "Without it?", second.id)) == ("hit", None)


def test_different_images_are_never_taken_for_each_other(client: OpenAI) -> None:
    text = "Which colour is it?"
    red = ask(client, seen(png(RED), text=text))
    blue = ask(client, seen(png(BLUE), text=text))
    assert tokens(red) == tokens(blue)
    assert (cached(blue), path(blue)) == (0, ("full", "not_continuable"))
    again = ask(client, seen(png(RED), text=text))
    assert cached(again) >= BLOCK_TOKENS

    after_red, after_blue = (ask(client, "Sure?", first.id) for first in (red, blue))
    assert (path(after_red)[0], path(after_blue)[0]) == ("full", "full")
    green = ask(client, seen(png(GREEN), text=text))
    carried = [*seen(png(GREEN), text=text), green.output[0].to_dict(), {"role": "user", "content": "Sure?"}]
    by_content = ask(client, carried)
    assert path(by_content) == ("full", "not_continuable")
    assert tokens(by_content) == tokens(ask(client, "Sure?", green.id))


def test_conversations_without_images_are_continued_by_reference(client: OpenAI) -> None:
    first = ask(client, "Name a river.")
    second = ask(client, [{"role": "user", "content": [{"type": "input_text", "text": "Why?"}]}], first.id)
    assert path(second) == ("hit", None)
    assert tokens(second) == tokens(in_full(client, "Why?", first.id))


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("caching", ["enabled", "disabled"])
@pytest.mark.parametrize(
    "url",
    [
        data_url(b"no image at all"),
        png(RED)[:90],
        "data:image/png;base64,@@@",
        "data:,plain",
        f"http://127.0.0.1:{closed_port()}/red.png",
        "http:///red.png",
        "file:///etc/hostname",
        "red.png",
        "",
    ],
    ids=["text", "cut", "characters", "plain", "unreachable", "hostless", "file", "name", "empty"],
)
def test_what_is_no_image_is_the_requests_fault(client: OpenAI, url: str, caching: str) -> None:
    first = ask(client, "Hello.")
    refusals = []
    with pytest.raises(BadRequestError) as caught:
        ask(client, seen(url), first.id, extra_body={"caching": {"type": caching}})
    refusals.append(caught.value)
    if caching == "enabled":
        with pytest.raises(BadRequestError) as caught:
            client.responses.input_tokens.count(input=seen(url))  # type: ignore[arg-type]
        refusals.append(caught.value)
    assert {str(refusal.param).split("[")[0] for refusal in refusals} == {"input"}
    assert path(ask(client, "Hello again.", first.id)) == ("hit", None)


def test_images_that_do_not_fit_are_a_context_too_long(client: OpenAI) -> None:
    many = seen(*(png((1, 2, shade)) for shade in range(13)))
    with pytest.raises(BadRequestError) as caught:
        ask(client, many)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


def test_input_items_hold_the_image(client: OpenAI) -> None:
    picture = png(RED, 8, 8)
    answer = ask(client, "And now?", ask(client, seen(picture)).id)
    oldest = client.responses.input_items.list(answer.id, order="asc").data[0]
    assert oldest.to_dict()["content"] == [
        {"type": "input_image", "image_url": picture, "detail": "auto"},
        {"type": "input_text", "text": "What is this?"},
    ]


def test_counting_says_what_the_answer_will_and_leaves_no_trace(client: OpenAI) -> None:
    first = ask(client, "Hello.")
    for previous, colour in ((None, GREY), (first.id, (7, 7, 7))):
        fields: Any = {"input": seen(png(colour)), "previous_response_id": previous}
        counted = client.responses.input_tokens.count(**fields)
        # vLLM would not send an image to its engine that it believes to be there.
        answer = ask(client, fields["input"], previous)
        assert counted.input_tokens == tokens(answer)
        assert client.responses.input_tokens.count(**fields).input_tokens == tokens(answer)


def test_a_tool_may_answer_with_an_image(client: OpenAI) -> None:
    call: dict[str, Any] = {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c"}
    asked = [{"role": "user", "content": "Look."}, call]
    pictured = [{"type": "input_image", "image_url": png(RED)}]
    with_image = tokens(ask(client, [*asked, {**output, "output": pictured}]))
    assert with_image > tokens(ask(client, [*asked, {**output, "output": ""}])) + BLOCK_TOKENS
