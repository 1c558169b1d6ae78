"""vLLM's own request fields that a client may set, under vLLM's names and with its limits.

They are not OpenAI's: its SDKs send them by `extra_body`. See vLLM's ChatCompletionRequest.
"""

from typing import Annotated, Any

from pydantic import Field

from app.api.strict import Grammar, Strict

_INT64 = 1 << 63
_Whole = Annotated[int, Field(ge=0, lt=_INT64)]
_TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class VllmFields(Strict):
    stop: str | list[str] | None = None
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
    chat_template_kwargs: dict[str, Any] | None = None
    structured_outputs: Grammar | None = None

    def extras(self) -> dict[str, Any]:
        return self.model_dump(include=set(VllmFields.model_fields), exclude_none=True)
