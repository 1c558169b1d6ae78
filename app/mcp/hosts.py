"""Which hosts MCP servers may be on."""

from collections.abc import Collection
from urllib.parse import urlsplit

from app.conversation.hosted import ToolServerError

_PORTS = {"http": 80, "https": 443}


class AllowedHosts:
    """allowed: hosts, or hosts with a port; none allows all. Raises ValueError for a port that is none."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = {_place(entry) for entry in allowed}

    def check(self, url: str) -> None:
        """Raises ToolServerError."""
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
        if self._allowed and not {(host, None), (host, port)} & self._allowed:
            raise ToolServerError(f"This server does not connect to '{host}' (MCP_ALLOWED_HOSTS).")


def _place(entry: str) -> tuple[str | None, int | None]:
    """A host, in small letters, and its port. An IPv6 address without one needs no brackets."""
    bare = entry.count(":") > 1 and not entry.startswith("[")
    parts = urlsplit(f"//[{entry}]" if bare else f"//{entry}")
    return parts.hostname, parts.port
