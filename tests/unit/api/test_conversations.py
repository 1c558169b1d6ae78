"""The routes of conversations through the ASGI app: each answer is of the SDK's types to the letter."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.main import create_app
from app.store.memory import MemoryResponseStore
from tests import contract
from tests.unit.api.test_stored import INPUTS, message
from tests.unit.conversation.test_turns import Chat

ALL = "/v1/conversations"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    # All of the app but what it stands on.
    app = create_app(
        database_url="postgresql://nobody@nowhere/none", worker_urls=[], secret=None, prefix_ttl_seconds=1
    )
    app.state.services = _Services()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://s") as http:
        yield http


class _Services:
    """Those that these routes use."""

    def __init__(self) -> None:
        self.conversations = Chat(MemoryResponseStore()).conversations


async def test_items_of_all_kinds(http: httpx.AsyncClient) -> None:
    made = (await http.post(ALL, json={"items": INPUTS})).json()
    contract.check_conversation(made)
    page = (await http.get(f"{ALL}/{made['id']}/items", params={"order": "asc"})).json()
    contract.check_conversation_items(page)
    assert [item["id"] for item in page["data"]] == [item["id"] for item in INPUTS]
    for item in page["data"]:
        found = (await http.get(f"{ALL}/{made['id']}/items/{item['id']}")).json()
        contract.check_conversation_item(found)
        assert found == item
    assert page["data"][-1]["status"] == "incomplete", "a client's own is kept"


async def test_what_was_listed_can_be_given_back(http: httpx.AsyncClient) -> None:
    made = (await http.post(ALL, json={"items": INPUTS, "metadata": {"a": "b"}})).json()
    page = (await http.get(f"{ALL}/{made['id']}/items", params={"order": "asc"})).json()
    other = (await http.post(ALL, json={})).json()
    assert other["metadata"] == {}
    added = await http.post(f"{ALL}/{other['id']}/items", json={"items": page["data"]})
    assert added.json() == page
    contract.check_conversation_items(added.json())


async def test_ids_are_made_where_there_are_none(http: httpx.AsyncClient) -> None:
    made = (await http.post(ALL, json={"items": [{"role": "user", "content": "hi"}]})).json()
    (item,) = (await http.get(f"{ALL}/{made['id']}/items")).json()["data"]
    assert item["id"].startswith("msg_")
    assert item["content"] == [{"type": "input_text", "text": "hi"}]
    deleted = (await http.delete(f"{ALL}/{made['id']}/items/{item['id']}")).json()
    contract.check_conversation(deleted)
    empty = (await http.get(f"{ALL}/{made['id']}/items")).json()
    contract.check_conversation_items(empty)
    assert empty["data"] == []
    contract.check_conversation_deleted((await http.delete(f"{ALL}/{made['id']}")).json())


@pytest.mark.parametrize(
    ("method", "route", "body", "status", "code", "param"),
    [
        ("GET", "/conv_0", None, 404, "not_found", "conversation_id"),
        ("POST", "/conv_0", {"metadata": {}}, 404, "not_found", "conversation_id"),
        ("DELETE", "/conv_0", None, 404, "not_found", "conversation_id"),
        ("GET", "/conv_0/items", None, 404, "not_found", "conversation_id"),
        ("GET", "/conv_0/items/m", None, 404, "not_found", "item_id"),
        ("DELETE", "/conv_0/items/m", None, 404, "not_found", "conversation_id"),
        ("GET", "/{}/items/m", None, 404, "not_found", "item_id"),
        ("DELETE", "/{}/items/m", None, 404, "not_found", "item_id"),
        ("GET", "/{}?x=1", None, 400, "unknown_parameter", "x"),
        ("GET", "/{}/items?limit=0", None, 400, "invalid_value", "limit"),
        ("GET", "/{}/items?after=m", None, 400, "invalid_value", "after"),
        ("GET", "/{}/items?include=x", None, 400, "invalid_value", "include"),
        ("GET", "/{}/items/m?limit=1", None, 400, "unknown_parameter", "limit"),
        ("POST", "/{}/items?limit=1", {"items": [message("m")]}, 400, "unknown_parameter", "limit"),
        ("POST", "/{}/items", {"items": [message("m")], "x": 1}, 400, "unknown_parameter", "x"),
        ("POST", "/{}/items", {"items": "hi"}, 400, "invalid_type", "items"),
        (
            "POST",
            "/{}/items",
            {"items": [{"type": "web_search_call"}]},
            400,
            "unsupported_parameter",
            "items[0]",
        ),
        ("POST", "", {"items": [message("m")] * 2}, 400, "invalid_value", "items[1].id"),
        ("POST", "", {"metadata": {"a": "b" * 513}}, 400, "invalid_value", "metadata"),
    ],
)
async def test_refusals_name_the_field(
    http: httpx.AsyncClient, method: str, route: str, body: Any, status: int, code: str, param: str
) -> None:
    made = (await http.post(ALL, json={})).json()
    answer = await http.request(method, ALL + route.format(made["id"]), json=body)
    contract.check_error(answer.json())
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
