"""What asks for a compaction: the body of its own route, the field and the item of a create request."""

import json
from typing import Any

import pytest
from openai.types.responses.response_compact_params import ResponseCompactParams

from app.api.compact_body import CompactResponse
from app.api.requests import CreateResponse, parse
from app.errors import InvalidRequest

TRIGGER = {"type": "compaction_trigger"}
ITEM = {"type": "compaction", "encrypted_content": "mc1_"}


def compact(**body: Any) -> CompactResponse:
    return parse(CompactResponse, json.dumps(body).encode())


def create(**body: Any) -> CreateResponse:
    return parse(CreateResponse, json.dumps({"input": "x", **body}).encode())


def test_it_knows_the_sdks_fields() -> None:
    assert CompactResponse.model_fields.keys() == ResponseCompactParams.__annotations__.keys()


def test_what_a_compaction_is_made_of() -> None:
    turn = compact(
        model="m", input="x", instructions="i", previous_response_id="r", prompt_cache_key="k"
    ).turn()
    assert (turn.model, turn.previous_response_id, turn.affinity) == ("m", "r", "k")
    assert (turn.options.instructions, turn.compact, turn.store) == ("i", True, False)
    assert [item["role"] for item in turn.input] == ["user"]
    assert compact(previous_response_id="r").turn().input == ()


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "m"}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "missing_required_parameter"),
        ({"input": "x", "image": {"context_compression": "auto"}}, "image", "unsupported_parameter"),
        ({"input": "x", "tools": []}, "tools", "unsupported_parameter"),
        ({"input": "x", "colour": 1}, "colour", "unknown_parameter"),
        ({"input": [TRIGGER]}, "input", "invalid_value"),
    ],
)
def test_what_is_refused(body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        compact(**body).turn()
    assert (refused.value.param, refused.value.code) == (param, code)


def test_a_threshold() -> None:
    managed = [{"type": "compaction", "compact_threshold": 1000}]
    assert create(context_management=managed).turn(60).compact_at == 1000
    assert create(context_management=None).turn(60).compact_at is None


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ([{"type": "compaction"}], "context_management[0].compact_threshold"),
        ([{"type": "compaction", "compact_threshold": 0}], "context_management[0].compact_threshold"),
        ([{"type": "forgetting", "compact_threshold": 5}], "context_management[0].type"),
        ([{"type": "compaction", "compact_threshold": 5}] * 2, "context_management"),
    ],
)
def test_thresholds_that_are_none(given: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        create(context_management=given).turn(60)
    assert refused.value.param == param


def test_a_trigger_is_the_last_item_and_none_that_is_kept() -> None:
    turn = create(input=[{"role": "user", "content": "x"}, TRIGGER]).turn(60)
    assert (turn.compact, [item["type"] for item in turn.input]) == (True, ["message"])
    with pytest.raises(InvalidRequest, match="final input item"):
        create(input=[TRIGGER, {"role": "user", "content": "x"}]).turn(60)


def test_an_item_may_come_as_the_sdk_dumps_it() -> None:
    turn = create(input=[{**ITEM, "id": "cmp_1", "created_by": None}]).turn(60)
    assert turn.input == ({**ITEM, "id": "cmp_1"},)
    assert create(input=[ITEM]).turn(60).input[0]["id"].startswith("cmp_")
