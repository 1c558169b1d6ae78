"""What a create request can ask for, on real vLLM: decoding by grammars, truncation, prefixes made ahead."""

import json
import re
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import Response

from tests.e2e.stack import Recorder, ask, caching, path, rendered_ids, wait_until_idle

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"enum": [1, 2]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
SHELL: dict[str, Any] = {
    "type": "custom",
    "name": "shell",
    "format": {"type": "grammar", "syntax": "regex", "definition": "(ls|cat) [a-z]{3}"},
}
ALLOWED = {"type": "allowed_tools", "mode": "required"}


def only_call(response: Response) -> Any:
    (call,) = response.output
    return call


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "name": "weather"},
        {**ALLOWED, "tools": [{"type": "function", "name": "weather"}]},
    ],
    ids=["required", "named", "allowed"],
)
def test_arguments_are_what_the_schema_allows(client: OpenAI, choice: Any) -> None:
    # So many single calls are allowed at most: one.
    asked: dict[str, Any] = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
    call = only_call(ask(client, "Say something that is no JSON.", max_output_tokens=120, **asked))
    assert (call.type, call.name, call.status) == ("function_call", "weather", "completed")
    arguments = json.loads(call.arguments)
    assert arguments["city"] in ("Rome", "Oslo")
    assert arguments["days"] in (1, 2)


def test_a_custom_tools_input_is_what_its_grammar_allows(client: OpenAI, vllm_url: str) -> None:
    asked: dict[str, Any] = {"tools": [WEATHER, SHELL], "parallel_tool_calls": False}
    chosen = {**ALLOWED, "tools": [{"type": "custom", "name": "shell"}]}
    first = ask(client, "What is here?", max_output_tokens=120, tool_choice=chosen, **asked)
    call = only_call(first)
    assert (call.type, call.name) == ("custom_tool_call", "shell")
    assert re.fullmatch("(ls|cat) [a-z]{3}", call.input)
    output = [{"type": "custom_tool_call_output", "call_id": call.call_id, "output": "a.txt"}]
    second = ask(client, output, first.id, tools=[SHELL], tool_choice="none")
    in_full = ask(
        client,
        output,
        first.id,
        tools=[SHELL],
        tool_choice="none",
        extra_body={"caching": {"type": "disabled"}},
    )
    assert path(second)[0] in ("hit", "rewind")
    assert second.output_text == in_full.output_text


def test_tools_that_are_not_allowed_are_not_shown(client: OpenAI, vllm_url: str, recorder: Recorder) -> None:
    chosen = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "shell"}]}
    response = ask(client, "What is here?", tools=[WEATHER, SHELL], tool_choice=chosen)
    sent = json.loads(recorder.sent("/prefix/v1/chat")[-1])["chat"]["tools"]
    assert [tool["function"]["name"] for tool in sent] == ["shell"]
    assert [tool.name for tool in response.tools] == ["weather", "shell"]  # type: ignore[union-attr]
    assert response.tool_choice.to_dict() == chosen  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "x"}}}}, "text.format"),
        ({"tools": [{**WEATHER, "parameters": {"type": "x"}}], "tool_choice": "required"}, "tools"),
        ({"extra_body": {"structured_outputs": {"regex": "["}}}, "structured_outputs"),
    ],
    ids=["schema", "tool", "regex"],
)
def test_what_cannot_be_decoded_by_is_named(
    client: OpenAI, fields: dict[str, Any], param: str, stream: bool
) -> None:
    parent = ask(client, "Hello.")
    if stream:
        asked = client.responses.create(input="x", previous_response_id=parent.id, stream=True, **fields)
        final = list(asked)[-1]
        assert final.type == "response.failed"
        assert final.response.error is not None
        assert final.response.error.code == "invalid_prompt"
        assert param in final.response.error.message
    else:
        with pytest.raises(BadRequestError, match=re.escape(param)) as caught:
            client.responses.create(input="x", previous_response_id=parent.id, **fields)
        assert caught.value.param == param
    # Nothing of it stays.
    assert path(ask(client, "Hello again.", parent.id)) == ("hit", None)


def test_vllms_own_fields_reach_it(client: OpenAI) -> None:
    text = ask(client, "Count to nine.", max_output_tokens=40).output_text
    assert len(text) > 8
    stop = text[4:6]
    stopped = ask(client, "Count to nine.", max_output_tokens=40, extra_body={"stop": [stop]})
    assert (stopped.output_text, stopped.status) == (text[: text.index(stop)], "completed")
    chosen = ask(client, "Yes or no?", extra_body={"structured_outputs": {"choice": ["maybe"]}})
    assert chosen.output_text == "maybe"
    at_random = [
        ask(client, "Say a word.", temperature=1.5, extra_body={"seed": seed}).output_text
        for seed in (1, 1, 2)
    ]
    assert at_random[0] == at_random[1] != at_random[2]


def test_vllms_refusal_of_a_field_names_it(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="logit_bias") as caught:
        ask(client, "x", extra_body={"logit_bias": {"word": 1}})
    assert caught.value.param == "logit_bias"


