"""What every client asks for: small answers of a small model, of which only the form is worth a look."""

from typing import Any, Literal

from openai.types.responses import Response
from pydantic import BaseModel

MODEL = "SmolLM2-135M-Instruct"
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 24}
LONGER = {**GREEDY, "max_output_tokens": 120}
"""Room for a tool call or an object."""


class Forecast(BaseModel):
    """A day's weather."""

    city: Literal["Paris", "Rome"]
    sky: Literal["clear", "cloudy"]
    warm: bool


class GetWeather(BaseModel):
    """Get the weather of a city."""

    city: Literal["Paris", "Rome"]


WEATHER_TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
FORCED: Any = {"type": "function", "name": "get_weather"}


def path(response: Response) -> str:
    """What the turn did with its prefix: `hit` from the second turn on, if all goes well."""
    return response.caching["path"]  # type: ignore[attr-defined, no-any-return]
