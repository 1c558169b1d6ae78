"""References: which resident prompts a request names, or why one cannot be used."""

from app.prefix import hashing
from app.prefix.wire import PrefixChatRequest
from app.vllm_plugin.store import Node, PrefixStore


class PrefixMiss(Exception):
    """The reference cannot be used; raised before anything is sampled. `code` is one of wire.MISS_CODES."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def resolve(store: PrefixStore, request: PrefixChatRequest) -> Node | None:
    """The node that the request's reference names; None when it names none. Raises PrefixMiss."""
    reference = request.prefix
    if reference is None:
        return None
    try:
        node = store.get(hashing.Ref(bytes.fromhex(reference.ref)))
    except ValueError:
        node = None
    if node is None:
        raise PrefixMiss("prefix_miss", "no such prefix is resident in this process")
    if node.namespace != request.namespace:
        raise PrefixMiss("namespace_mismatch", "the prefix belongs to another namespace")
    if store.expired(node):
        raise PrefixMiss("prefix_expired", "the prefix's time to live has passed")
    if node.fingerprint != reference.fingerprint or node.model != request.chat.get("model", node.model):
        raise PrefixMiss("fingerprint_mismatch", "model, tokenizer or template differ from the prefix's")
    if node.hash != reference.hash or node.tokens != reference.tokens:
        raise PrefixMiss("hash_mismatch", "the prefix's tokens differ from those that the reference names")
    return node


def compared(store: PrefixStore, request: PrefixChatRequest) -> Node | None:
    """The node that the request is to be compared with; None when it names none, or none that it may name."""
    node = store.get(hashing.Ref(bytes.fromhex(request.compare))) if request.compare else None
    if node is None or node.namespace != request.namespace or store.expired(node):
        return None
    return node