def test_an_image_for_a_model_that_sees_none_is_refused(client: OpenAI) -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}
    with pytest.raises(BadRequestError, match="multimodal") as caught:
        ask(client, [{"role": "user", "content": [picture]}])
    assert caught.value.param == "input"


def test_a_conversation_that_outgrew_the_model_goes_on_without_its_oldest_turns(
    client: OpenAI, vllm_url: str
) -> None:
    long = "Remember this: " + "one two three four five six seven eight nine ten. " * 250
    first = ask(client, long + "Number 1.", instructions="Be brief.")
    second = ask(client, long + "Number 2.", first.id, instructions="Be brief.")
    with pytest.raises(BadRequestError) as caught:
        ask(client, long + "Number 3.", second.id, instructions="Be brief.")
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")

    asked: dict[str, Any] = {"instructions": "Be brief.", "truncation": "auto"}
    third = ask(client, long + "Number 3.", second.id, **asked)
    assert path(third) == ("full", "truncated")
    kept = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": long + "Number 2."},
        {"role": "assistant", "content": second.output_text},
        {"role": "user", "content": long + "Number 3."},
    ]
    assert third.usage is not None
    assert third.usage.input_tokens == len(rendered_ids(vllm_url, kept))
    counted = client.responses.input_tokens.count(
        input=long + "Number 3.", previous_response_id=second.id, **asked
    )
    assert counted.input_tokens == third.usage.input_tokens
    whole = client.responses.input_tokens.count(
        input=long + "Number 3.", previous_response_id=second.id, instructions="Be brief."
    )
    assert whole.input_tokens > 8192
    # Where it fits again, truncation changes nothing.
    assert path(ask(client, "Go on.", first.id, **asked)) == ("hit", None)


PREFIX = "You know these rules. " + " ".join(f"Rule {n}: be {n} times as kind." for n in range(60))


def test_a_prefix_made_ahead_is_there_for_the_first_turn(client: OpenAI, vllm_url: str) -> None:
    # Words of its own, so that no other test has put them into vLLM's cache.
    prefix = [{"role": "user", "content": f"Made ahead. {PREFIX}"}]
    made = client.responses.create(input=prefix, prompt_cache_options={"prewarm": True})  # type: ignore[arg-type]
    assert (made.status, made.output) == ("completed", [])
    assert made.usage is not None
    assert (made.usage.output_tokens, made.usage.input_tokens_details.cached_tokens) == (0, 0)
    wait_until_idle(vllm_url)
    first = ask(client, "Are you ready?", made.id)
    assert path(first) == ("hit", None)
    assert first.usage is not None
    assert first.usage.input_tokens_details.cached_tokens >= made.usage.input_tokens // 128 * 128 > 0


def test_diagnostics_say_what_the_cache_did(client: OpenAI) -> None:
    first = ask(client, f"Diagnosed. {PREFIX}")

    def told(previous: str | None, question: Any = "And now?", **fields: Any) -> Any:
        options = {"comparison_response_id": first.id}
        answer = ask(client, question, previous, prompt_cache_options=options, **fields)
        assert answer.prompt_cache_diagnostics is not None
        return answer.prompt_cache_diagnostics

    assert told(first.id).type == "cache_hit"
    # This model's template shows no tools: they change nothing.
    assert told(first.id, tools=[WEATHER], tool_choice="none").type == "cache_hit"
    other = told(None, "Something else.")
    assert (other.type, other.reason) == ("cache_miss", "input_changed")
    assert first.usage is not None
    assert 0 < other.cache_missed_tokens < other.comparison_reusable_tokens < first.usage.input_tokens
    gone = ask(client, "x", prompt_cache_options={"comparison_response_id": "resp_none"})
    assert gone.prompt_cache_diagnostics is not None
    assert gone.prompt_cache_diagnostics.type == "comparison_response_not_found"


def test_every_field_is_repeated(client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "metadata": {"a": "b"},
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"mode": "explicit", "ttl": "12h"},
        "max_tool_calls": 3,
        "max_output_tokens": 20,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_logprobs": 1,
        "truncation": "auto",
        "parallel_tool_calls": False,
        "instructions": "Be kind.",
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "concise"},
        "tools": [{**WEATHER, "strict": True}, {**SHELL, "description": "Runs it."}],
        "tool_choice": "none",
    }
    response = client.responses.create(input="An object.", model="SmolLM2-135M-Instruct", **asked).to_dict()
    assert {name: response[name] for name in asked} == asked
    assert (response["service_tier"], response["background"], response["error"]) == ("default", False, None)


def test_the_answer_is_kept_whole_and_given_back_the_same(client: OpenAI) -> None:
    events = list(client.responses.create(input="Hi.", stream=True, max_output_tokens=8, top_logprobs=1))
    final = events[-1].response.to_dict()  # type: ignore[union-attr]
    assert client.responses.retrieve(final["id"]).to_dict() == final
    assert caching(events[-1].response)["path"] in ("full", "hit")  # type: ignore[union-attr]
