"""What the headers of a session, and the fields of its context, make of a request."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.datastructures import Headers

from app.api.context_body import ContextPrompt, CreateContext, completed
from app.api.requests import CountInputTokens, CreateResponse, parse
from app.api.sessions import REQUEST_HEADERS, Session, session_of, ttl_of
from app.conversation.context_store import Context, ContextId, HeldContext
from app.conversation.plan import TurnRequest
from app.conversation.records import DEFAULT_TENANT, ResponseId
from app.errors import InvalidRequest, MissingParameter, UnsupportedParameter
from tests.unit.api.api_doc import rows_of

TOOL: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}}
OTHER: Any = {"type": "function", "name": "g", "parameters": {"type": "object"}}
CONTEXT: dict[str, Any] = {
    "model": "m",
    "instructions": "be kind",
    "tools": [TOOL],
    "tool_choice": {"type": "function", "name": "f"},
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"z": 1, "a": 2}}, "verbosity": "low"},
    "reasoning": {"effort": "low"},
    "chat_template_kwargs": {"k": 1},
}


def created(**fields: Any) -> CreateContext:
    return parse(CreateContext, json.dumps(fields).encode())


def prompt(**fields: Any) -> ContextPrompt:
    """As it is read again."""
    return ContextPrompt.model_validate(json.loads(json.dumps(created(**fields).kept())))


def asked(**fields: Any) -> CreateResponse:
    return parse(CreateResponse, json.dumps({"input": "x", **fields}).encode())


def turn(request: CreateResponse) -> TurnRequest:
    return request.turn(3600)


def held(**fields: Any) -> HeldContext:
    now = datetime.now(UTC)
    later = now + timedelta(seconds=60)
    context = Context(
        ContextId("ctx_1"),
        DEFAULT_TENANT,
        None,
        ResponseId("resp_1"),
        now,
        later,
        60,
        created(**fields).kept(),
    )
    return HeldContext(context, {}, None)


def test_a_turn_that_leaves_all_out_is_one_that_gives_all() -> None:
    left_out = turn(completed(asked(), prompt(**CONTEXT)))
    given = turn(asked(**CONTEXT))
    assert (left_out.model, left_out.options) == (given.model, given.options)
    # Templates print keys in their order.
    assert json.dumps(left_out.options.text_format) == json.dumps(given.options.text_format)


@pytest.mark.parametrize(
    ("field", "own"),
    [
        ("model", "other"),
        ("instructions", "be brief"),
        ("instructions", ""),
        ("tools", []),
        ("tools", [OTHER]),
        ("tool_choice", "none"),
        ("parallel_tool_calls", True),
        ("text", {"format": {"type": "text"}, "verbosity": "high"}),
        ("reasoning", {"effort": "high"}),
        ("chat_template_kwargs", {}),
    ],
)
def test_what_a_turn_gives_itself_wins(field: str, own: Any) -> None:
    theirs = CONTEXT | ({"tool_choice": None} if field == "tools" else {})
    made, given = (
        turn(completed(asked(**{field: own}), prompt(**theirs))),
        turn(asked(**theirs | {field: own})),
    )
    assert (made.model, made.options) == (given.model, given.options)


@pytest.mark.parametrize("field", CONTEXT)
def test_null_is_left_out(field: str) -> None:
    assert (
        turn(completed(asked(**{field: None}), prompt(**CONTEXT))).options == turn(asked(**CONTEXT)).options
    )


def test_parts_of_text_and_reasoning_stand_in_each() -> None:
    made = completed(asked(reasoning={"summary": "auto"}, text={"verbosity": "high"}), prompt(**CONTEXT))
    assert (made.reasoning.effort, made.reasoning.summary) == ("low", "auto")  # type: ignore[union-attr]
    assert turn(made).options.text_format["type"] == "json_schema"
    assert turn(made).options.verbosity == "high"


def test_a_choice_among_the_contexts_tools() -> None:
    made = turn(completed(asked(tool_choice="required"), prompt(instructions="x", tools=[TOOL])))
    assert (made.options.tool_choice, len(made.options.tools)) == ("required", 1)


def test_its_choice_is_not_one_among_other_tools() -> None:
    assert turn(completed(asked(tools=[OTHER]), prompt(**CONTEXT))).options.tool_choice == "auto"


def test_counting_is_the_same() -> None:
    count = parse(CountInputTokens, b'{"input": "x"}')
    assert completed(count, prompt(**CONTEXT)).turn().options == turn(asked(**CONTEXT)).options


def test_creating_asks_for_its_prompt_and_nothing_more() -> None:
    made = created(**CONTEXT, input="hi", metadata={"a": "b"}, ttl=7).turn(3600)
    assert made.options == turn(asked(**CONTEXT)).options
    assert (made.generate, made.store, made.caching.ttl_s, made.caching.keep) == (False, True, 7, True)
    assert (made.echo["metadata"], made.input[0]["role"]) == ({"a": "b"}, "user")
    assert created(instructions="x").turn(10**9).caching.ttl_s == 10**9
    assert created(instructions="x").turn(60).input == ()


def test_a_context_of_nothing_is_refused() -> None:
    for fields in ({}, {"input": []}, {"input": None, "instructions": ""}, {"tools": [TOOL]}):
        with pytest.raises(MissingParameter) as caught:
            created(**fields).turn(60)
        assert caught.value.param == "input"


def test_the_ttl_is_the_turns_where_it_has_none() -> None:
    session = Session(ttl_s=7)
    assert turn(session.completed(asked())).caching.ttl_s == 7
    assert turn(session.completed(asked(caching={"ttl": 9}))).caching.ttl_s == 9
    disabled = turn(session.completed(asked(caching={"type": "disabled"}))).caching
    assert (disabled.enabled, disabled.ttl_s) == (False, 7)


def test_where_a_turn_starts() -> None:
    session = Session("ctx_1", None, held(instructions="x"), prompt(instructions="x"))
    first = session.starting(turn(asked()))
    assert (first.previous_response_id, first.affinity) == ("resp_1", "ctx_1")
    later = session.starting(turn(asked(previous_response_id="resp_2", prompt_cache_key="k")))
    assert (later.previous_response_id, later.affinity) == ("resp_2", "k")
    assert Session("word").starting(turn(asked())).previous_response_id is None


def test_the_answers_headers() -> None:
    request = turn(asked(caching={"ttl": 9}))
    assert Session().headers(request) == {}
    assert Session("word").headers(request) == {"x-session-id": "word", "x-session-ttl": "9"}
    assert Session(ttl_s=9).headers(request) == {"x-session-ttl": "9"}
    assert Session("ctx_1", None, held(instructions="x")).headers(request) == {
        "x-session-id": "ctx_1",
        "x-session-ttl": "60",
    }


class Used:
    """For Contexts: notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def use(self, *given: Any, param: str) -> HeldContext:
        self.asked.append((*given, param))
        return held(instructions="x")


