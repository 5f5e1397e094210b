"""One row at a time: which rule a row breaks, and that no row is lost."""

import hashlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import text_faults
from tasks.chat import Tokens, Tools
from tasks.conversations import Accepted, Messages, Quarantined, Rules, judge_all
from tasks.errors import ChatTemplateError, ParamsError
from tasks.guidelines import Policy, Rulebook, Topic
from tasks.normalisation import identify
from tasks.readers import RawLine
from tasks.sections import Guidelines, Validate

RULEBOOK = Rulebook(
    Guidelines(
        policy="data/raw/policy.yaml",
        reply_pattern=r"\[(?P<category>[a-z]+) \| (?P<priority>low|normal|urgent)\]\n(?P<body>[^\n]+)",
        max_words=12,
        forbidden=("!",),
    )
)
POLICY = Policy(topics={"refund-time": Topic(category="refunds", must_say=("5 days",), policy="It takes 5 days.")})
SECTION = Validate(
    raw="data/raw",
    expectations=None,
    replay="replay",
    columns={},
    max_length=30,
    max_quarantined=1.0,
    min_accepted=1,
    max_unreadable_files=0,
    personal_data="quarantine",
    secrets="quarantine",
    phone_regions=("DE", "GB", "KR", "US"),
    boilerplate=("As an AI language model",),
    language=None,
)
RULES = Rules(SECTION, (RULEBOOK, POLICY), ("<|im_start|>", "<|im_end|>"), shows_tools=True)
SECRET = "hf_" + "aBcDeFgHiJ" * 4
REPLY = "[refunds | low]\nIt takes 5 days."
TURNS: Messages = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": REPLY}]


def encode(conversations: Sequence[Messages], tools: Sequence[Tools]) -> list[Any]:
    """A token a word, in lists, which can be compared."""
    counts = [sum(len(message["content"].split()) for message in messages) for messages in conversations]
    return [{"input_ids": [7] * count, "labels": [-100] * count} for count in counts]


def line_of(row: Any) -> bytes:
    return row if isinstance(row, bytes) else json.dumps(row).encode()


def judge(row: Any, **settings: Any) -> Accepted | Quarantined:
    """By RULES as a worker process gets them, with other settings."""
    rules = pickle.loads(pickle.dumps(replace(RULES, section=SECTION.model_copy(update=settings))))
    (verdict,) = judge_all([RawLine("raw.jsonl", 7, line_of(row))], rules, encode)
    return verdict


def said(*turns: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "a", "topic": "refund-time", "messages": [{"role": role, "content": text} for role, text in turns], **more}


def asked(text: str) -> dict[str, Any]:
    return said(("user", text), ("assistant", REPLY))


def replied(text: str) -> dict[str, Any]:
    return said(("user", "When?"), ("assistant", text))


def test_a_good_row_is_accepted_with_its_scalars() -> None:
    row = said(("system", "Be kind."), ("user", "When?"), ("assistant", REPLY), other=1)
    row["messages"][1]["name"] = "Ann"
    assert judge(row) == Accepted(
        id="a",
        source="raw.jsonl:7",
        group="",
        replay=False,
        topic="refund-time",
        category="refunds",
        priority="low",
        must_say=("5 days",),
        messages=[{"role": "system", "content": "Be kind."}, *TURNS],
        tools=(),
        reply_words=4,
        identity=identify([{"role": "system", "content": "Be kind."}, *TURNS]),
        input_ids=[7] * 10,
        labels=[-100] * 10,
    )


def test_only_the_last_reply_must_name_category_and_facts() -> None:
    assert isinstance(
        judge(said(("user", "Hi"), ("assistant", "[orders | low]\nYes?"), ("user", "When?"), ("assistant", REPLY))), Accepted
    )


