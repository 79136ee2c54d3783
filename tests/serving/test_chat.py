from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.serving.chat import ChatTemplate, check_messages

CHATML = (
    "{{ bos_token }}{% for message in messages %}\n  {%- if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('no role ' + message['role']) }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = {"role": "user", "content": "hi"}


def template(source=CHATML):
    return ChatTemplate(source, {"bos_token": "<s>"}, lambda: datetime(2026, 3, 4))


def theirs(source, messages):
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template([messages], chat_template=source, add_generation_prompt=True, bos_token="<s>")
    return rendered[0]


@pytest.mark.parametrize(
    "source",
    [
        CHATML,
        "{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m }}{% endfor %}",
        "{{ messages | tojson }}{{ messages | tojson(indent=2) }}<b>",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m['content'] }}{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}x",
        "{{ dict(a=1) }}{{ messages[-1]['content'][:2] }}{% if tools is defined %}t{% endif %}",
    ],
)
def test_templates_render_as_transformers_renders_them(source):
    messages = [{"role": "system", "content": "be <kind> & naïve"}, USER, {"role": "assistant", "content": " yes \n"}]
    assert template(source).render(messages) == theirs(source, messages)


def test_the_time_is_the_one_handed_in():
    assert template("{{ strftime_now('%d %b %Y') }}").render([USER]) == "04 Mar 2026"


def test_content_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert check_messages([{"role": "user", "content": parts}]) == [{"role": "user", "content": "a\nb"}]


def test_a_reply_can_be_sent_back_whole():
    reply = {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None, "annotations": []}
    assert check_messages([USER, reply])[1] == {"role": "assistant", "content": "yes"}


def test_developer_is_system_for_a_template_that_does_not_know_it():
    assert template("{{ messages[0].role }}").render([{"role": "developer", "content": ""}]) == "system"
    knows = "{% if messages[0].role == 'developer' %}yes{% endif %}"
    assert template(knows).render([{"role": "developer", "content": ""}]) == "yes"


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([], "messages"),
        ("hi", "messages"),
        (None, "messages"),
        (["hi"], "messages[0]"),
        ([{}], "messages[0].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([USER, {"role": "user", "content": 5}], "messages[1].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{**USER, "name": 5}], "messages[0].name"),
    ],
)
def test_a_bad_message_is_named(messages, where):
    with pytest.raises(BadInputError) as caught:
        template().render(messages)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content[0]"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[0].tool_calls"),
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "messages[0].tool_call_id"),
    ],
)
def test_what_is_not_implemented_is_named(message, where):
    with pytest.raises(UnsupportedError) as caught:
        check_messages([message])
    assert caught.value.where == where


def test_what_the_template_refuses_is_bad_input():
    with pytest.raises(BadInputError, match="no role tool"):
        template().render([{"role": "tool", "content": "x"}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ messages[0].__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ 1 / 0 }}",
        "{{ nothing.at.all }}",
        "{{ range(10 ** 9) | list }}",
        "{{ 'x' * 10 ** 15 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_hostile_or_broken_template_is_an_error_and_no_more(source):
    with pytest.raises(BadInputError, match="messages"):
        template(source).render([USER])


@pytest.mark.parametrize("source", ["{% for %}", "{{ a", "{% generation %}x", "{% include 'x' %}{% endif %}"])
def test_a_malformed_template_is_refused(source):
    with pytest.raises(BadInputError, match="chat template"):
        template(source)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "name"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(json_values)
def test_nonsense_is_bad_input_or_rendered(messages):
    try:
        text = template("{% for m in messages %}{{ m.content }}{% endfor %}").render(messages)
    except BadInputError as error:
        where = error.where
    else:
        assert isinstance(text, str)
        return
    assert where.startswith("messages")
