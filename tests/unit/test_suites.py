"""What a reply scores: each metric for itself, and what the target suite hands to lm-eval."""

from typing import Any

import pytest

from tasks.guidelines import Rulebook
from tasks.sections import Guidelines
from tasks.suites import CUT, TARGET, TARGET_LOSS, score_reply, target_docs, target_tasks
from tests.unit.fake_tokenizer import EOS, FakeTokenizer

BOOK = Rulebook(
    Guidelines(
        policy="policy.yaml",
        reply_pattern=r"\[(?P<category>[a-z]+) \| (?P<priority>low|normal|urgent)\]\n(?P<body>[^\n]+)",
        max_words=12,
        forbidden=("!",),
    )
)
REPLY = "[refunds | low]\nWithin 5 days, to the card you paid with."
DOC = {"reply": REPLY, "must_say": ["5 days", "card"], "reply_tokens": len(REPLY)}
ALL_RIGHT = dict.fromkeys(("guideline_score", "structure", "category", "priority", "policy_facts", "stops", "nonempty"), 1.0)


def faults(answer: str, **doc: Any) -> dict[str, float]:
    """The metrics that are not 1, without the mean; checks the mean."""
    scores = score_reply(answer, DOC | doc, BOOK)
    assert list(scores) == list(ALL_RIGHT)
    parts = [scores[name] for name in ("structure", "category", "priority", "policy_facts")]
    assert scores.pop("guideline_score") == pytest.approx(sum(parts) / 4)
    return {name: value for name, value in scores.items() if value != 1}


def test_the_reference_reply_scores_full_marks() -> None:
    assert score_reply(REPLY, DOC, BOOK) == ALL_RIGHT


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("[refunds | low]\nYour card gets it within 5 days", {}),
        (f"\n{REPLY}\n", {}),
        ("[orders | low]\n5 days, by card.", {"category": 0}),
        ("[refunds | urgent]\n5 days, by card.", {"priority": 0}),
        ("[refunds | low]\n5 days, by card!", {"structure": 0}),
        ("[refunds | low]\n5 days, by card" + " or so" * 6, {"structure": 0}),
        ("[refunds | low]\nBy card.", {"policy_facts": 0.5}),
        ("[refunds | low]\n15 days, by card.", {"policy_facts": 0.5}),
        ("[refunds | low]\n5  DAYS to your Card.", {}),
        ("[refunds | low]\n5 days, by postcard.", {"policy_facts": 0.5}),
        ("[refunds | low]\nSoon.", {"policy_facts": 0}),
        ("Within 5 days, to the card.", {"structure": 0, "category": 0, "priority": 0}),
        ("[refunds | low]\n5 days\nby card", {"structure": 0, "category": 0, "priority": 0}),
        ("", {"structure": 0, "category": 0, "priority": 0, "policy_facts": 0, "nonempty": 0}),
        (" \n", {"structure": 0, "category": 0, "priority": 0, "policy_facts": 0, "nonempty": 0}),
    ],
)
def test_a_fault_costs_its_metric_and_no_other(answer: str, wanted: dict[str, float]) -> None:
    assert faults(answer) == wanted


def test_a_reply_that_was_cut_off_loses_stops_and_nothing_else() -> None:
    assert faults(REPLY + CUT) == {"stops": 0}
    assert faults(CUT) == faults("") | {"stops": 0}


def test_only_a_mark_at_the_end_says_that_a_reply_was_cut_off() -> None:
    assert "stops" not in faults(f"{CUT}{REPLY}")


def test_a_reference_without_structure_gives_no_category_away() -> None:
    assert faults("no structure", reply="none here either", must_say=["no"]) == {"structure": 0, "category": 0, "priority": 0}


ROW = {
    "id": "a-1",
    "cluster": "c" * 64,
    "topic": "refund-time",
    "must_say": ("5 days", "card"),
    "tools": "",
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": REPLY},
    ],
}


def test_a_doc_asks_for_the_last_reply() -> None:
    (doc,) = target_docs([ROW], FakeTokenizer())
    assert doc == {
        "id": "a-1",
        "cluster": "c" * 64,
        "topic": "refund-time",
        "prompt": f"<user>\nHi{EOS}\n<assistant>\nHello.{EOS}\n<user>\nWhen?{EOS}\n<assistant>\n",
        "reply": REPLY,
        "reply_tokens": len(REPLY),
        "must_say": ["5 days", "card"],
    }


def test_both_halves_of_the_suite_score_what_they_promise() -> None:
    docs = target_docs([ROW], FakeTokenizer())
    generation, loss = target_tasks(docs, BOOK, max_new_tokens=80)
    assert [half["task"] for half in (generation, loss)] == [TARGET, TARGET_LOSS]
    results = {"task": generation["process_results"](docs[0], [REPLY]), "loss": loss["process_results"](docs[0], [(-6.0, True)])}
    assert results == {"task": ALL_RIGHT, "loss": {"reply_loss": 6 / len(REPLY)}}
    for half, scores in ((generation, results["task"]), (loss, results["loss"])):
        assert {metric["metric"] for metric in half["metric_list"]} == set(scores)
    assert all(metric["higher_is_better"] for metric in generation["metric_list"])
    assert not any(metric["higher_is_better"] for metric in loss["metric_list"])
    options = generation["generation_kwargs"]
    assert (options["max_gen_toks"], options["do_sample"], options["until"]) == (80, False, [])
