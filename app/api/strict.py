"""What all parts of a request have in common."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

UNSUPPORTED = "unsupported"
"""Type of the errors about what OpenAI has and this server has not."""


class Strict(BaseModel):
    """A part of a request: exact types, no unknown fields.

    By name too: an SDK's `model_dump()` of an answer has `async_` and `schema_` where JSON has no underscore.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class Direct(Strict):
    """Who called a tool: the model itself. Programs that call tools are a hosted feature."""

    type: Literal["direct"]


def unsupported(message: str, **values: Any) -> PydanticCustomError:
    return PydanticCustomError(UNSUPPORTED, message, values)


def _absent(value: Any) -> None:
    if value is not None:
        raise unsupported("This parameter is not supported; null is")


Absent = Annotated[None, BeforeValidator(_absent)]
"""What OpenAI has and this server has not, where null asks for nothing."""


def _fits(value: Any) -> Any:
    """Raises where a number is too large for what vLLM's processes tell each other, or for JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("not_finite", "Numbers have to be finite")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise PydanticCustomError("too_large", "Integers of more than 64 bits are not supported")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _fits(part)
    return value


ClientJson = Annotated[dict[str, Any], AfterValidator(_fits)]
"""JSON whose fields are the client's."""


def refusing(kinds: frozenset[str], what: str) -> BeforeValidator:
    """Refuses values whose `type` is one of `kinds`, by name, before anything else is said of them."""

    def check(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind in kinds:
            raise unsupported(what + " of type '{kind}' are not supported", kind=kind)
        return value

    return BeforeValidator(check)