@pytest.mark.parametrize(
    ("reason", "row", "detail"),
    [
        ("not_json", b'{"id": "a",', "column 12"),
        ("not_json", b"10:02 INFO started", "Extra data"),
        ("not_json", b"[" * 100_000, "recursion"),
        ("not_json", b'{"id": ' + b"1" * 5000 + b"}", "digits"),
        ("encoding", b'{"id": "caf\xe9"}', "not UTF-8 at byte 12"),
        ("bad_type", [1], "holds a list"),
        ("bad_type", b"null", "NoneType"),
        ("missing_key", {"id": "a", "messages": TURNS}, "lacks topic"),
        ("missing_key", {"id": "", "topic": "refund-time", "messages": TURNS}, "lacks id"),
        (
            "missing_key",
            {"id": "a", "topic": "refund-time", "messages": [{"role": "user", "text": "x"}]},
            "message 1 lacks content",
        ),
        ("bad_type", {"id": 1.5, "topic": "refund-time", "messages": TURNS}, "id is a float"),
        ("bad_type", {"id": "a", "topic": None, "messages": TURNS}, "topic is a NoneType"),
        ("bad_type", {"id": "a", "topic": "refund-time", "messages": "user: When?"}, "messages is a str"),
        ("bad_type", {"id": "a", "topic": "refund-time", "messages": ["When?"]}, "message 1 is a str"),
        ("bad_type", said(("user", 10), ("assistant", REPLY)), "content of message 1 is a int"),
        ("encoding", {"id": "\ud800", "topic": "refund-time", "messages": TURNS}, "U+D800 at character 1"),
        ("bad_role", said(("user", "When?"), ("bot", REPLY)), "'bot'"),
        ("bad_role", said(("user", "When?"), ("Assistant", REPLY)), "'Assistant'"),
        ("wrong_role_order", said(("assistant", REPLY)), "message 1 is of assistant, wanted user"),
        ("wrong_role_order", said(("user", "a"), ("user", "b"), ("assistant", REPLY)), "message 2"),
        ("wrong_role_order", said(("user", "a"), ("assistant", REPLY), ("system", "b"), ("assistant", REPLY)), "message 3"),
        ("no_assistant", said(), "nobody"),
        ("no_assistant", said(("system", "a")), "system"),
        ("no_assistant", said(("user", "a"), ("assistant", REPLY), ("user", "b")), "user"),
        ("empty_turn", asked(""), "message 1 (user)"),
        ("empty_turn", asked(" \n\u200b\ufeff"), "message 1 (user)"),
        ("empty_turn", replied(""), "message 2 (assistant)"),
        ("encoding", asked("caf\ufffd"), "U+FFFD at character 4"),
        ("encoding", asked("Donâ€™t"), "another encoding"),
        ("encoding", asked("a\x00b"), "U+0000"),
        ("encoding", asked("a\ud800b"), "U+D800"),
        ("control_token", asked("Hi<|im_end|>"), "<|im_end|>"),
        ("control_token", said(("system", "<|im_start|>"), ("user", "Hi"), ("assistant", REPLY)), "message 1 (system)"),
        ("unfilled_template", replied("[refunds | low]\nDear {{name}}, 5 days."), "{{name}}"),
        ("personal_data", asked("I am a.b@example.com"), "message 1 (user): an e-mail address"),
        ("secret", asked("I use https://ann:hunter2@shop.example"), "message 1 (user): a key, token or password"),
        ("secret", said(("system", SECRET), ("user", "Hi"), ("assistant", REPLY)), "message 1 (system)"),
        ("boilerplate", replied("As an AI language model I know: 5 days."), "message 2 (assistant): contains 'As an AI"),
        ("unknown_topic", said(*[("user", "When?"), ("assistant", REPLY)], topic="refund"), "'refund'"),
        ("format", replied("It takes 5 days."), "message 2: the reply does not match"),
        ("format", replied("[refunds | high]\nIt takes 5 days."), "does not match"),
        ("format", replied("[refunds | low]\nIt takes 5 days!"), "contains '!'"),
        ("format", replied("[refunds | low]\n5 days" + " or so" * 6), "14 words, wanted at most 12"),
        ("format", said(("user", "Hi"), ("assistant", "Hello."), ("user", "When?"), ("assistant", REPLY)), "message 2"),
        ("wrong_category", replied("[payment | low]\nIt takes 5 days."), "category payment, wanted refunds"),
        ("policy_contradiction", replied("[refunds | low]\nIt takes 15 days."), "'5 days'"),
        ("too_long", asked("word " * 30), "37 tokens, wanted at most 30"),
    ],
)
def test_the_first_broken_rule_names_the_row(reason: str, row: Any, detail: str) -> None:
    verdict = judge(row)
    assert isinstance(verdict, Quarantined)
    assert (verdict.reason, verdict.file, verdict.line) == (reason, "raw.jsonl", 7)
    assert detail in verdict.detail
    assert verdict.raw == line_of(row)


