"""What the target suite hands to lm-eval."""

from typing import Any

from tasks.item_scores import TARGET, TARGET_LOSS
from tasks.scorers import CUT
from tasks.target_suite import target_docs, target_tasks
from tests.unit.fake_tokenizer import EOS, FakeTokenizer

REPLY = "[refunds | low]\nWithin 5 days, to the card you paid with."


def row(name: str, *before: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate((*before, REPLY))]
    facts = {"id": name, "cluster": "c" * 64, "topic": "refund-time", "must_say": ("5 days", "card"), "tools": ""}
    return facts | {"messages": messages}


def test_a_doc_asks_for_the_last_reply() -> None:
    (doc,) = target_docs([row("a-1", "Hi", "Hello.", "When?")], FakeTokenizer())
    assert doc == {
        "id": "a-1",
        "cluster": "c" * 64,
        "topic": "refund-time",
        "length": "long",
        "messages": row("", "Hi", "Hello.", "When?")["messages"][:-1],
        "prompt": f"<user>\nHi{EOS}\n<assistant>\nHello.{EOS}\n<user>\nWhen?{EOS}\n<assistant>\n",
        "reply": REPLY,
        "reply_tokens": len(REPLY),
        "must_say": ["5 days", "card"],
    }


def test_rows_with_one_id_are_items_of_their_own() -> None:
    """As of two files that both number their rows from 1."""
    rows = [row("1", "a") | {"source": "a.csv:2"}, row("2", "b") | {"source": "a.csv:3"}, row("1", "c") | {"source": "b.csv:2"}]
    assert [doc["id"] for doc in target_docs(rows, FakeTokenizer())] == ["1 (a.csv:2)", "2", "1 (b.csv:2)"]


def test_lengths_are_thirds_of_the_split_whatever_the_order() -> None:
    rows = [row(f"{size}", "x" * size) for size in (40, 10, 60, 30, 20, 50)]
    lengths = {doc["id"]: doc["length"] for doc in target_docs(rows, FakeTokenizer())}
    assert lengths == {"10": "short", "20": "short", "30": "medium", "40": "medium", "50": "long", "60": "long"}
    assert {doc["length"] for doc in target_docs([row("a", "x"), row("b", "x")], FakeTokenizer())} == {"long"}


def test_both_halves_of_the_suite_score_what_they_promise() -> None:
    docs = target_docs([row("a-1", "When?")], FakeTokenizer())
    generation, loss = target_tasks(docs, max_new_tokens=80)
    assert [half["task"] for half in (generation, loss)] == [TARGET, TARGET_LOSS]
    assert generation["process_results"](docs[0], [REPLY]) == {"stops": 1.0}
    assert generation["process_results"](docs[0], [REPLY + CUT]) == {"stops": 0.0}
    assert loss["process_results"](docs[0], [(-6.0, True)]) == {"reply_loss": 6 / len(REPLY)}
    directions = [metric["higher_is_better"] for half in (generation, loss) for metric in half["metric_list"]]
    assert directions == [True, False]
    options = generation["generation_kwargs"]
    assert (options["max_gen_toks"], options["do_sample"], options["until"]) == (80, False, [])
