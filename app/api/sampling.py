"""vLLM's own request fields that a client may set, under vLLM's names and with its limits.

They are not OpenAI's: its SDKs send them by `extra_body`. See vLLM's ChatCompletionRequest.
"""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from app.api.strict import ClientJson, Strict

_INT64 = 1 << 63
_Whole = Annotated[int, Field(ge=0, lt=_INT64)]
_TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
_MAX_STOPS = 4
"""OpenAI's limit, and vLLM's where VLLM_MAX_STOP_STRINGS does not say another."""
_TEXT = {"type": "string"}


def _few(stop: str | list[str]) -> str | list[str]:
    if isinstance(stop, list) and len(stop) > _MAX_STOPS:
        raise PydanticCustomError("too_long", "At most {most} strings", {"most": _MAX_STOPS})
    return stop


_Stop = Annotated[
    str | list[str],
    AfterValidator(_few),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": _MAX_STOPS}]}),
]


def _text_or(value: Any, schema: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, str) else schema(value)


_Schema = Annotated[
    SerializeAsAny[ClientJson],
    WrapValidator(_text_or),  # No union: its errors would stand at `json.str` and `json.dict`.
    WithJsonSchema({"anyOf": [_TEXT, {"type": "object"}]}),
]


class StructuredOutputs(Strict, populate_by_name=False):
    """vLLM's StructuredOutputsParams, of which vLLM itself ignores keys that it does not know."""

    json_schema: _Schema | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: str | None = None
    structural_tag: str | None = None


class VllmFields(Strict):
    stop: _Stop | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    min_tokens: _Whole | None = None
    stop_token_ids: list[_TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[_TokenId] | None = None
    thinking_token_budget: _Whole | None = None
    priority: Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)] | None = None
    chat_template_kwargs: ClientJson | None = None
    structured_outputs: StructuredOutputs | None = None

    def extras(self) -> dict[str, Any]:
        return self.model_dump(include=set(VllmFields.model_fields), exclude_none=True, by_alias=True)
