"""A family's vLLM server without its engine, with the plugin in it. See app.certify.offline."""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "CRITICAL"}

from app.certify import offline
from app.certify.offline import CACHED_TOKENS, MODEL, Prompt, Refused
from tests.parity.families import Family

__all__ = ["CACHED_TOKENS", "MODEL", "Offline", "Prompt", "Refused"]


class Offline(offline.Offline):
    """One worker per tokenizer: its families differ in their templates only."""

    def __init__(self, family: Family) -> None:
        super().__init__(family.directory(), family.chat_template)
        self.family = family

    def become(self, family: Family) -> None:
        self.family = family
        self.use_template(family.chat_template)
