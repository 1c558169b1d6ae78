"""Each template does one thing to history, and exactly that is found."""

import pytest

from app.certify.certificate import Finding
from app.certify.clock import clock
from app.certify.offline import Offline
from app.certify.probing import probe
from app.certify.rewrites import PRESENT
from tests.unit.certify.templates import APPEND_ONLY, ONE_THING, with_front

PARSED = "tool_calls_reserialised"
"""vLLM parses the arguments of a call: no template that shows them can show them as they were."""


def findings(worker: Offline, template: str) -> dict[str, Finding]:
    worker.use_template(template)
    with clock(PRESENT):
        return {finding.name: finding for finding in probe(worker)}


def test_nothing_is_found_where_messages_are_only_appended(worker: Offline) -> None:
    assert list(findings(worker, APPEND_ONLY)) == [PARSED]


@pytest.mark.parametrize("name", ONE_THING)
def test_the_one_thing_that_a_template_does_is_found(name: str, worker: Offline) -> None:
    found = findings(worker, ONE_THING[name])
    shows_no_calls = {"nondeterministic", "tool_calls_left_out", "tool_messages_refused"}
    assert set(found) == {name} | (set() if name in shows_no_calls else {PARSED})
    assert (found[name].before != found[name].after) == (found[name].kind != "refusal")


def test_the_share_is_that_of_the_prompt_after_the_first_change(worker: Offline) -> None:
    everything = findings(worker, ONE_THING["date"])["date"].rewritten
    the_end = findings(worker, ONE_THING["look_ahead"])["look_ahead"].rewritten
    assert everything is not None and everything > 0.99
    assert the_end is not None and the_end < 0.2


def test_an_example_shows_the_place(worker: Offline) -> None:
    found = findings(worker, ONE_THING["date"])["date"]
    assert found.before.startswith("04 March 2026<|im_start|>system")
    assert found.after.startswith("11 October 2027<|im_start|>system")


def test_a_time_of_day_is_no_chance(worker: Offline) -> None:
    assert set(findings(worker, with_front("{{ strftime_now('%H:%M:%S') }}"))) == {"date", PARSED}


def test_tools_after_history_change_no_history(worker: Offline) -> None:
    assert list(findings(worker, APPEND_ONLY + "{{ tools | tojson if tools else '' }}")) == [PARSED]


def test_what_depends_on_thinking_says_so(worker: Offline) -> None:
    template = APPEND_ONLY.replace(
        "assistant\\n", "assistant\\n' + ('' if enable_thinking else '<think></think>') + '"
    )
    found = findings(worker, template)
    assert found["generation_prompt_changed"].when == ("enable_thinking=false",)
    assert found[PARSED].when == ()
    assert "thinking_switch" not in found, "old text is the same with and without"


def test_the_messages_that_are_looked_at_ahead_are_named(worker: Offline) -> None:
    found = findings(
        worker, ONE_THING["look_ahead"].replace("if loop.last", "if loop.last or m.role != 'tool'")
    )
    assert "tool before user" in found["look_ahead"].sentence
    assert "user before" not in found["look_ahead"].sentence
