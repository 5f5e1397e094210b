"""Rows in the shapes that people have become `messages`; what is not recognised stays as it was."""

from typing import Any

import pytest

from tasks.formats import as_conversation, split_instances

ASKED = {"role": "user", "content": "When?"}
REPLIED = {"role": "assistant", "content": "Now."}
TOLD = {"role": "system", "content": "Be kind."}
ASK = {"instruction": "When?"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, REPLIED]},
        [ASKED, REPLIED],
        {"messages": '[{"role": "user", "content": "When?"}, {"role": "assistant", "content": "Now."}]'},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "en?"}]}, REPLIED]},
        {"conversations": [{"from": "human", "value": "When?"}, {"from": "gpt", "value": "Now."}]},
        {"conversation": [{"from": "user", "value": "When?"}, {"from": "ChatGPT", "value": "Now."}]},
        {"conversations": [{"from": "human", "value": "When?"}, {"from": "bing", "value": "Now."}]},
        {"instruction": "When?", "input": "", "output": "Now."},
        {"instruction": "When?", "context": None, "response": "Now.", "category": "open_qa"},
        {"instruction": "When?", "output": "Now."},
        {"prompt": "When?", "completion": "Now."},
        {"prompt": [ASKED], "completion": [REPLIED]},
        {"question": "When?", "answer": "Now."},
        {"query": "When?", "response": "Now."},
        {"input": "When?", "output": "Now."},
        {"Q": "When?", "A": "Now.", "label": "0"},
    ],
)
def test_known_shapes_become_messages(row: Any) -> None:
    assert as_conversation(row, {})["messages"] == [ASKED, REPLIED]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [TOLD, ASKED, REPLIED], "system": "another"},
        {"conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "When?"}, REPLIED]},
        {"conversations": [{"from": "human", "value": "When?"}, {"from": "gpt", "value": "Now."}], "system": "Be kind."},
        {"system_prompt": "Be kind.", "question": "When?", "answer": "Now."},
    ],
)
def test_the_system_prompt_comes_first_and_once(row: Any) -> None:
    assert as_conversation(row, {})["messages"] == [TOLD, ASKED, REPLIED]


@pytest.mark.parametrize("further", ["input", "context"])
@pytest.mark.parametrize("reply", ["output", "response", "answer"])
def test_no_part_of_an_instruction_is_lost(further: str, reply: str) -> None:
    row = {"instruction": "Translate.", further: "Wann?", reply: "When?"}
    assert as_conversation(row, {})["messages"][0]["content"] == "Translate.\n\nWann?"


@pytest.mark.parametrize(("given", "wanted"), [({"id": 7}, "7"), ({"id": "x"}, "x"), ({"id": True}, True)])
def test_a_number_is_an_id_too(given: dict[str, Any], wanted: Any) -> None:
    assert as_conversation({"messages": [ASKED, REPLIED], **given}, {})["id"] == wanted


def test_an_id_of_null_is_none() -> None:
    row = {"messages": [ASKED, REPLIED]}
    assert as_conversation({**row, "id": None}, {})["id"] == as_conversation(row, {})["id"] != ""


CALL = {"type": "function", "function": {"name": "find", "arguments": {"id": 1}}}


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [
                ASKED,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "5"},
                REPLIED,
            ]
        },
        {
            "messages": [
                ASKED,
                {"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": '{"id": 1}'}}]},
                {"role": "tool", "content": [{"type": "text", "text": "5"}]},
                REPLIED | {"tool_calls": None},
            ]
        },
        {
            "conversations": [
                {"from": "human", "value": "When?"},
                {"from": "function_call", "value": '{"name": "find", "arguments": {"id": 1}}'},
                {"from": "observation", "value": "5"},
                {"from": "gpt", "value": "Now."},
            ]
        },
    ],
)
def test_calls_of_tools_take_one_form(row: Any) -> None:
    user, call, result, reply = as_conversation(row, {})["messages"]
    assert (user, result, {key: reply[key] for key in REPLIED}) == (ASKED, {"role": "tool", "content": "5"}, REPLIED)
    assert call == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    "tools", [[{"name": "find"}], '[{"name": "find"}]', [{"type": "function", "function": {"name": "find"}}]]
)
def test_tools_take_one_form(tools: Any) -> None:
    found = as_conversation({"messages": [ASKED, REPLIED], "tools": tools}, {})
    assert found["tools"] == [{"type": "function", "function": {"name": "find"}}]