async def session(used: Used, headers: dict[str, str], *, renew: bool = True) -> Session:
    return await session_of(Headers(headers), used, DEFAULT_TENANT, renew=renew)  # type: ignore[arg-type]


async def test_only_what_looks_like_a_context_is_one() -> None:
    used = Used()
    assert await session(used, {}) == Session()
    assert await session(used, {"X-Session-Id": "word", "X-Session-TTL": "5"}) == Session("word", 5)
    assert used.asked == []
    found = await session(used, {"x-session-id": "ctx_1", "x-session-ttl": "5"})
    assert found.prompt == ContextPrompt(instructions="x")
    await session(used, {"x-session-id": "ctx_1", "x-session-ttl": "5"}, renew=False)
    assert used.asked == [
        (DEFAULT_TENANT, "ctx_1", 5, "x-session-id"),
        (DEFAULT_TENANT, "ctx_1", None, "x-session-id"),
    ]


@pytest.mark.parametrize("seconds", ["", "0", "-1", "+1", "1.5", "1e3", "soon", "2592001", "9" * 5000, "٣"])
def test_a_wrong_ttl_is_refused_by_name(seconds: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ttl_of(Headers(raw=[(b"x-session-ttl", seconds.encode())]))
    assert (caught.value.code, caught.value.param) == ("invalid_value", "x-session-ttl")


@pytest.mark.parametrize("session_id", ["", " ", "a b", "é", "x" * 257])
async def test_a_wrong_id_is_refused_by_name(session_id: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await session(Used(), {"x-session-id": session_id})
    assert (caught.value.code, caught.value.param) == ("invalid_value", "x-session-id")


def test_tools_of_servers_are_not_kept() -> None:
    """What authorizes them would be kept as well."""
    server = {
        "type": "mcp",
        "server_label": "s",
        "server_url": "https://s.test/mcp",
        "authorization": "secret",
    }
    with pytest.raises(UnsupportedParameter) as caught:
        created(instructions="x", tools=[server])
    assert (caught.value.param or "").startswith("tools")


def test_the_document_has_the_fields_and_the_headers() -> None:
    fields = rows_of("Contexts", "It needs `instructions` or `input`.")
    assert fields.keys() == CreateContext.model_fields.keys()
    headers = rows_of("Contexts", "use it:")
    assert list(headers) == [header["name"] for header in REQUEST_HEADERS]