def test_boilerplate_in_a_question_is_not_minded() -> None:
    assert isinstance(judge(asked("Do you talk as an AI language model?")), Accepted)


def test_a_masked_row_is_accepted_with_the_kinds() -> None:
    row = said(("user", f"a.b@example.com, c@example.com, {SECRET}"), ("assistant", f"{REPLY} Ring +49 30 901820."))
    verdict = judge(row, personal_data="mask", secrets="mask")
    assert isinstance(verdict, Accepted)
    assert verdict.masked == ("EMAIL", "PHONE", "SECRET")
    assert [message["content"] for message in verdict.messages] == ["[EMAIL], [EMAIL], [SECRET]", f"{REPLY} Ring [PHONE]."]


CALL = {"type": "function", "function": {"name": "find_order", "arguments": {"id": "A1"}}}
CALLING: list[dict[str, Any]] = [
    {"role": "user", "content": "When?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "", "name": "find_order"},
    {"role": "tool", "content": '{"days": 5}'},
    {"role": "assistant", "content": REPLY},
]


def calling(*changes: tuple[int, dict[str, Any]], **more: Any) -> dict[str, Any]:
    """CALLING with changed messages."""
    row = {"id": "a", "topic": "refund-time", "messages": [dict(message) for message in CALLING], **more}
    for number, change in changes:
        row["messages"][number] |= change
    return row


OFFERED = {"type": "function", "function": {"name": "find_order", "description": f"Ask c@example.com, {SECRET}"}}


@pytest.mark.parametrize(
    ("row", "handling", "reason", "detail"),
    [
        (calling(tools=[OFFERED]), {"secrets": "allow"}, "personal_data", "tools: an e-mail address"),
        (calling(tools=[OFFERED]), {"personal_data": "allow"}, "secret", "tools: a key, token or password"),
        (asked("Hi") | {"id": "ann@example.com"}, {}, "personal_data", "id: an e-mail address"),
        (asked("Hi") | {"id": SECRET}, {}, "secret", "id: a key, token or password"),
    ],
)
def test_personal_data_and_secrets_are_found_beside_the_messages(
    row: dict[str, Any], handling: dict[str, str], reason: str, detail: str
) -> None:
    verdict = judge(row, **handling)
    assert isinstance(verdict, Quarantined)
    assert (verdict.reason, verdict.detail) == (reason, detail)


def test_a_mask_is_put_on_tools_and_the_id_too_and_a_number_is_no_phone_there() -> None:
    masks = {"personal_data": "mask", "secrets": "mask", "max_length": 99}
    verdict = judge(calling(tools=[OFFERED], id="ann@example.com"), **masks)
    assert isinstance(verdict, Accepted)
    assert verdict.tools[0]["function"]["description"] == "Ask [EMAIL], [SECRET]"
    assert (verdict.id, verdict.masked) == ("[EMAIL]", ("EMAIL", "SECRET"))
    numbered = judge(asked("Hi") | {"id": "+49 30 901820"})
    assert isinstance(numbered, Accepted)
    assert numbered.id == "+49 30 901820"


def test_a_mask_comes_before_the_rules_of_content() -> None:
    verdict = judge(replied("[refunds | low]\nWrite within 5 days@example.com."), personal_data="mask")
    assert isinstance(verdict, Quarantined)
    assert verdict.reason == "policy_contradiction"


@pytest.mark.parametrize("personal_data", ["mask", "allow"])
def test_a_secret_is_not_hidden_by_a_mask_of_personal_data(personal_data: str) -> None:
    verdict = judge(asked("see https://ann:hunter2@shop.example"), personal_data=personal_data)
    assert isinstance(verdict, Quarantined)
    assert verdict.reason == "secret"


def test_what_is_allowed_stays_as_it_is() -> None:
    text = f"a.b@example.com {SECRET}"
    verdict = judge(asked(text), personal_data="allow", secrets="allow")
    assert isinstance(verdict, Accepted)
    assert (verdict.messages[0]["content"], verdict.masked) == (text, ())


def test_a_country_that_is_not_known_is_refused_at_once() -> None:
    with pytest.raises(ParamsError, match="'UK'"):
        judge(asked("Hi"), phone_regions=("UK",))


def test_without_control_tokens_none_is_found() -> None:
    rules = replace(RULES, control_tokens=())
    assert isinstance(rules.judge(RawLine("a", 1, line_of(asked("<|im_end|>")))), Accepted)


def test_without_guidelines_any_topic_and_form_will_do() -> None:
    rules = replace(RULES, guidelines=None)
    row = said(("user", "When?"), ("assistant", "Any reply, of any form!"))
    del row["topic"]
    verdict = rules.judge(RawLine("a", 1, line_of(row)))
    assert isinstance(verdict, Accepted)
    assert (verdict.topic, verdict.category, verdict.priority, verdict.must_say) == ("", "", "", ())
    assert verdict.reply_words == 5
    broken = rules.judge(RawLine("a", 1, line_of(said(("user", "When?"), ("assistant", " ")))))
    assert isinstance(broken, Quarantined)
    assert broken.reason == "empty_turn"


def test_rows_below_the_replay_folder_need_no_guidelines_and_are_marked() -> None:
    free = {"id": "a", "messages": [{"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "Four!"}]}
    files = ("data/raw/replay/a.jsonl", "data/raw/replay.jsonl", "data/raw/replayed/a.jsonl", "data/raw/replay/b/a.csv")
    verdicts = list(judge_all([RawLine(file, 1, line_of(free)) for file in files], RULES, encode))
    assert [verdict.replay if isinstance(verdict, Accepted) else verdict.reason for verdict in verdicts] == [
        True,
        "missing_key",
        "missing_key",
        True,
    ]
    masked = RawLine(files[0], 1, line_of(free | {"messages": [*free["messages"], {"role": "user", "content": " "}]}))
    (broken,) = judge_all([masked], RULES, encode)
    assert isinstance(broken, Quarantined)


def test_calls_of_tools_and_their_results_are_accepted_and_carried_along() -> None:
    verdict = judge(calling(tools=[{"type": "function", "function": {"name": "find_order"}}]), max_length=99)
    assert isinstance(verdict, Accepted)
    assert verdict.messages == CALLING
    assert [tool["function"]["name"] for tool in verdict.tools] == ["find_order"]
    assert "find order" in verdict.identity.text.replace("_", " ")
    assert identify(verdict.messages).content_hash != identify(CALLING[:1] + CALLING[-1:]).content_hash  # type: ignore[arg-type]


def test_a_call_that_is_null_does_not_excuse_an_empty_message() -> None:
    verdict = judge(said(("user", "When?"), ("assistant", "")))
    empty = judge(calling((4, {"content": "", "tool_calls": None})))
    assert [found.reason for found in (verdict, empty) if isinstance(found, Quarantined)] == ["empty_turn"] * 2


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (calling((1, {"tool_calls": [CALL]})), "tool_call", "message 2: 2 tool results follow its 1 calls"),
        (calling((1, {"tool_calls": []})), "tool_call", "message 2: tool_calls is not a list of"),
        (calling((1, {"tool_calls": "find"})), "tool_call", "message 2: tool_calls is not a list of"),
        (calling((1, {"tool_calls": [{"function": {"name": "f", "arguments": "x"}}] * 2})), "tool_call", "message 2: tool_calls"),
        (calling((0, {"tool_calls": [CALL]})), "tool_call", "message 1 (user): has tool_calls"),
        (calling(tools=[{"name": "other"}]), "tool_call", "message 2: calls 'find_order', which is not among"),
        (calling(tools="find_order"), "tool_call", "tools is not a list of"),
        (calling((1, {"tool_calls": None, "content": "Wait."})), "wrong_role_order", "message 3 is of tool, wanted user"),
        (
            calling((2, {"role": "user", "content": "Well?"}), (3, {"role": "assistant", "content": REPLY})),
            "tool_call",
            "message 2: 0 tool results",
        ),
        (calling((4, {"tool_calls": [CALL], "content": ""})), "format", "the last message only calls tools"),
        (calling((3, {"content": SECRET})), "secret", "message 4 (tool)"),
        (calling((1, {"tool_calls": [{"function": {"name": "f", "arguments": {"a": SECRET}}}] * 2})), "secret", "message 2"),
        (
            calling((1, {"tool_calls": [{"function": {"name": "f", "arguments": {"a": "<|im_end|>"}}}] * 2})),
            "control_token",
            "message 2",
        ),
        (calling((2, {"name": "<|im_start|>"})), "control_token", "message 3: contains the tokenizer's <|im_start|>"),
        (
            calling(tools=[{"type": "function", "function": {"name": "find_order", "description": "x<|im_end|>"}}]),
            "control_token",
            "tools: contains the tokenizer's <|im_end|>",
        ),
    ],
)
def test_what_is_wrong_with_calls_is_said(row: Any, reason: str, detail: str) -> None:
    verdict = judge(row)
    assert isinstance(verdict, Quarantined)
    assert verdict.reason == reason
    assert detail in verdict.detail


def test_masks_reach_into_the_calls() -> None:
    secret = {"function": {"name": "f", "arguments": {"keys": [SECRET, 7], "of": "me"}}}
    verdict = judge(calling((1, {"tool_calls": [secret, CALL]})), secrets="mask", max_length=99)
    assert isinstance(verdict, Accepted)
    assert verdict.masked == ("SECRET",)
    assert verdict.messages[1]["tool_calls"][0]["function"]["arguments"] == {"keys": ["[SECRET]", 7], "of": "me"}
    assert verdict.messages[1]["tool_calls"][1] == CALL


def test_a_template_that_hides_tools_keeps_their_rows_out() -> None:
    (verdict,) = judge_all([RawLine("a", 1, line_of(calling()))], replace(RULES, shows_tools=False), encode)
    assert isinstance(verdict, Quarantined)
    assert verdict.reason == "tool_call"
    assert "chat template" in verdict.detail
    (plain,) = judge_all([RawLine("a", 1, line_of(asked("Hi") | {"tools": []}))], replace(RULES, shows_tools=False), encode)
    assert isinstance(plain, Accepted)


def test_a_group_is_carried_along_as_a_hash() -> None:
    """It may be a person's address, and the splits may be published."""
    rules = replace(RULES, section=SECTION.model_copy(update={"columns": {"group": "thread"}}))
    verdict = rules.judge(RawLine("a", 1, line_of(said(*[(m["role"], m["content"]) for m in TURNS], thread=12))))
    assert isinstance(verdict, Accepted)
    assert verdict.group == hashlib.sha256(b"group:12").hexdigest()


@pytest.mark.parametrize("text", ["{{order_id}}", "{customer_name}", "${NAME}", "<PRODUCT>", "[INSERT DATE]", "[YOUR NAME]"])
def test_a_placeholder_is_found(text: str) -> None:
    assert text_faults.unfilled_template(f"Dear {text}, hello") == f"contains {text!r}"


@pytest.mark.parametrize("text", ["[orders | low]", "a < B > c", "{}", "I <3 it", "[sic]", "<b>", "[ORDERS | low]", "{1, 2}"])
def test_no_placeholder(text: str) -> None:
    assert text_faults.unfilled_template(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("As an AI language model, I cannot know.", True),
        ("Well, as  an\nai LANGUAGE model …", True),
        ("It has an AI language model.", False),
        ("I’m sorry, but I cannot do that.", True),
        ("I'm sorry, but I can do that.", False),
        ("저는 AI 언어모델이라서 알 수 없어요.", True),
        ("안녕하세요.저는AI 언어 모델입니다.", True),
        ("저는 언어를 배우는 학생입니다.", False),
    ],
)
def test_a_phrase_is_found_whatever_its_blanks_case_and_apostrophes(text: str, found: bool) -> None:
    phrases = ("As an AI language model", "I'm sorry, but I cannot", "저는 AI 언어 모델")
    assert bool(text_faults.phrase(text, phrases)) is found


@pytest.mark.parametrize("text", ["GewÃ¼rzmÃ¼hle", "cafÃ©", "Ã–l", "â‚¬ 5", "ðŸ™‚", "ÐŸÑ€Ð¸", "5Â°"])
def test_text_in_a_wrong_encoding_is_found(text: str) -> None:
    assert text_faults.encoding(text) is not None


@pytest.mark.parametrize(
    "text", ["café", "MAÇÃ – NÃO", "«CAFÉ»", "naïve coöperation", "Привет", "🙂 5 €", "a\tb\r\nc", "’tis “good”", "日本"]
)
def test_text_in_other_scripts_is_not(text: str) -> None:
    assert text_faults.encoding(text) is None


WORDS = st.text(max_size=6)  # drawing text and nested values is what takes the time here, so both are kept small
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=3,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "x"]), "content": st.sampled_from(["Hi", REPLY]) | JSON}
    ),
    max_size=3,
)
ROWS = st.one_of(
    st.binary(min_size=1, max_size=20).filter(lambda data: bool(data.strip()) and b"\n" not in data and not data.endswith(b"\r")),
    JSON.map(line_of),
    st.fixed_dictionaries({"id": WORDS, "topic": st.sampled_from(["refund-time", "x"]), "messages": MESSAGES}).map(line_of),
    st.just(line_of(asked("Hi"))),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(ROWS, max_size=5))
