"""The present, as chat templates see it: fixed, so that a date shows by moving it alone."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, tzinfo
from types import SimpleNamespace

_STRFTIME_NOW = "transformers.utils.chat_template_utils"
_HARMONY = "vllm.entrypoints.openai.parser.harmony_utils"


@contextmanager
def clock(now: datetime) -> Iterator[None]:
    """For templates' `strftime_now`, and for the date in vLLM's own harmony prompts."""

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Fixed":
            return cls.fromtimestamp(now.timestamp(), tz)

    # Both look the name up on their module at each call: the first a class, the second the module around it.
    replacements = {_STRFTIME_NOW: Fixed, _HARMONY: SimpleNamespace(datetime=Fixed)}
    modules = {sys.modules[name]: new for name, new in replacements.items() if name in sys.modules}
    before = {module: vars(module)["datetime"] for module in modules}
    try:
        for module, new in modules.items():
            vars(module)["datetime"] = new
        yield
    finally:
        for module, old in before.items():
            vars(module)["datetime"] = old
