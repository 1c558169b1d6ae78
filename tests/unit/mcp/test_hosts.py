"""Which hosts a list of them allows."""

import pytest

from app.conversation.hosted import ToolServerError
from app.mcp.hosts import AllowedHosts

ALLOWED = [
    ("example.com", "https://example.com/mcp", True),
    ("example.com", "https://example.com:8443/mcp", True),
    ("Example.COM", "https://example.com/", True),
    ("example.com", "https://EXAMPLE.com/", True),
    ("example.com:443", "https://example.com/", True),
    ("example.com:80", "http://example.com/", True),
    ("example.com:443", "http://example.com/", False),
    ("example.com:443", "https://example.com:8443/", False),
    ("example.com", "https://sub.example.com/", False),
    ("example.com", "https://example.com@evil.net/", False),
    ("example.com", "https://example.com:x@evil.net/", False),
    ("[::1]:8080", "http://[::1]:8080/", True),
    ("[::1]", "http://[::1]:8080/", True),
    ("::1", "http://[::1]/", True),
    ("[::1]:8080", "http://[::1]/", False),
]


@pytest.mark.parametrize(("entry", "url", "allows"), ALLOWED)
def test_a_host_with_or_without_its_port(entry: str, url: str, allows: bool) -> None:
    hosts = AllowedHosts(["other.example", entry])
    if allows:
        hosts.check(url)
    else:
        with pytest.raises(ToolServerError):
            hosts.check(url)


def test_none_allow_all() -> None:
    AllowedHosts(()).check("http://anywhere/")
