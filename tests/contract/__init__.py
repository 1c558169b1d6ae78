"""What every answer must be: of the SDK's own types to the letter, its events in the promised order."""

from tests.contract.answers import (
    check_deleted,
    check_error,
    check_item_list,
    check_response,
    check_response_list,
    check_token_count,
)
from tests.contract.conversations import (
    check_conversation,
    check_conversation_deleted,
    check_conversation_item,
    check_conversation_items,
)
from tests.contract.streams import check_event, check_stream

__all__ = [
    "check_conversation",
    "check_conversation_deleted",
    "check_conversation_item",
    "check_conversation_items",
    "check_deleted",
    "check_error",
    "check_event",
    "check_item_list",
    "check_response",
    "check_response_list",
    "check_stream",
    "check_token_count",
]
