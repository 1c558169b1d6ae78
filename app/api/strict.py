"""What all parts of a request have in common."""

from typing import Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

UNSUPPORTED = "unsupported"
"""Type of the errors about what OpenAI has and this server has not."""


class Strict(BaseModel):
    """A part of a request: exact types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class Direct(Strict):
    """Who called a tool: the model itself. Programs that call tools are a hosted feature."""

    type: Literal["direct"]


def unsupported(message: str, **values: Any) -> PydanticCustomError:
    return PydanticCustomError(UNSUPPORTED, message, values)


def refusing(kinds: frozenset[str], what: str) -> BeforeValidator:
    """Refuses values whose `type` is one of `kinds`, by name, before anything else is said of them."""

    def check(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind in kinds:
            raise unsupported(what + " of type '{kind}' are not supported", kind=kind)
        return value

    return BeforeValidator(check)
