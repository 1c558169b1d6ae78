"""Answers of the routes of conversations."""

from typing import Any

from openai.types.conversations import (
    Conversation,
    ConversationDeletedResource,
    ConversationItem,
    ConversationItemList,
)

from tests.contract.strict import adapter, check

_conversation = adapter(Conversation)
_deleted = adapter(ConversationDeletedResource)
_item = adapter(ConversationItem)
_list = adapter(ConversationItemList)


def check_conversation(conversation: dict[str, Any]) -> None:
    check(_conversation, conversation, f"the conversation {conversation.get('id')}")
    assert isinstance(conversation["metadata"], dict), "for which the SDK says `object`"


def check_conversation_deleted(answer: dict[str, Any]) -> None:
    check(_deleted, answer, "the answer to DELETE")
    assert answer["deleted"]


def check_conversation_item(item: dict[str, Any]) -> None:
    check(_item, item, f"the item {item.get('id')}")


def check_conversation_items(page: dict[str, Any]) -> None:
    if page["data"]:  # the SDK has no type for a page without a first item
        check(_list, page, "the list of a conversation's items")
    ids = [item["id"] for item in page["data"]]
    assert len(set(ids)) == len(ids), f"an id twice: {ids}"
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
