"""The bodies of `POST /v1/responses` and `…/input_tokens`: what is accepted, and what turn it asks for."""

from typing import Annotated, Any, Literal, TypeVar

from openai.types.responses import ResponseIncludable
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.api.items import Ttl
from app.api.prompt import Prompt, ReasoningConfig
from app.api.refusals import refusal
from app.api.sampling import VllmFields
from app.api.strict import Absent, ClientJson, Strict, unsupported
from app.conversation.plan import Caching, TurnRequest
from app.conversation.records import ResponseId
from app.errors import InvalidRequest

_DAY_S = 24 * 3600
MAX_TTL_S = 30 * _DAY_S
_TTL_S: dict[str | None, int] = {None: 0, "30m": 30 * 60, "12h": 12 * 3600}


class CachingField(Strict):
    type: Literal["enabled", "disabled"] = "enabled"
    ttl: int | None = Field(None, ge=1, le=MAX_TTL_S)
    """Seconds."""


CacheKey = Annotated[str, Field(max_length=1024)]
CacheRetention = Literal["in_memory", "24h"]


class CacheOptions(Strict):
    mode: Literal["implicit", "explicit"] = "implicit"
    ttl: Ttl = "30m"


class PromptCacheOptions(CacheOptions):
    prewarm: bool = False
    comparison_response_id: str | None = None


def _plain(obfuscate: bool | None) -> None:
    if obfuscate:
        raise unsupported("Stream events are not obfuscated")


class StreamOptions(Strict):
    include_obfuscation: Annotated[bool | None, AfterValidator(_plain)] = None


def _metadata_fits(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in metadata.items()):
        raise PydanticCustomError(
            "metadata", "At most 16 pairs, keys of at most 64 characters, values of at most 512"
        )
    return metadata


Metadata = Annotated[
    dict[str, str],
    AfterValidator(_metadata_fits),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": 16,
            "propertyNames": {"maxLength": 64},
            "additionalProperties": {"type": "string", "maxLength": 512},
        }
    ),
]


def _soonest(window: Any) -> Any:
    if window in ("2h", "8h"):
        raise unsupported("What is in the background is made as soon as can be")
    return window


class BackgroundOptions(Strict):
    completion_window: Annotated[Literal["soonest"] | None, BeforeValidator(_soonest)] = None
    continuation_id: Absent = None


class ContextManagement(Strict):
    type: Literal["compaction"]
    compact_threshold: Annotated[int, Field(ge=1)]
    """Tokens of a prompt."""


class CreateResponse(Prompt, VllmFields):
    store: bool | None = True
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    context_management: Annotated[list[ContextManagement], Field(max_length=1)] | None = None
    moderation: Absent = None
    prompt: Absent = None
    background: bool | None = None
    background_options: BackgroundOptions | None = None
    include: list[ResponseIncludable] | None = None
    metadata: Metadata | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    max_output_tokens: int | None = Field(None, ge=1, lt=1 << 63)
    max_tool_calls: int | None = Field(None, ge=1)
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    safety_identifier: Annotated[str, Field(max_length=128)] | None = None
    user: str | None = None
    prompt_cache_key: CacheKey | None = None
    prompt_cache_retention: CacheRetention | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    caching: CachingField | None = None

    @property
    def streamed(self) -> bool:
        return bool(self.stream)

    def turn(self, default_ttl_s: int) -> TurnRequest:
        """Raises InvalidRequest."""
        if self.stream_options is not None and not self.streamed:
            raise InvalidRequest("stream_options needs stream to be true.", param="stream_options")
        if self.background and self.store is False:
            raise InvalidRequest("A response in the background has to be stored.", param="store")
        cache = self.prompt_cache_options or PromptCacheOptions()
        include = self.include or ()
        reasoning = self.reasoning or ReasoningConfig()
        with_logprobs = "message.output_text.logprobs" in include or self.top_logprobs
        options = self.options(
            temperature=self.temperature,
            top_p=self.top_p,
            max_output_tokens=self.max_output_tokens,
            top_logprobs=(self.top_logprobs or 0) if with_logprobs else None,
            extras=self.extras(),
        )
        compare = cache.comparison_response_id
        return TurnRequest(
            model=self.model,
            input=self.items(),
            previous_response_id=self.parent_id(),
            conversation=self.conversation_id(),
            mcp=self.servers(),
            max_calls=self.max_tool_calls,
            store=self.store is not False,
            caching=self._caching(default_ttl_s),
            options=options,
            echo=self._echo(reasoning),
            truncate=self.truncation == "auto",
            generate=not cache.prewarm,
            compare=None if compare is None else ResponseId(compare),
            seal_reasoning="reasoning.encrypted_content" in include,
            summarise=reasoning.asked_summary is not None,
            affinity=self.prompt_cache_key,
            background=bool(self.background),
            compact_at=self.context_management[0].compact_threshold if self.context_management else None,
            compact=self.triggers,
        )

    def _caching(self, default_ttl_s: int) -> Caching:
        caching, cache = self.caching or CachingField(), self.prompt_cache_options
        points = self.breakpoint_ttls()
        if caching.ttl is not None:
            ttl_s = caching.ttl
        else:
            # What OpenAI's fields promise is a least lifetime each; the operator's own holds without them.
            asked = [_TTL_S[ttl] for ttl in points]
            asked += [_TTL_S[cache.ttl]] if cache else []
            asked += [_DAY_S] if self.prompt_cache_retention == "24h" else []
            ttl_s = max([default_ttl_s, *asked])
        explicit = cache is not None and cache.mode == "explicit"
        return Caching(enabled=caching.type == "enabled", ttl_s=ttl_s, keep=bool(points) or not explicit)

    def _echo(self, reasoning: ReasoningConfig) -> dict[str, Any]:
        cache = self.prompt_cache_options
        options = cache.model_dump(exclude={"prewarm"}, exclude_none=True) if cache else None
        return {
            "reasoning": {"effort": reasoning.effort, "summary": reasoning.asked_summary},
            "metadata": self.metadata or {},
            "max_tool_calls": self.max_tool_calls,
            # There is one tier, whatever was asked for.
            "service_tier": "default",
            "safety_identifier": self.safety_identifier,
            "user": self.user,
            "prompt_cache_key": self.prompt_cache_key,
            "prompt_cache_retention": self.prompt_cache_retention,
            "prompt_cache_options": options,
        }


class CountInputTokens(Prompt):
    chat_template_kwargs: ClientJson | None = None

    def turn(self) -> TurnRequest:
        """Raises InvalidRequest."""
        extras = {"chat_template_kwargs": self.chat_template_kwargs} if self.chat_template_kwargs else {}
        return TurnRequest(
            model=self.model,
            input=self.items(),
            previous_response_id=self.parent_id(),
            conversation=self.conversation_id(),
            mcp=self.servers(),
            store=False,
            caching=Caching(enabled=True, ttl_s=0),
            options=self.options(extras=extras),
            echo={},
            truncate=self.truncation == "auto",
        )


Body = TypeVar("Body", bound=BaseModel)


def parse(model: type[Body], body: bytes) -> Body:
    """A request's body. Raises InvalidRequest with the field at fault."""
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        raise refusal(exc.errors(include_url=False)[0]) from None


def parse_create(body: bytes, default_ttl_s: int) -> tuple[TurnRequest, bool]:
    """The turn that a request asks for, and whether to stream it. Raises InvalidRequest."""
    request = parse(CreateResponse, body)
    return request.turn(default_ttl_s), bool(request.stream)
