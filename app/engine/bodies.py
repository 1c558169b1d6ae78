"""Request bodies for vLLM: its own chat route's, and the plugin's."""

from typing import Any

from app.conversation.engine import Generation, Margin, Whole
from app.conversation.options import Options
from app.engine import messages
from app.engine.tools import chat_tool_choice, chat_tools
from app.prefix.wire import PROTOCOL, Commit, PrefixChatRequest, Reference, Reseed


def stock_body(generation: Generation, prompt: Margin | Whole) -> dict[str, Any]:
    """Of a chat completion with the whole history."""
    assert isinstance(prompt, Whole)
    options = generation.options
    history = messages.whole(options.instructions, prompt.history, prompt.new_input)
    return {**_chat(generation), "messages": history, "cache_salt": generation.namespace}


def tokenize_body(generation: Generation, prompt: Margin | Whole) -> dict[str, Any]:
    """Of vLLM's route that renders a prompt and samples nothing: less than a chat completion's."""
    body = stock_body(generation, prompt)
    arguments = body.get("chat_template_kwargs") or {}
    if effort := body.get("reasoning_effort"):
        # As chat completions hand it to the template.
        arguments = {"enable_thinking": effort != "none", **arguments, "reasoning_effort": effort}
    tools = {"tools": body["tools"]} if "tools" in body else {}
    return {
        "model": body["model"],
        "messages": body["messages"],
        "chat_template_kwargs": arguments,
        **tools,
    }


def prefix_body(generation: Generation, prompt: Margin | Whole) -> PrefixChatRequest:
    reference = reseed = None
    options = generation.options
    if isinstance(prompt, Margin):
        at = prompt.checkpoint
        new = messages.margin(prompt.parent_output, prompt.new_input)
        reference = Reference(at.ref, at.prefix_hash, at.token_count, at.fingerprint)
    else:
        new = messages.whole(options.instructions, prompt.history, prompt.new_input)
        reseed = Reseed(prompt.reason, list(prompt.seeds)) if prompt.lost else None
    return PrefixChatRequest(
        protocol=PROTOCOL,
        namespace=generation.namespace,
        chat=_chat(generation),
        messages=new,
        prefix=reference,
        reseed=reseed,
        commit=Commit(prompt.keep_s, seed=generation.keep_ids) if prompt.keep_s is not None else None,
        policy=generation.policy,
        compare=generation.compare,
        said=None if generation.said is None else list(generation.said),
    )


def _chat(generation: Generation) -> dict[str, Any]:
    """Fields of a chat completion request, less messages; None leaves a field to vLLM."""
    options = generation.options
    chat: dict[str, Any] = {
        **options.extras,
        "model": generation.model,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_completion_tokens": options.max_output_tokens,
        "reasoning_effort": options.reasoning_effort,
        "response_format": _response_format(options.text_format),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if options.top_logprobs is not None:
        chat |= {"logprobs": True, "top_logprobs": options.top_logprobs}
    if options.verbosity is not None:
        # For templates that know it; vLLM keeps it from the others.
        arguments = options.extras.get("chat_template_kwargs") or {}
        chat["chat_template_kwargs"] = {"verbosity": options.verbosity, **arguments}
    if tools := options.offered_tools:
        chat["tools"] = chat_tools(tools)
        chat["tool_choice"] = chat_tool_choice(options.tool_choice)
        chat["parallel_tool_calls"] = options.parallel_tool_calls
    return {name: value for name, value in chat.items() if value is not None}


def grammar_field(options: Options) -> str | None:
    """The request field that the answer's grammar is made of."""
    if options.text_format["type"] != "text":
        return "text.format"
    if "structured_outputs" in options.extras:
        return "structured_outputs"
    return "tools" if options.offered_tools else None


def _response_format(text_format: dict[str, Any]) -> dict[str, Any] | None:
    """`text.format` as the chat API has it; None for plain text."""
    if text_format["type"] != "json_schema":
        return None if text_format["type"] == "text" else text_format
    schema = {k: v for k, v in text_format.items() if k != "type" and v is not None}
    return {"type": "json_schema", "json_schema": schema}
