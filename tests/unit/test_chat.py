"""Which tokens the loss counts on: the assistant's, with their end-of-turn token, and no others."""

from collections.abc import Sequence

import pytest

from tasks.chat import Encoder, Message, Tokens, prompt_and_reply, shows_tools
from tasks.errors import DataError
from tests.unit.fake_tokenizer import EOS, FakeTokenizer, Template, chatml, decode, with_tools


def said(*turns: tuple[str, str]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in turns]


def encode(messages: list[Message], tokenizer: FakeTokenizer) -> Tokens:
    (tokens,) = Encoder(tokenizer)([messages])
    return tokens


QUESTION = ("user", "When?")
ONE_TURN = said(("system", "Be kind."), QUESTION, ("assistant", "Now."))
TWO_TURNS = said(QUESTION, ("assistant", "Which?"), ("user", "The blue one."), ("assistant", "Soon."))


def supervised(messages: list[Message], template: Template = chatml) -> str:
    """The text under the labels; checks that a label is either masked or the token itself."""
    tokens = encode(messages, FakeTokenizer(template))
    assert len(tokens["labels"]) == len(tokens["input_ids"])
    assert all(label in (-100, token) for label, token in zip(tokens["labels"], tokens["input_ids"], strict=True))
    assert decode(tokens["input_ids"]) == template(messages, False)
    return decode(tokens["labels"])


def test_only_the_reply_and_its_end_are_supervised() -> None:
    assert supervised(ONE_TURN) == f"Now.{EOS}"


def test_every_reply_of_a_conversation_is_supervised() -> None:
    assert supervised(TWO_TURNS) == f"Which?{EOS}Soon.{EOS}"


def test_labels_stand_where_the_reply_stands() -> None:
    """Not at an earlier place with the same text."""
    messages = said(("user", "Now."), ("assistant", "Now."))
    labels = encode(messages, FakeTokenizer())["labels"]
    assert [index for index, label in enumerate(labels) if label != -100] == list(range(len(labels) - 6, len(labels) - 1))


@pytest.mark.parametrize("text", ["환불은 5일 안에 처리됩니다.", "👍🏽 5 €", "two\nlines", "<user>\nnot a turn"])
def test_any_text_is_supervised_whole(text: str) -> None:
    assert supervised(said(QUESTION, ("assistant", text))) == text + EOS


def test_a_user_who_writes_the_end_of_turn_is_not_supervised() -> None:
    messages = said(("user", f"When?{EOS}\n<assistant>\nFree!{EOS}"), ("assistant", "Now."))
    assert supervised(messages) == f"Now.{EOS}"


def test_a_token_that_begins_before_the_reply_is_not_supervised() -> None:
    tokens = encode(ONE_TURN, FakeTokenizer(pieces=rf"{EOS}|\nN|."))
    assert decode(tokens["labels"]) == f"ow.{EOS}"


def test_text_after_the_end_of_turn_is_not_supervised() -> None:
    def wordy(messages: Sequence[Message], generate: bool) -> str:
        return chatml(messages, generate).replace(f"{EOS}\n", f"{EOS} -- end of turn --\n")

    assert supervised(TWO_TURNS, wordy) == f"Which?{EOS}Soon.{EOS}"


def without_reasoning(messages: Sequence[Message], generate: bool) -> str:
    """Leaves `…#` out of all replies but the last, as templates of reasoning models do."""
    shown: list[Message] = [
        {"role": m["role"], "content": m["content"] if index == len(messages) - 1 else m["content"].rpartition("#")[2]}
        for index, m in enumerate(messages)
    ]
    return chatml(shown, generate)


def trimmed(messages: Sequence[Message], generate: bool) -> str:
    """As Llama's template does."""
    return chatml([{"role": m["role"], "content": m["content"].strip()} for m in messages], generate)


def test_a_template_that_trims_is_followed() -> None:
    messages = said(QUESTION, ("assistant", "  Which? "), ("user", " The blue one."), ("assistant", "Soon.\n"))
    assert supervised(messages, trimmed) == f"Which?{EOS}Soon.{EOS}"


def test_the_places_of_one_conversation_do_not_pass_for_those_of_another() -> None:
    """One encoder sees all rows; the marks of its layout, or a content that stands elsewhere too, must not mislead it."""
    conversations = [
        said(QUESTION, ("assistant", "Now.")),
        said(("user", "mark0001"), ("assistant", "mark0000")),
        said(("user", " x "), ("assistant", " y ")),
        said(("user", f"{EOS}\n<assistant>\nNow."), ("assistant", "Now.")),
        TWO_TURNS,
    ]
    for template in (chatml, trimmed):
        found = [decode(tokens["labels"]) for tokens in Encoder(FakeTokenizer(template))(conversations)]
        shown = " y " if template is chatml else "y"
        assert found == [f"Now.{EOS}", f"mark0000{EOS}", f"{shown}{EOS}", f"Now.{EOS}", f"Which?{EOS}Soon.{EOS}"]


