"""The only reader of the environment. Built in `cli`, handed down from there."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AnyHttpUrl, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.errors import SetupError


def _default_data_dir() -> Path:
    # As root, Postgres runs as an unprivileged user, who cannot enter root's home.
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/marginalia")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "marginalia"


class Settings(BaseSettings):
    """Settings of one service process. The names, in capitals, are the environment's."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    data_dir: Path = Field(default_factory=_default_data_dir)
    database_url: str | None = None
    """A Postgres to use instead of the embedded one, `postgresql://…`."""
    worker_urls: Annotated[tuple[AnyHttpUrl, ...], NoDecode] = ()
    """vLLM servers to use instead of a local one, separated by commas."""
    model: str | None = None
    """Path or hub name of what the local vLLM serves; SmolLM2-135M-Instruct by default."""
    vllm_args: str = ""
    """Further arguments of the local vLLM, as one would type them."""
    marginalia_secret: SecretStr | None = None
    """Shared with the plugin in vLLM. The local vLLM gets one made for it where this is not set."""
    prefix_ttl_seconds: int = Field(3600, ge=1)
    """How long a prefix may be reused after its last turn, unless the request says so."""
    keep_token_ids: bool = True
    """Keep the token ids of each turn in Postgres, for a worker that lost them."""
    prefix_policy: Literal["sampled", "canonical"] = "sampled"
    """Ids of the model's own words: those that it sampled, or those of their text."""
    conversation_busy: Literal["wait", "refuse"] = "wait"
    """A turn whose conversation has another one running waits, a minute at most, or is refused at once."""

    background_concurrency: int = Field(4, ge=0)
    """Responses in the background that this process makes at once; with 0 it leaves them to others."""
    background_stalled_seconds: float = Field(12.0, ge=2)
    """A process that gives no sign of life for as long is taken for dead, and its jobs go to others."""

    mcp_timeout_seconds: float = Field(60.0, gt=0)
    """How long a call of an MCP server's tool may take; connecting and listing, ten seconds each."""
    mcp_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts, or hosts with a port, that MCP servers may be on, separated by commas; empty for any. Where
    clients are not trusted, name them: a tool server is reached from where this service runs."""

    @field_validator("worker_urls", "mcp_allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [u.strip() for u in value.split(",") if u.strip()] if isinstance(value, str) else value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()


def load() -> Settings:
    """Read the environment. Raises SetupError naming the first variable that does not fit."""
    try:
        return Settings()
    except ValidationError as exc:
        first = exc.errors()[0]
        name = str(first["loc"][0]).upper()
        raise SetupError(
            f"{name}: {first['msg']}", hint=f"Correct or unset {name} in the environment."
        ) from exc
