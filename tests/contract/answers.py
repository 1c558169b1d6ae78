"""Single answers: a response, a list of items, an error."""

from typing import Any, Literal

from openai.types.responses import Response, ResponseItemList
from openai.types.responses.input_token_count_response import InputTokenCountResponse
from openai.types.shared import ErrorObject
from pydantic import TypeAdapter

from tests.contract.strict import Strict, adapter, check


class Caching(Strict):
    """Our own field of a response: what the turn did with its prefix."""

    type: Literal["enabled", "disabled"]
    path: Literal["hit", "rewind", "reseed", "full"]
    reason: str | None
    reused_tokens: int | None = None
    tokenized_tokens: int | None = None
    sampled_reused: int | None = None
    compaction: dict[str, Any] | None = None


class _Deleted(Strict):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class _Error(Strict):
    error: dict[str, Any]


OURS: dict[str, dict[str, Any]] = {"Response": {"caching": (Caching, ...)}}

_response = adapter(Response, **OURS)
_item_list = adapter(ResponseItemList)
_token_count = adapter(InputTokenCountResponse)
_error_object = adapter(ErrorObject)

ALWAYS = frozenset(
    [
        "background",
        "completed_at",
        "created_at",
        "error",
        "id",
        "incomplete_details",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "object",
        "output",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt_cache_key",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "status",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "usage",
        "user",
    ]
)
"""Fields of every answer of OpenAI's, null or not. The SDK would not miss most of them."""

IN_EFFECT = ("parallel_tool_calls", "text", "tool_choice", "truncation")
"""Fields whose effective value OpenAI repeats where the request leaves them out."""


def check_response(response: dict[str, Any]) -> None:
    """A Response of the SDK, complete, and in agreement with its own status. `caching` is all that we add."""
    check(_response, response, f"the response {response.get('id')}")
    assert response.keys() >= ALWAYS, f"the response lacks {sorted(ALWAYS - response.keys())}"
    unset = sorted(name for name in IN_EFFECT if response[name] is None)
    assert not unset, f"the response does not say which {unset} were in effect"
    _check_status(response)
    ids = [item["id"] for item in response["output"]]
    assert all(ids) and len(set(ids)) == len(ids), f"items need an id each: {ids}"
    if usage := response["usage"]:
        _check_usage(usage)


def _check_status(response: dict[str, Any]) -> None:
    status = response["status"]
    assert (response["completed_at"] is not None) == (status == "completed"), (
        status,
        response["completed_at"],
    )
    assert (response["incomplete_details"] is not None) == (status == "incomplete"), status
    assert (response["error"] is not None) == (status == "failed"), (status, response["error"])
    if status in ("completed", "incomplete"):
        assert response["usage"], f"{status} without usage"
        assert response["output"], f"{status} without an item"
    allowed = {"completed"} if status == "completed" else {"completed", "incomplete"}
    found = {item["status"] for item in response["output"] if item.get("status")}
    assert status not in ("completed", "incomplete") or found <= allowed, f"{status} with items {found}"
    if status == "incomplete":
        assert response["output"][-1].get("status") in ("incomplete", None), "its last item was cut"


def _check_usage(usage: dict[str, Any]) -> None:
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"], usage
    assert usage["input_tokens_details"]["cached_tokens"] <= usage["input_tokens"], usage
    assert usage["output_tokens_details"]["reasoning_tokens"] <= usage["output_tokens"], usage


def check_item_list(page: dict[str, Any]) -> None:
    """A page of a response's input items, each with an id of its own."""
    if page.get("data") == []:  # the SDK has no type for a page without a first item
        assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
        return
    check(_item_list, page, "the list of items")
    _check_page(page)


def check_response_list(page: dict[str, Any]) -> None:
    """A page of stored responses, as OpenAI's lists are."""
    assert page.keys() == {"object", "data", "first_id", "last_id", "has_more"}, sorted(page)
    assert page["object"] == "list" and isinstance(page["has_more"], bool)
    for response in page["data"]:
        check_response(response)
    _check_page(page)


def _check_page(page: dict[str, Any]) -> None:
    ids = [item["id"] for item in page["data"]]
    assert len(set(ids)) == len(ids), f"an id twice: {ids}"
    ends = (ids[0], ids[-1]) if ids else (None, None)
    assert (page["first_id"], page["last_id"]) == ends


def check_token_count(count: dict[str, Any]) -> None:
    check(_token_count, count, "the token count")
    assert count["input_tokens"] > 0


def check_deleted(answer: dict[str, Any]) -> None:
    """OpenAI's answer to DELETE; the SDK does not look at it."""
    check(TypeAdapter(_Deleted), answer, "the answer to DELETE")


def check_error(answer: dict[str, Any]) -> None:
    """OpenAI's envelope: message, type, param, code, and nothing else."""
    check(TypeAdapter(_Error), answer, "the error")
    check(_error_object, answer["error"], "the error")
    assert answer["error"]["message"]
