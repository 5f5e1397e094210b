"""The written guidelines as code: taking a reply apart, judging its form, finding the policy's words."""

from pathlib import Path

import pytest

from tasks.errors import DataError
from tasks.guidelines import Reply, Rulebook, load_policy, missing_facts
from tasks.params import load_params
from tasks.sections import Guidelines
from tasks.text_faults import count_words

ROOT = Path(__file__).parents[2]
BOOK = Rulebook(
    Guidelines(
        policy="policy.yaml",
        reply_pattern=r"\[(?P<category>[a-z]+) \| (?P<priority>low|normal|urgent)\]\n(?P<body>[^\n]+)",
        max_words=5,
        forbidden=("!", "—"),
    )
)


def test_parse_takes_a_reply_apart() -> None:
    assert BOOK.parse("[orders | low]\nYes, we do.") == Reply("orders", "low", "Yes, we do.")


def test_parse_allows_blanks_around_the_whole_reply() -> None:
    assert BOOK.parse("\n [orders | low]\nYes. \n") == Reply("orders", "low", "Yes.")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Yes.",
        "[orders | low]",
        "[orders | low]\n",
        "[orders | low] Yes.",
        "[Orders | low]\nYes.",
        "[orders | high]\nYes.",
        "[orders|low]\nYes.",
        "[orders | low]\nYes.\nNo.",
        "Sure. [orders | low]\nYes.",
    ],
)
def test_another_structure_is_a_fault(reply: str) -> None:
    assert BOOK.parse(reply) is None
    assert BOOK.structure_fault(reply) == "the reply does not match guidelines.reply_pattern"


def test_the_longest_allowed_body_has_no_fault() -> None:
    assert BOOK.structure_fault("[orders | low]\none two three four five") is None


def test_one_word_more_is_a_fault_with_both_numbers() -> None:
    assert BOOK.structure_fault("[orders | low]\none two three four five six") == "6 words, wanted at most 5"


@pytest.mark.parametrize("text", ["!", "—"])
def test_a_forbidden_string_is_named(text: str) -> None:
    assert BOOK.structure_fault(f"[orders | low]\nYes{text}") == f"contains {text!r}"


@pytest.mark.parametrize(
    ("reply", "fact", "said"),
    [
        ("It takes 5 days.", "5 days", True),
        ("It takes 5\n days.", "5 days", True),
        ("IT TAKES 5 DAYS.", "5 days", True),
        ("It takes 15 days.", "5 days", False),
        ("It takes 1.5 days.", "5 days", False),
        ("It takes 5 dayslong.", "5 days", False),
        ("It costs 4.90 euros.", "4.90 euros", True),
        ("It costs 4990 euros.", "4.90 euros", False),
        ("It costs 14.90 euros.", "4.90 euros", False),
    ],
)
def test_a_fact_is_said_only_if_it_stands_alone(reply: str, fact: str, said: bool) -> None:
    assert missing_facts(reply, (fact,)) == ([] if said else [fact])


def test_a_fact_may_touch_the_words_of_a_script_without_blanks_between_them() -> None:
    assert missing_facts("배송은 5일이 걸립니다", ("5일",)) == []
    assert missing_facts("배송은 15일이 걸립니다", ("5일",)) == ["5일"]
    assert missing_facts("配送需要5天。", ("5天",)) == []


@pytest.mark.parametrize(("body", "words"), [("one two-three four", 3), ("배송은 5일이 걸립니다", 3), ("配送需要五天", 6)])
def test_what_counts_as_a_word(body: str, words: int) -> None:
    assert count_words(body) == words


def test_only_the_missing_facts_are_named_in_order() -> None:
    assert missing_facts("b", ["a", "b", "c"]) == ["a", "c"]


def test_the_default_policy_and_parameters_agree() -> None:
    policy = load_policy(ROOT / "data/raw/policy.yaml")
    section = load_params(ROOT / "params.yaml").guidelines
    assert section is not None
    book = Rulebook(section)
    assert len(policy.topics) == 54
    for topic in policy.topics.values():
        reply = f"[{topic.category} | normal]\n{', '.join(topic.must_say)}"
        assert book.structure_fault(reply) is None
        assert missing_facts(reply, topic.must_say) == []


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "no such file"),
        ("topics: [", "not YAML"),
        ("topics: {a: {category: b, policy: c}}", "topics.a.must_say: Field required"),
        ("topics: {a: {category: b, policy: c, must_say: []}}", "topics.a.must_say"),
        ("topics: {}\nextra: 1", "extra"),
        ("just text", "wanted topics of"),
    ],
)
def test_a_faulty_policy_is_one_data_error(tmp_path: Path, content: str | None, part: str) -> None:
    path = tmp_path / "policy.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"policy\.yaml") as caught:
        load_policy(path)
    assert part in str(caught.value)


def test_a_policy_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_bytes("topics: {größe: 1}".encode("latin-1"))
    with pytest.raises(DataError, match=r"policy\.yaml: not YAML: 'utf-8' codec can't decode byte"):
        load_policy(tmp_path / "policy.yaml")
