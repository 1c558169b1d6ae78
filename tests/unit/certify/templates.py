"""Small chat templates: one that only appends, and others that do one thing besides."""

APPEND_ONLY = """{#- knows the role "developer" -#}
{%- for m in messages -%}
{{ '<|im_start|>' + m.role + '\\n' }}
{%- if m.reasoning -%}{{ '<think>' + m.reasoning + '</think>' }}{%- endif -%}
{{ m.content }}
{%- for call in m.tool_calls or [] -%}{{ call.function | tojson }}{%- endfor -%}
{{ '<|im_end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ (tools | tojson if tools else '') + '<|im_start|>assistant\\n' }}
{%- endif -%}"""


def with_front(front: str) -> str:
    return front + APPEND_ONLY


def changed(old: str, new: str) -> str:
    assert old in APPEND_ONLY
    return APPEND_ONLY.replace(old, new)


_REFUSE = "{{ raise_exception('not so') }}"
_EACH = "{%- for m in messages -%}"
_SYSTEM_FIRST = (
    "{%- for m in messages if m.role == 'system' -%}{{ m.content }}{%- endfor -%}"
    "{%- for m in messages if m.role != 'system' -%}"
)
_LAST_USER = (
    "{%- set ns = namespace(last=-1) -%}{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
)
_COUNT = "{%- set ns = namespace(calls=0) -%}"


def _refusing(condition: str) -> str:
    return changed(_EACH, _EACH + "{%- if " + condition + " -%}" + _REFUSE + "{%- endif -%}")


ONE_THING = {
    "reasoning_dropped": _LAST_USER + changed("m.reasoning -%}", "m.reasoning and loop.index0 > ns.last -%}"),
    "system_merged": changed(_EACH, _SYSTEM_FIRST),
    "developer_merged": changed('"developer"', "of no developer"),
    "look_ahead": changed("{{ '<|im_end|>' }}", "{{ '<|im_end|>' if loop.last else '\\n<|im_end|>' }}"),
    "generation_prompt_changed": changed("assistant\\n", "assistant\\n<think>"),
    "date": with_front("{{ strftime_now('%d %B %Y') }}"),
    "nondeterministic": with_front("{{ range(99999) | random }}"),
    "history_rewritten": with_front("{{ messages | length }}"),
    "default_system": with_front(
        "{%- if messages[0].role != 'system' -%}<|im_start|>system\nYou are helpful.<|im_end|>{%- endif -%}"
    ),
    "tools_before_history": with_front("{{ tools | tojson if tools else '' }}"),
    "thinking_switch": with_front(
        "{{ '' if enable_thinking is defined and enable_thinking else '/no_think' }}"
    ),
    "content_trimmed": changed("{{ m.content }}", "{{ m.content | trim }}"),
    "tool_calls_left_out": changed("{{ call.function | tojson }}", ""),
    "tools_left_out": changed("tools | tojson if tools else ''", "''"),
    "reasoning_left_out": changed("{{ '<think>' + m.reasoning + '</think>' }}", ""),
    "state_carried": _COUNT
    + changed("{{ call.function", "{%- set ns.calls = ns.calls + 1 -%}{{ ns.calls }}{{ call.function"),
    "alternation_refused": _refusing("m.role == 'user' and loop.previtem and loop.previtem.role == 'user'"),
    "system_refused": _refusing("m.role == 'system'"),
    "late_system_refused": _refusing("m.role == 'system' and not loop.first"),
    "tool_messages_refused": _refusing("m.role == 'tool' or m.tool_calls"),
}
"""By the name of the finding that each one shows."""