def test_every_row_gets_one_verdict_in_order(rows: list[bytes]) -> None:
    lines = [RawLine("raw.jsonl", number, row) for number, row in enumerate(rows, start=1)]
    verdicts = list(judge_all(lines, RULES, encode))
    places = [v.source if isinstance(v, Accepted) else f"{v.file}:{v.line}" for v in verdicts]
    assert places == [f"{line.file}:{line.line}" for line in lines]
    for verdict in verdicts:
        if isinstance(verdict, Quarantined):
            json.dumps(verdict.detail, ensure_ascii=False).encode()
            assert verdict.raw == rows[verdict.line - 1]


def test_a_row_that_the_chat_template_refuses_is_one_of_the_quarantine() -> None:
    def refuse(conversations: Sequence[Messages], tools: Sequence[Tools]) -> list[Any]:
        if any(messages[0]["content"] == "no" for messages in conversations):
            raise ChatTemplateError("chat template: it refuses")
        return encode(conversations, tools)

    lines = [RawLine("a", n, line_of(asked("no" if n % 3 else "Hi"))) for n in range(300)]
    verdicts = list(judge_all(lines, RULES, refuse))
    assert [isinstance(verdict, Accepted) for verdict in verdicts] == [n % 3 == 0 for n in range(300)]
    assert verdicts[1] == Quarantined("a", 1, "chat_template", "chat template: it refuses", lines[1].data)


def test_tokens_are_counted_in_batches_of_good_rows_only() -> None:
    sizes: list[int] = []

    def count(conversations: Sequence[Messages], tools: Sequence[Tools]) -> list[Tokens]:
        sizes.append(len(conversations))
        return encode(conversations, tools)

    rows = [asked("Hi"), [1]] * 300 + [[1]] * 300
    verdicts = list(judge_all([RawLine("a", n, line_of(row)) for n, row in enumerate(rows)], RULES, count))
    assert sum(sizes) == 300 == sum(isinstance(verdict, Accepted) for verdict in verdicts)
    assert max(sizes) <= 256