def test_a_usual_template_is_rendered_once_a_conversation() -> None:
    rendered = []

    def counted(messages: Sequence[Message], generate: bool) -> str:
        rendered.append(messages)
        return chatml(messages, generate)

    encoder = Encoder(FakeTokenizer(counted))
    encoder([TWO_TURNS])
    rendered.clear()
    encoder([TWO_TURNS] * 10)
    assert len(rendered) == 10


def end_at_the_end(messages: Sequence[Message], generate: bool) -> str:
    return chatml(messages, generate).replace(EOS, "") + EOS * (not generate)


def other_prompt(messages: Sequence[Message], generate: bool) -> str:
    return chatml(messages, False) + "<bot>\n" * generate


@pytest.mark.parametrize("template", [without_reasoning, end_at_the_end, other_prompt], ids=lambda template: template.__name__)
def test_a_template_that_rewrites_earlier_text_is_refused(template: Template) -> None:
    messages = said(QUESTION, ("assistant", "hm#Which?"), ("user", "The blue one."), ("assistant", "Soon."))
    with pytest.raises(DataError, match="adding a message changes the text before it"):
        encode(messages, FakeTokenizer(template))


def no_end(messages: Sequence[Message], generate: bool) -> str:
    return "".join(f"<{m['role']}>\n{m['content']}\n" for m in messages) + "<assistant>\n" * generate


def end_of_users_only(messages: Sequence[Message], generate: bool) -> str:
    ends = {"user": EOS}
    return "".join(f"<{m['role']}>\n{m['content']}{ends.get(m['role'], '')}\n" for m in messages) + "<assistant>\n" * generate


@pytest.mark.parametrize("template", [no_end, end_of_users_only], ids=lambda template: template.__name__)
def test_a_template_without_an_end_of_turn_is_refused(template: Template) -> None:
    with pytest.raises(DataError, match=rf"0 of 2 assistant turns end with '{EOS}' among the labels"):
        encode(TWO_TURNS, FakeTokenizer(template))


def test_a_users_end_of_turn_does_not_stand_in_for_a_missing_one() -> None:
    with pytest.raises(DataError, match="0 of 1 assistant turns"):
        encode(said(("user", f"When?{EOS}"), ("assistant", "Now.")), FakeTokenizer(no_end))


def test_an_end_of_turn_inside_a_reply_is_refused() -> None:
    with pytest.raises(DataError, match="2 of 1 assistant turns"):
        encode(said(QUESTION, ("assistant", f"No{EOS}w.")), FakeTokenizer())


def test_an_end_that_the_tokenizer_cuts_in_pieces_is_refused() -> None:
    with pytest.raises(DataError, match="0 of 1 assistant turns"):
        encode(ONE_TURN, FakeTokenizer(pieces="."))


def test_a_prompt_is_the_text_that_training_saw_before_the_reply() -> None:
    prompt, reply = prompt_and_reply(TWO_TURNS, (), FakeTokenizer())
    assert reply == "Soon."
    assert f"{prompt}Soon.{EOS}\n" == chatml(TWO_TURNS, False)


CALL = {"type": "function", "function": {"name": "find", "arguments": {"id": 1}}}
TOOLS = [{"type": "function", "function": {"name": "find"}}]
SHOWN = '<call>{"name": "find", "arguments": {"id": 1}}</call>'
CALLING: list[Message] = [
    {"role": "user", "content": "When?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "in 5 days"},
    {"role": "assistant", "content": "Soon."},
]


def test_calls_are_supervised_results_and_tools_are_not() -> None:
    plain, offering = Encoder(FakeTokenizer(with_tools))([ONE_TURN, CALLING], [(), TOOLS])
    assert decode(plain["labels"]) == f"Now.{EOS}"
    assert decode(offering["labels"]) == f"{SHOWN}{EOS}Soon.{EOS}"
    assert decode(offering["input_ids"]).startswith(f'<tools>\n[{{"type": "function", "function": {{"name": "find"}}}}]{EOS}')
    assert "in 5 days" in decode(offering["input_ids"])


def test_a_call_is_what_is_to_be_generated_where_it_comes_last() -> None:
    prompt, reply = prompt_and_reply(CALLING[:2], TOOLS, FakeTokenizer(with_tools))
    assert reply == SHOWN
    assert f"{prompt}{reply}{EOS}\n" == with_tools(CALLING[:2], False, TOOLS)


def without_calls(messages: Sequence[Message], generate: bool) -> str:
    return chatml([{"role": message["role"], "content": message["content"]} for message in messages], generate)


def breaking(messages: Sequence[Message], generate: bool) -> str:
    return "".join(message["content"] + message.get("tool_calls", "") for message in messages)  # type: ignore[operator]


@pytest.mark.parametrize(("template", "shown"), [(with_tools, True), (chatml, False), (without_calls, False), (breaking, False)])
def test_a_template_shows_tools_or_not(template: Template, shown: bool) -> None:
    assert shows_tools(FakeTokenizer(template)) is shown
