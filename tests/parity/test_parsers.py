"""vLLM's own tool parsers into our output items, however many tokens come at once: no call is torn."""

import json
import random
from functools import cache
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer
from vllm.parser.parser_manager import ParserManager

from app.conversation.events import EventAssembler
from app.conversation.options import Options
from app.conversation.records import Item
from app.engine.answer import ChatAnswer
from app.vllm_plugin.seam import ChatCompletionRequest
from tests.parity.families import FAMILIES

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in "fg"]

HERMES = (
    '<tool_call>\n{"name": "f", "arguments": {"a": "x y", "b": 1}}\n</tool_call>\n'
    '<tool_call>\n{"name": "g", "arguments": {"a": "z"}}\n</tool_call>'
)
XML = (
    "<tool_call>\n<function=f>\n<parameter=a>\nx y\n</parameter>\n<parameter=b>\n1\n</parameter>\n"
    "</function>\n</tool_call>\n<tool_call>\n<function=g>\n<parameter=a>\nz\n</parameter>\n</function>\n</tool_call>\n"
)
GLM = (
    "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x y</arg_value>\n<arg_key>b</arg_key>\n<arg_value>1"
    "</arg_value>\n</tool_call>\n<tool_call>g\n<arg_key>a</arg_key>\n<arg_value>z</arg_value>\n</tool_call>"
)


@cache
def qwen3() -> Any:
    return AutoTokenizer.from_pretrained(FAMILIES["qwen3"].directory())


def parsed(parser: str, text: str, tokens_at_once: random.Random) -> list[Item]:
    tokenizer = qwen3()
    request = ChatCompletionRequest(
        model="m", messages=[{"role": "user", "content": "x"}], tools=TOOLS, tool_choice="auto"
    )
    made = ParserManager.get_parser(tool_parser_name=parser, enable_auto_tools=True, model_name="m")(
        tokenizer, request.tools, chat_template_kwargs={}
    )
    request = made.adjust_request(request)
    answer = ChatAnswer(httpx.Response(200), "u", Options(), "full", None, None)
    assembler = EventAssembler({"status": "completed"})
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    given, sent = 0, ""
    while given < len(ids):
        part = ids[given : given + tokens_at_once.choice([1, 1, 2, 5, 20, 1000])]
        given += len(part)
        whole = tokenizer.decode(ids[:given])
        delta: Any = made.parse_delta(
            delta_text=whole[len(sent) :],
            delta_token_ids=part,
            request=request,
            prompt_token_ids=[1],
            finished=given == len(ids),
        )
        sent = whole
        if delta is not None:
            chunk = {"delta": json.loads(delta.model_dump_json(exclude_unset=True)), "finish_reason": None}
            assembler.add(answer._delta({"choices": [chunk]}))
    assembler.end("completed")
    return assembler.output


@pytest.mark.parametrize(
    ("parser", "text"), [("hermes", HERMES), ("qwen3_coder", XML), ("qwen3_xml", XML), ("glm45", GLM)]
)
def test_calls_are_whole_however_they_come(parser: str, text: str) -> None:
    for seed in range(25):
        output = parsed(parser, f"Let me see.\n{text}", random.Random(seed))
        calls = [(i["name"], json.loads(i["arguments"])) for i in output if i["type"] == "function_call"]
        assert calls == [("f", {"a": "x y", "b": 1}), ("g", {"a": "z"})], seed
        (said,) = (item for item in output if item["type"] == "message")
        assert said["content"][0]["text"].strip() == "Let me see."
        assert output[0] is said