@pytest.mark.parametrize("broken", ["{", 7, [], [7], [{"function": 7}], {"name": "x"}])
def test_broken_calls_stay_for_the_row_rules(broken: Any) -> None:
    row = as_conversation({"messages": [ASKED, {"role": "assistant", "tool_calls": broken}], "tools": broken}, {})
    assert row["messages"][1]["content"] == ""
    as_conversation({"conversations": [{"from": "function_call", "value": broken}]}, {})


def test_further_input_follows_the_instruction() -> None:
    row = as_conversation({"instruction": "Sum up.", "input": "A long text.", "output": "Short."}, {})
    assert row["messages"][0]["content"] == "Sum up.\n\nA long text."


def test_columns_of_any_name_can_be_given_and_win() -> None:
    row = {"text": "When?", "label": "Now.", "question": "other", "answer": "other", "nr": "7"}
    found = as_conversation(row, {"prompt": "text", "completion": "label", "id": "nr", "topic": "absent"})
    assert found["messages"] == [ASKED, REPLIED]
    assert found["id"] == "7"
    assert "topic" not in found


def test_a_row_without_an_id_gets_the_hash_of_its_messages() -> None:
    first, again, other = (as_conversation({"question": q, "answer": "b"}, {})["id"] for q in ("a", "a", "c"))
    assert first == again != other
    assert as_conversation({"id": "", "question": "a", "answer": "b"}, {})["id"] == ""


@pytest.mark.parametrize(
    "row",
    [
        None,
        7,
        "When?",
        [],
        ["When?", "Now."],
        {},
        {"text": "When? Now."},
        {"message": [ASKED, REPLIED]},
        {"messages": [ASKED, {"role": "bot", "content": "Now."}], "id": "a"},
        {"messages": "When?", "id": "a"},
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}], "id": "a"},
        {"messages": ["When?", 7, None], "id": "a"},
        {"messages": [{"from": "human"}], "id": "a"},
    ],
)
def test_anything_else_stays_for_the_row_rules(row: Any) -> None:
    assert as_conversation(row, {}) == row


def test_a_speaker_that_is_no_text_stays() -> None:
    row = as_conversation({"conversations": [{"from": ["human"], "value": None}]}, {})
    assert row["messages"] == [{"role": ["human"], "content": None}]


@pytest.mark.parametrize(
    ("row", "rows"),
    [
        (
            {"id": "seed", "instruction": "When?", "instances": [{"input": "a", "output": "x"}, {"input": "b", "output": "y"}]},
            [
                {"id": "seed-1", "instruction": "When?", "input": "a", "output": "x"},
                {"id": "seed-2", "instruction": "When?", "input": "b", "output": "y"},
            ],
        ),
        ({"id": 7, **ASK, "instances": [{"output": "x"}]}, [{"id": 7, **ASK, "output": "x"}]),
        ({**ASK, "instances": [{"output": "x"}, {"output": "y"}]}, [{**ASK, "output": "x"}, {**ASK, "output": "y"}]),
        *((row, [row]) for row in ({**ASK, "instances": []}, {**ASK, "instances": ["x"]}, {**ASK, "instances": 3})),
        *((row, [row]) for row in ({"messages": [], "instances": [{"output": "x"}]}, ["instances"], "instances", None)),
    ],
)
def test_each_instance_of_an_instruction_is_a_row(row: Any, rows: list[Any]) -> None:
    assert split_instances(row) == rows
