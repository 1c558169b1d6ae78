"""The tables of docs/api.md."""

import re
from pathlib import Path

DOC = (Path(__file__).resolve().parents[3] / "docs/api.md").read_text()
ROW = re.compile(r"^\| `([^`]+)` \|(.*)\|(.*)\|$", re.MULTILINE)
SUPPORTED, NO_EFFECT, NEVER = "supported", "no effect", "never"


def table(heading: str, before: str = "") -> dict[str, str]:
    """Names, and what is said of them, in a section's first table or the first after the line `before`."""
    return {name: cells[-1] for name, cells in rows_of(heading, before).items()}


def rows_of(heading: str, before: str = "") -> dict[str, list[str]]:
    """Of such a table each row's name, and its cells between that and the notes."""
    section = re.split(r"^#+ " + re.escape(heading) + "$", DOC, flags=re.MULTILINE)[1]
    rows = section.split(before, 1)[1] if before else section
    found = re.search(r"^\|.*?(?=\n\n|\Z)", rows, re.MULTILINE | re.DOTALL)
    assert found, heading
    return {name: [c.strip() for c in middle.split("|")] for name, middle, _ in ROW.findall(found[0])}


CREATE = table("Create")
INCLUDE = table("include")
CACHE_OPTIONS = table("prompt_cache_options")
REASONING = table("reasoning")
TEXT = table("text")
STREAM_OPTIONS = table("stream_options")
TOOLS = table("tools")
TOOL_FIELDS = table("tools", "Of function and custom tools:")
MCP_FIELDS = table("tools", "Of MCP servers:")
TOOL_CHOICE = table("tool_choice")
ITEMS = table("Input items")
PARTS = table("Input items", "Of messages and tool outputs:")
OURS = table("Fields that are not OpenAI's")
EVENTS = table("Events")
ROUTES = rows_of("Routes")
CONVERSATIONS = rows_of("Conversations")
ERRORS = table("Errors")
MESSAGES = table("WebSocket")
MESSAGE_FIELDS = table("WebSocket", "What is a message's and not a body's:")


def refused(here: str) -> str | None:
    """The code, where a row says that it is refused."""
    found = re.fullmatch(r"refused: `?(\w+)`?", here)
    assert found or here in (SUPPORTED, NO_EFFECT), here
    return found[1] if found else None
