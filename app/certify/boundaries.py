"""Which added tokens are safe boundaries, and why the others are not."""

from tokenizers import AddedToken

from app.certify.certificate import Boundaries, Unsafe
from app.vllm_plugin.tokenization import BoundaryTokenizer


def boundaries(tokenizer: BoundaryTokenizer, typical: str) -> Boundaries:
    """Of a loaded tokenizer; `typical` is a rendered prompt that shows which ones a template uses."""
    added = tokenizer.backend.get_added_tokens_decoder()
    contents = [token.content for token in added.values()]
    in_use = [content for content in tokenizer.admissible.values() if content in typical]
    return Boundaries(
        safe=list(tokenizer.admissible.values()),
        unsafe=[
            Unsafe(token.content, _reason(token, contents))
            for number, token in added.items()
            if number not in tokenizer.admissible
        ],
        in_use=sorted(in_use, key=typical.index),
    )


def _reason(token: AddedToken, contents: list[str]) -> str:
    """The first of the rules in docs/adr/0002-exactness-by-re-proof.md that it breaks."""
    if token.lstrip or token.rstrip:
        return "takes in the blanks beside it"
    if token.single_word:
        return "counts only as a word of its own"
    if any(token.content in other[:-1] for other in contents):
        return "another added token begins with it or holds it"
    if token.normalized:
        return "is looked for in normalized text"
    return "fails the self-test, or begins inside another added token"
