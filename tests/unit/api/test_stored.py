"""The routes of stored responses through the ASGI app: each answer is of the SDK's types to the letter."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import httpx
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from openai.types.responses import ResponseIncludable

from app.api import stored
from app.api.errors import add_error_handlers
from app.conversation.records import DEFAULT_TENANT, Item, ResponseId, StoredResponse, TenantId, Turn
from app.conversation.sealing import Sealing
from app.engine.pool import WorkerPool
from app.store.memory import MemoryResponseStore
from tests import contract
from tests.unit.api.services import services
from tests.unit.conversation.test_turns import Chat

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
STRANGER = TenantId("stranger")
THOUGHT = "a thought"


def message(item_id: str, role: str = "user", **changes: Any) -> Item:
    return {
        "id": item_id,
        "type": "message",
        "role": role,
        "content": [{"type": "input_text", "text": item_id}],
        **changes,
    }


ANSWER: Item = {
    "id": "msg_answer",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "yes", "annotations": [], "logprobs": []}],
}
REASONING: Item = {
    "id": "rs_1",
    "type": "reasoning",
    "status": "completed",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": THOUGHT}],
}
CALLED = {"call_id": "call_1"}
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"}
INPUTS: list[Item] = [
    message("msg_1"),
    message("msg_2", "system"),
    message("msg_3", "developer", content=[{"type": "input_text", "text": "a"}, PICTURE]),
    {**ANSWER, "id": "msg_4", "phase": "final_answer"},
    {"id": "rs_2", "type": "reasoning", "summary": [], "content": REASONING["content"]},
    {"id": "fc_1", "type": "function_call", "name": "f", "arguments": "{}", **CALLED},
    {"id": "fco_1", "type": "function_call_output", "output": [PICTURE], **CALLED},
    {"id": "ctc_1", "type": "custom_tool_call", "name": "g", "input": "x", "call_id": "call_2"},
    {"id": "ctco_1", "type": "custom_tool_call_output", "output": "y", "call_id": "call_2"},
    message("msg_5", status="incomplete"),
]
"""As clients send them: most without a status."""

BODY: dict[str, Any] = {
    "object": "response",
    "status": "completed",
    "completed_at": int(NOW.timestamp()),
    "error": None,
    "incomplete_details": None,
    "model": "m",
    "instructions": None,
    "tools": [],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_logprobs": 0,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {"a\x00": "b"},
    "reasoning": {"effort": None, "summary": None},
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "truncation": "disabled",
    "background": False,
    "user": None,
    "safety_identifier": None,
    "service_tier": "default",
    "prompt_cache_key": None,
    "usage": {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 5,
    },
    "caching": {"type": "enabled", "path": "full", "reason": "new_conversation"},
}


def turn(name: str, after: Turn | None = None, *, tenant: TenantId = DEFAULT_TENANT, at: int = 0) -> Turn:
    """at: microseconds after NOW."""
    previous = after.response.id if after else None
    response = StoredResponse(
        id=ResponseId(name),
        tenant=tenant,
        root_id=after.response.root_id if after else ResponseId(name),
        previous_response_id=previous,
        created_at=NOW + timedelta(microseconds=at),
        body={
            **BODY,
            "id": name,
            "created_at": int(NOW.timestamp()),
            "previous_response_id": previous,
        },
    )
    return Turn(response, (message(f"msg_{name}"),), ({**ANSWER, "id": f"msg_{name}_answer"},), None)


class Service:
    """The routes over a store in memory. `get` and its like give the status and the body."""

    def __init__(self, http: httpx.AsyncClient, store: MemoryResponseStore) -> None:
        self.http = http
        self.store = store

    async def saved(self, name: str, after: Turn | None = None, **changes: Any) -> Turn:
        tenant, at = changes.pop("tenant", DEFAULT_TENANT), changes.pop("at", 0)
        made = replace(turn(name, after, tenant=tenant, at=at), **changes)
        await self.store.save(made)
        return made

    async def ask(self, method: str, path: str, **query: Any) -> tuple[int, dict[str, Any]]:
        answer = await self.http.request(method, f"/v1/responses{path}", params=query)
        body: dict[str, Any] = answer.json()
        if answer.status_code != 200:
            contract.check_error(body)
            return answer.status_code, body["error"]
        return answer.status_code, body

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        status, body = await self.ask("GET", path, **query)
        assert status == 200, body
        return body

    async def fault(self, method: str, path: str, **query: Any) -> tuple[int, str | None, str | None]:
        status, error = await self.ask(method, path, **query)
        assert error["type"] == "invalid_request_error"
        return status, error["code"], error["param"]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    store, pool = MemoryResponseStore(), WorkerPool([], None)
    app = FastAPI()
    app.include_router(stored.router)
    add_error_handlers(app)
    app.state.services = services(Chat(store), pool)
    async with pool, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s") as http:
        yield Service(http, store)


# Retrieve


async def test_a_response_comes_back_as_it_was_completed(service: Service) -> None:
    made = await service.saved("resp_a")
    found = await service.get("/resp_a")
    assert found == {**made.response.body, "output": list(made.output_items)}
    contract.check_response(found)


@pytest.mark.parametrize("name", ["include", "include[]"])
async def test_reasoning_is_sealed_where_it_is_asked_for(service: Service, name: str) -> None:
    await service.saved("resp_a", output_items=(REASONING, ANSWER))
    plain = await service.get("/resp_a")
    assert plain["output"] == [REASONING, ANSWER]
    found = await service.get("/resp_a", **{name: ["reasoning.encrypted_content"]})
    contract.check_response(found)
    reasoning, answer = found["output"]
    sealer = await Sealing(service.store).sealer()
    assert sealer.open(DEFAULT_TENANT, reasoning.pop("encrypted_content")) == THOUGHT
    assert (reasoning, answer) == (REASONING, ANSWER)


@pytest.mark.parametrize("name", ["include", "include[]"])
async def test_every_includable_of_the_sdk_is_taken(service: Service, name: str) -> None:
    made = await service.saved("resp_a")
    found = await service.get("/resp_a", **{name: list(get_args(ResponseIncludable))})
    assert found == {**made.response.body, "output": list(made.output_items)}
    items = await service.get("/resp_a/input_items", **{name: list(get_args(ResponseIncludable))})
    assert [item["id"] for item in items["data"]] == ["msg_resp_a"]


@pytest.mark.parametrize("path", ["/resp_a", "/resp_a/input_items"])
async def test_anything_else_to_include_is_refused(service: Service, path: str) -> None:
    await service.saved("resp_a")
    refused = (400, "invalid_value", "include")
    for value in ("nope", "", "reasoning.encrypted_content,message.output_text.logprobs"):
        assert await service.fault("GET", path, include=["reasoning.encrypted_content", value]) == refused
        assert await service.fault("GET", path, **{"include[]": value}) == refused


async def test_only_a_background_response_can_be_streamed(service: Service) -> None:
    await service.saved("resp_a")
    assert await service.fault("GET", "/resp_a", stream="true") == (400, "invalid_value", "stream")
    assert await service.fault("GET", "/resp_a", stream="true", starting_after=3) == (
        (400, "invalid_value", "stream")
    )
    assert await service.fault("GET", "/resp_a", starting_after=3) == (400, "invalid_value", "starting_after")
    for obfuscation in ("true", "false"):
        assert await service.fault("GET", "/resp_a", include_obfuscation=obfuscation) == (
            (400, "invalid_value", "include_obfuscation")
        )
    assert (await service.get("/resp_a", stream="false"))["id"] == "resp_a"
    assert await service.fault("GET", "/resp_a", stream="perhaps") == (400, "invalid_type", "stream")
    assert await service.fault("GET", "/resp_a", starting_after="x") == (
        400,
        "invalid_type",
        "starting_after",
    )


# All routes

ROUTES = [
    ("GET", ""),
    ("GET", "/resp_a"),
    ("DELETE", "/resp_a"),
    ("GET", "/resp_a/input_items"),
    ("POST", "/resp_a/cancel"),
]
OF_ONE = [(method, path.replace("resp_a", "{}")) for method, path in ROUTES if path]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_an_unknown_parameter_is_refused_by_name(service: Service, method: str, path: str) -> None:
    await service.saved("resp_a")
    assert await service.fault(method, path, nope="1") == (400, "unknown_parameter", "nope")
    assert (await service.get("/resp_a"))["id"] == "resp_a"


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "", "include"),
        ("GET", "", "include[]"),
        ("GET", "/resp_a", "limit"),
        ("DELETE", "/resp_a", "include"),
    ],
)
async def test_a_parameter_of_another_route_is_unknown(
    service: Service, method: str, path: str, name: str
) -> None:
    await service.saved("resp_a")
    assert await service.fault(method, path, **{name: "1"}) == (400, "unknown_parameter", name)


async def test_a_parameter_twice_is_refused(service: Service) -> None:
    await service.saved("resp_a")
    assert await service.fault("GET", "", limit=[1, 2]) == (400, "invalid_value", "limit")
    assert await service.fault("GET", "/resp_a", stream=["false", "true"]) == (400, "invalid_value", "stream")


@pytest.mark.parametrize(("method", "path"), OF_ONE)
@pytest.mark.parametrize("unknown", ["resp_b", "a%00", "%ED%A0%80", "%C3%A9", "x" * 5000, "resp_strangers"])
async def test_unknown_ids_are_not_found(service: Service, method: str, path: str, unknown: str) -> None:
    await service.saved("resp_a")
    await service.saved("resp_strangers", tenant=STRANGER)
    assert await service.fault(method, path.format(unknown)) == (404, "not_found", "response_id")
    assert await service.store.get(STRANGER, ResponseId("resp_strangers")) is not None


# Delete and cancel


async def test_delete(service: Service) -> None:
    await service.saved("resp_a")
    status, answer = await service.ask("DELETE", "/resp_a")
    assert (status, answer) == (200, {"id": "resp_a", "object": "response", "deleted": True})
    contract.check_deleted(answer)
    for method, path in OF_ONE:
        assert await service.fault(method, path.format("resp_a")) == (404, "not_found", "response_id")


async def test_what_is_not_in_background_cannot_be_cancelled(service: Service) -> None:
    made = await service.saved("resp_a")
    status, error = await service.ask("POST", "/resp_a/cancel")
    assert (status, error["message"]) == (400, "Cannot cancel a synchronous response.")
    assert (error["code"], error["param"]) == ("invalid_value", "response_id")
    assert await service.get("/resp_a") == {**made.response.body, "output": list(made.output_items)}


# Input items


async def test_input_items_of_every_kind_are_complete(service: Service) -> None:
    await service.saved("resp_a", input_items=tuple(INPUTS))
    page = await service.get("/resp_a/input_items", order="asc")
    contract.check_item_list(page)
    assert page["data"] == [{"status": "completed", **item} for item in INPUTS]
    assert page["data"][-1]["status"] == "incomplete"
    # What is kept is what came.
    history = await service.store.history(DEFAULT_TENANT, ResponseId("resp_a"))
    assert history[0].input_items == tuple(INPUTS)


async def test_input_items_are_those_of_the_whole_chain_newest_first(service: Service) -> None:
    first = await service.saved("a")
    second = await service.saved("b", first)
    await service.saved("c", second)
    page = await service.get("/c/input_items")
    contract.check_item_list(page)
    ids = ["msg_c", "msg_b_answer", "msg_b", "msg_a_answer", "msg_a"]
    assert [item["id"] for item in page["data"]] == ids
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("msg_c", "msg_a", False)
    oldest_first = await service.get("/c/input_items", order="asc", limit=2, after="msg_a_answer")
    contract.check_item_list(oldest_first)
    assert [item["id"] for item in oldest_first["data"]] == ["msg_b", "msg_b_answer"]
    assert oldest_first["has_more"] is True


async def test_twenty_items_unless_told_otherwise(service: Service) -> None:
    await service.saved("a", input_items=tuple(message(f"msg_{n}") for n in range(101)))
    for query, expected in ((), 20), ((("limit", 1),), 1), ((("limit", 100),), 100):
        page = await service.get("/a/input_items", **dict(query))
        assert [item["id"] for item in page["data"]] == [f"msg_{100 - n}" for n in range(expected)]
        assert page["has_more"] is True


async def test_a_page_after_the_last_item_is_empty(service: Service) -> None:
    await service.saved("a")
    page = await service.get("/a/input_items", after="msg_a")
    contract.check_item_list(page)


async def test_reasoning_among_input_items_is_sealed_where_it_is_asked_for(service: Service) -> None:
    await service.saved("a", input_items=(REASONING,))
    plain = await service.get("/a/input_items")
    assert plain["data"] == [REASONING]
    page = await service.get("/a/input_items", include="reasoning.encrypted_content")
    contract.check_item_list(page)
    sealer = await Sealing(service.store).sealer()
    assert sealer.open(DEFAULT_TENANT, page["data"][0]["encrypted_content"]) == THOUGHT


@pytest.mark.parametrize("path", ["", "/resp_a/input_items"])
@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ({"limit": 0}, ("invalid_value", "limit")),
        ({"limit": 101}, ("invalid_value", "limit")),
        ({"limit": -1}, ("invalid_value", "limit")),
        ({"limit": "ten"}, ("invalid_type", "limit")),
        ({"limit": ""}, ("invalid_type", "limit")),
        ({"order": "up"}, ("invalid_value", "order")),
        ({"after": "nope"}, ("invalid_value", "after")),
        ({"after": ""}, ("invalid_value", "after")),
        ({"after": "\x00"}, ("invalid_value", "after")),
        ({"after": "msg_resp_a_answer"}, ("invalid_value", "after")),
        ({"after": "msg_strangers"}, ("invalid_value", "after")),
        ({"after": "strangers"}, ("invalid_value", "after")),
        ({"before": "x"}, ("unknown_parameter", "before")),
    ],
    ids=repr,
)
async def test_wrong_pages(
    service: Service, path: str, query: dict[str, Any], fault: tuple[str, str]
) -> None:
    await service.saved("resp_a")
    await service.saved("strangers", tenant=STRANGER)
    assert await service.fault("GET", path, **query) == (400, *fault)


# The list of responses


async def test_responses_newest_first_and_page_by_page(service: Service) -> None:
    made = {name: await service.saved(name, at=at) for at, name in enumerate("dcba")}
    await service.saved("strangers", tenant=STRANGER, at=9)
    await service.saved("deleted", at=8)
    await service.ask("DELETE", "/deleted")
    page = await service.get("")
    contract.check_response_list(page)
    assert page["data"] == [{**made[n].response.body, "output": list(made[n].output_items)} for n in "abcd"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("a", "d", False)
    second = await service.get("", limit=2, after="a")
    contract.check_response_list(second)
    assert ([one["id"] for one in second["data"]], second["has_more"]) == (["b", "c"], True)
    oldest = await service.get("", order="asc", after="c", limit=100)
    assert [one["id"] for one in oldest["data"]] == ["b", "a"]


async def test_nobody_has_responses(service: Service) -> None:
    await service.saved("strangers", tenant=STRANGER)
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert await service.get("") == empty


async def test_twenty_responses_unless_told_otherwise(service: Service) -> None:
    for n in range(21):
        await service.saved(f"resp_{n}", at=n)
    page = await service.get("")
    assert [one["id"] for one in page["data"]] == [f"resp_{20 - n}" for n in range(20)]
    assert page["has_more"] is True


# As the SDK asks


async def test_the_sdk_reads_all_of_it(service: Service) -> None:
    await service.saved("resp_a", input_items=tuple(INPUTS), output_items=(REASONING, ANSWER))
    client = AsyncOpenAI(base_url="http://s/v1", api_key="unused", http_client=service.http, max_retries=0)
    found = await client.responses.retrieve("resp_a", include=["reasoning.encrypted_content"])
    assert found.output[0].encrypted_content  # type: ignore[union-attr]
    pages = client.responses.input_items.list("resp_a", limit=3, include=["reasoning.encrypted_content"])
    assert [item.id async for item in pages] == [item["id"] for item in INPUTS[::-1]]
    await client.responses.delete("resp_a")


def test_the_document_names_every_parameter() -> None:
    app = FastAPI()
    app.include_router(stored.router)
    paths = app.openapi()["paths"]
    named = {
        (path, method): {p["name"] for p in operation.get("parameters", ())} - {"response_id"}
        for path, operations in paths.items()
        for method, operation in operations.items()
    }
    assert named == {
        ("/v1/responses", "get"): {"after", "limit", "order"},
        ("/v1/responses/{response_id}", "get"): {
            "include",
            "stream",
            "starting_after",
            "include_obfuscation",
        },
        ("/v1/responses/{response_id}", "delete"): set(),
        ("/v1/responses/{response_id}/input_items", "get"): {"after", "limit", "order", "include"},
        ("/v1/responses/{response_id}/cancel", "post"): set(),
    }
