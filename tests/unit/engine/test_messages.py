"""Items to chat messages: by step of the model, and turn by turn the same as all at once."""

from hypothesis import given
from hypothesis import strategies as st

from app.conversation.records import Item, Segment
from app.engine import messages


def user(text: str) -> Item:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def said(text: str) -> Item:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def thought(text: str) -> Item:
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def call(call_id: str) -> Item:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}


def result(call_id: str) -> Item:
    return {
        "type": "function_call_output",
        "call_id": call_id,
        "output": [{"type": "input_text", "text": "ok"}],
    }


def chat_call(call_id: str) -> dict[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_one_step_of_the_model_is_one_message() -> None:
    assert messages.margin([thought("hm"), said("hi"), call("1"), call("2")], [result("1"), result("2")]) == [
        {
            "role": "assistant",
            "content": "hi",
            "reasoning": "hm",
            "tool_calls": [chat_call("1"), chat_call("2")],
        },
        {"role": "tool", "tool_call_id": "1", "content": "ok"},
        {"role": "tool", "tool_call_id": "2", "content": "ok"},
    ]


def test_a_new_step_begins_where_the_order_says_so() -> None:
    rendered = messages.margin([thought("a"), call("1"), thought("b"), said("x"), said("y")], [])
    assert [(m.get("reasoning"), m["content"], len(m.get("tool_calls", ()))) for m in rendered] == [
        ("a", "", 1),
        ("b", "x", 0),
        (None, "y", 0),
    ]


def test_what_somebody_else_says_ends_a_step() -> None:
    rendered = messages.margin([], [call("1"), result("1"), call("2"), user("wait"), call("3")])
    assert [(m["role"], len(m.get("tool_calls", ()))) for m in rendered] == [
        ("assistant", 1),
        ("tool", 0),
        ("assistant", 1),
        ("user", 0),
        ("assistant", 1),
    ]


def test_instructions_come_first_and_several_parts_stay_apart() -> None:
    two = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": t} for t in "ab"]}
    assert messages.whole("be kind", [], [two]) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]


def test_refusals_are_text_to_the_model() -> None:
    refusal = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert messages.margin([refusal], []) == [{"role": "assistant", "content": "no"}]


def test_an_image_stays_one_and_is_seen_where_it_was() -> None:
    picture = {"type": "input_image", "image_url": "data:,x", "detail": "low"}
    text = {"type": "input_text", "text": "what is it?"}
    seen = {"type": "image_url", "image_url": {"url": "data:,x", "detail": "low"}}
    (message,) = messages.margin([], [{"type": "message", "role": "user", "content": [picture, text]}])
    assert message["content"] == [seen, {"type": "text", "text": "what is it?"}]


def test_a_call_that_was_cut_off_is_none() -> None:
    cut = {**call("1"), "arguments": '{"a', "status": "incomplete"}
    uncut = messages.margin([said("hi")], [user("go on")])
    assert messages.margin([said("hi"), cut], [user("go on")]) == uncut
    history = [Segment((user("q"),), (said("hi"), cut)), Segment((user("go on"),), ())]
    assert messages.whole(None, history, []) == [*messages.margin([], [user("q")]), *uncut]


def test_a_call_that_was_cut_off_and_answered_all_the_same_is_one() -> None:
    cut = {**call("1"), "status": "incomplete"}
    both = messages.margin([call("1")], [result("1")])
    assert messages.margin([cut], [result("1")]) == both
    assert messages.margin([], [cut, result("1")]) == both
    history = [Segment((), (cut,)), Segment((result("1"),), ())]
    assert messages.whole(None, history, []) == both


def test_a_custom_call_is_a_function_of_one_string() -> None:
    custom = {"type": "custom_tool_call", "call_id": "1", "name": "sh", "input": 'say "é"'}
    output = {**result("1"), "type": "custom_tool_call_output"}
    rendered = messages.margin([custom], [output])
    function = {"name": "sh", "arguments": '{"input": "say \\"é\\""}'}
    assert rendered[0]["tool_calls"] == [{"id": "1", "type": "function", "function": function}]
    assert rendered[1] == {"role": "tool", "tool_call_id": "1", "content": "ok"}


ITEMS = st.lists(
    st.one_of(
        st.builds(user, st.text(max_size=3)),
        st.builds(said, st.text(max_size=3)),
        st.builds(thought, st.text(max_size=3)),
        st.builds(call, st.sampled_from("123")),
        st.builds(result, st.sampled_from("123")),
    ),
    max_size=5,
)


@given(st.lists(st.builds(lambda i, o: Segment(tuple(i), tuple(o)), ITEMS, ITEMS), max_size=4), ITEMS)
def test_margins_add_up_to_the_whole(history: list[Segment], new_input: list[Item]) -> None:
    """The property that the hit path stands on."""
    by_margins: list[messages.Message] = []
    parent_output: tuple[Item, ...] = ()
    for segment in [*history, Segment(tuple(new_input), ())]:
        by_margins += messages.margin(parent_output, segment.input_items)
        parent_output = segment.output_items
    assert by_margins == messages.whole(None, history, new_input)


def test_arguments_that_no_template_could_print_are_nothing() -> None:
    for arguments in ('{"a', "[1]", '{"a": %s}' % ("1" * 5000), "[" * 5000):
        (message,) = messages.margin([{**call("1"), "arguments": arguments}], [])
        assert message["tool_calls"] == [chat_call("1")]
