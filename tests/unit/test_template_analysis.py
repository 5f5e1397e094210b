"""Which chat templates print contents as they are, and that their text is then known without rendering each conversation."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tasks.chat import Encoder, Message
from tasks.template_analysis import prints_verbatim
from tests.unit.fake_tokenizer import EOS, FakeTokenizer, decode

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<system>Be kind.<eos>' }}
{% endif %}{{ '<' + message['role'] + '>' + message['content'] + '<eos>' }}{% endfor %}
{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"""
# As Qwen2.5's: a system message apart, a content only asked for being there, a look at the message before.
LONG = """{%- if messages | length == 0 %}{{- raise_exception('nothing') }}{%- endif %}
{%- if messages[0].role == 'system' %}{{- '<system>' ~ messages[0].content + eos_token }}{%- endif %}
{%- set ns = namespace(seen=0) %}{%- for turn in messages %}{%- if turn.role == 'system' %}{%- continue %}{%- endif %}
{%- set role = 'bot' if turn.role == 'assistant' else turn.role %}{%- set ns.seen = ns.seen + 1 %}
{%- if turn.role == 'assistant' and turn.tool_calls %}{{- turn.tool_calls | tojson }}{%- elif not turn.content %}{{- 'nothing' }}
{%- elif loop.first or messages[loop.index0 - 1].role != turn.role %}{{- '<' ~ role ~ '>' }}{{ turn.content }}{{ eos_token }}
{%- endif %}{%- endfor %}{{- '<bot>' if add_generation_prompt else '' }}"""


class JinjaTokenizer(FakeTokenizer):
    """Counts how often its template is rendered."""

    def __init__(self, source: str) -> None:
        super().__init__(self.render)
        self.source, self.rendered = source, 0
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        self._compiled = environment.from_string(source)

    def get_chat_template(self) -> str:
        return self.source

    def render(self, messages: Sequence[Message], generate: bool) -> str:
        self.rendered += 1
        return self._compiled.render(messages=messages, add_generation_prompt=generate, eos_token=EOS)


CONTENTS = st.text(st.sampled_from(" \n'{%}<>mark0o1Çé한👍"), min_size=1, max_size=12)
CONVERSATIONS = st.lists(
    st.tuples(st.booleans(), st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=2)), min_size=1, max_size=3
)


def conversation(system: bool, turns: list[tuple[str, str]]) -> list[Message]:
    told: list[Message] = [{"role": "system", "content": f"system {turns}"}] if system else []
    roles = ("user", "assistant")
    return told + [{"role": role, "content": content} for turn in turns for role, content in zip(roles, turn, strict=True)]


@pytest.mark.parametrize("source", [CHATML, LONG], ids=["chatml", "long"])
@settings(max_examples=25, deadline=None)
@given(drawn=CONVERSATIONS)
def test_a_template_that_prints_contents_is_rendered_for_each_order_of_roles_only(
    source: str, drawn: list[tuple[bool, list[tuple[str, str]]]]
) -> None:
    tokenizer = JinjaTokenizer(source)
    conversations = [conversation(*parts) for parts in drawn]
    encoder = Encoder(tokenizer)
    encoder(conversations)
    tokenizer.rendered = 0
    found = encoder(conversations)
    assert tokenizer.rendered == 0
    for messages, tokens in zip(conversations, found, strict=True):
        assert decode(tokens["input_ids"]) == tokenizer.render(messages, False)
        replies = [message["content"] for message in messages if message["role"] == "assistant"]
        assert decode(tokens["labels"]) == "".join(reply + EOS for reply in replies)


OTHERS = {
    "trim": "{{ m.content | trim }}",
    "compare": "{{ m.content == 'x' }}",
    "look into": "{% if 'x' in m.content %}y{% endif %}",
    "length": "{{ m.content | length }}",
    "item": "{{ m.content[0] }}",
    "method": "{{ m.content.strip() }}",
    "repeat": "{{ m.content * 2 }}",
    "variable": "{% set c = m.content %}{{ c }}",
    "loop": "{% for part in m.content %}{{ part }}{% endfor %}",
    "macro": "{% macro show(c) %}{{ c }}{% endmacro %}{{ show(m.content) | trim }}",
    "call": "{% macro show() %}{{ caller() | trim }}{% endmacro %}{% call show() %}{{ m.content }}{% endcall %}",
    "filtered block": "{% filter trim %}{{ m.content }}{% endfilter %}",
    "captured block": "{% set c %}{{ m.content }}{% endset %}{{ c | trim }}",
    "block": "{% block b %}{{ m.content }}{% endblock %}",
    "condition": "{{ 'x' if m.content == 'x' else 'y' }}",
    "test": "{% if m.content is string %}x{% endif %}",
    "get": "{{ m.get('content') }}",
    "items": "{% for key, value in m.items() %}{{ value }}{% endfor %}",
    "key that is made": "{{ m['con' ~ 'tent'] }}",
    "message": "{{ m }}",
    "other name": "{% set other = m %}{{ other.content | trim }}",
    "part of messages": "{% for n in messages[1:] %}{{ n.content }}{% endfor %}",
    "all messages": "{{ messages | tojson }}",
    "last message": "{{ (messages | last).content }}",
    "neighbour": "{{ loop.previtem.content | trim }}",
    "loop itself": "{{ loop }}",
    "filtered loop": "{% for n in messages if n.content == 'x' %}{{ n.role }}{% endfor %}",
    "recursive loop": "{% for n in messages recursive %}{{ n.role }}{% endfor %}",
    "two targets": "{% for a, b in messages %}{{ a }}{% endfor %}",
    "tag": "{% generation %}{{ m.content }}{% endgeneration %}",
    "fault": "{{ m.content",
}


@pytest.mark.parametrize("inner", OTHERS.values(), ids=OTHERS)
def test_a_template_that_may_do_more_is_rendered_each_time(inner: str) -> None:
    assert prints_verbatim("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert not prints_verbatim("{% for m in messages %}" + inner + "{% endfor %}")


PIECES = [
    *OTHERS.values(),
    "{{ m.content }}",
    "{{ m.role ~ m.content }}",
    "{% if m.content %}a{% endif %}",
    "{{ not m.content }}",
    "{{ m.content and 'b' }}",
    "{{ m.content or m.role }}",
    "{{ (m.content + 'c') ~ loop.index }}",
    "{{ messages[0].content }}",
    "{{ m.content if loop.last else m.role }}",
    "{{ 'd' if m.content else 'e' }}",
    "{% set m = 'f' %}{{ m }}",
    "text",
]
MARKS = ["\ue000", "\ue001"]  # contents that are nothing else


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), contents=st.tuples(CONTENTS, CONTENTS))
def test_what_is_said_to_be_verbatim_is(pieces: list[str], contents: tuple[str, str]) -> None:
    source = "{% for m in messages %}" + "".join(pieces) + "{% endfor %}"
    if not prints_verbatim(source):
        return

    def shown(texts: Sequence[str]) -> Any:
        roles = ("user", "assistant")
        try:
            return JinjaTokenizer(source).render([{"role": r, "content": c} for r, c in zip(roles, texts, strict=True)], False)
        except TemplateError as error:
            return str(error)

    expected = shown(MARKS)
    for mark, content in zip(MARKS, contents, strict=True):
        expected = expected.replace(mark, content)
    assert shown(contents) == expected
