"""A validated request as text, and back: one that waits in the database until it is run."""

from pydantic import TypeAdapter

from app.conversation.plan import TurnRequest

_REQUEST = TypeAdapter(TurnRequest)


def pack(request: TurnRequest) -> str:
    return _REQUEST.dump_json(request).decode()


def unpack(text: str) -> TurnRequest:
    """What `pack` made. Raises ValueError for anything else."""
    return _REQUEST.validate_json(text)
