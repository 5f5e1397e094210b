"""Accepted rows -> splits: who is in which split, and that every row is accounted for."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tasks import chat
from tasks.accepted import to_table
from tasks.chat import Encoder, Message
from tasks.conversations import Accepted
from tasks.errors import DataError, StageInputError
from tasks.normalisation import identify
from tasks.prepare import SPLITS, cluster_of, prepare, split_of
from tasks.records import PreparedDataset
from tasks.sections import Prepare
from tests.unit.fake_tokenizer import EOS, FakeTokenizer, decode

SECTION = Prepare(
    split_salt="salt",
    eval_fraction=0.1,
    test_fraction=0.2,
    near_duplicate_threshold=0.9,
    contamination_threshold=0.8,
    replay_share=0.0,
)


def conversation(prompt: str, reply: str = "Yes.") -> list[Message]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]


def clusters(n: int) -> list[str]:
    return [identify(conversation(f"question {number}")).prompt_hash for number in range(n)]


def test_a_group_decides_where_there_is_one() -> None:
    assert cluster_of("", "hash") == "hash"
    assert cluster_of("12", "hash") == cluster_of("12", "other") != cluster_of("13", "hash")


def test_fractions_are_met_and_the_salt_decides_who_is_where() -> None:
    places = [split_of(cluster, SECTION) for cluster in clusters(4000)]
    assert {name: round(places.count(name) / 4000, 1) for name in SPLITS} == {"train": 0.7, "eval": 0.1, "test": 0.2}
    assert abs(places.count("test") - 800) < 4 * 25.3  # four standard deviations
    salted = [split_of(cluster, SECTION.model_copy(update={"split_salt": "pepper"})) for cluster in clusters(4000)]
    kept = sum(a == b == "test" for a, b in zip(places, salted, strict=True))
    assert abs(kept - 160) < 4 * 12.4  # of 800 in test by chance a fifth again


KNOWN = [
    "train",
    "train",
    "eval",
    "train",
    "train",
    "train",
    "train",
    "train",
    "test",
    "train",
    "test",
    "eval",
    "train",
    "train",
    "train",
    "train",
]


def test_a_known_cluster_stays_where_it_was_in_all_versions() -> None:
    """If this fails, every published model was scored on rows that the next one trains on."""
    assert [split_of(letter * 64, SECTION) for letter in "0123456789abcdef"] == KNOWN


def test_a_larger_eval_split_takes_from_train_only() -> None:
    larger = SECTION.model_copy(update={"eval_fraction": 0.3})
    moves = {(split_of(cluster, SECTION), split_of(cluster, larger)) for cluster in clusters(1000)}
    assert moves == {("train", "train"), ("train", "eval"), ("eval", "eval"), ("test", "test")}


@pytest.mark.parametrize(("section", "name"), [({"test_fraction": 0.0}, "test"), ({"eval_fraction": 0.0}, "eval")])
def test_a_fraction_of_zero_is_an_empty_split(section: dict[str, float], name: str) -> None:
    assert name not in {split_of(cluster, SECTION.model_copy(update=section)) for cluster in clusters(500)}


class Place:
    """Paths of one run of the stage, and what it left."""

    def __init__(self, root: Path) -> None:
        self.root, self.accepted = root, root / "accepted.parquet"
        self.target, self.record = root / "prepared", root / "prepare.json"
        root.mkdir(exist_ok=True)

    def run(self, rows: list[Accepted], section: Prepare = SECTION) -> PreparedDataset:
        pq.write_table(to_table(rows), self.accepted)
        return prepare(section, self.accepted, self.target, self.record)

    def split(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(self.target / f"{name}.parquet").to_pylist()
        return rows

    def split_by_id(self) -> dict[str, str]:
        return {row["id"]: name for name in SPLITS for row in self.split(name)}

    def dropped(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.target / "dropped.jsonl").read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def row(number: int, prompt: str = "", reply: str = "Yes.", group: str = "", replay: bool = False) -> Accepted:
    messages = conversation(prompt or f"question {number}", reply)
    (tokens,) = Encoder(FakeTokenizer())([messages])
    return Accepted(
        id=f"r{number}",
        source=f"a.jsonl:{number}",
        group=group,
        replay=replay,
        topic="t",
        category="c",
        priority="low",
        must_say=(),
        messages=messages,
        tools=(),
        reply_words=1,
        identity=identify(messages),
        **tokens,
    )


ROWS = [row(number) for number in range(60)]


def test_growth_moves_no_row(place: Place) -> None:
    place.run(ROWS[:40])
    before = place.split_by_id()
    place.run(ROWS[:39:-1] + ROWS[39::-1])
    after = place.split_by_id()
    assert set(before) == {f"r{number}" for number in range(40)}
    assert len(after) == 60
    assert before.items() <= after.items()


@pytest.mark.parametrize("seed", range(4))
def test_growth_by_near_duplicates_moves_no_row_and_drops_only_what_would_leak(place: Place, seed: int) -> None:
    """One row in a hundred is new, and all but says what another one says."""
    draw = random.Random(seed)
    words = [f"w{number}" for number in range(300)]
    earlier = [row(number, " ".join(draw.sample(words, 30))) for number in range(200)]
    repeated = [draw.choice(earlier).messages[0]["content"] for _ in range(20)]
    place.run(earlier)
    before = place.split_by_id()
    place.run([*earlier, *(row(1000 + number, f"{text} {number}") for number, text in enumerate(repeated))])
    after, dropped = place.split_by_id(), {drop["id"]: drop for drop in place.dropped()}
    assert all(after.get(name, split) == split for name, split in before.items())
    assert {name for name, split in before.items() if split == "test"} <= set(after)
    lost = set(before) - set(after)
    assert all(int(dropped[name]["of"].rpartition(":")[2]) >= 1000 for name in lost), "for a new row of a split that counts more"
    assert len(dropped) >= 20


def test_every_accepted_row_is_in_one_split_or_dropped(place: Place) -> None:
    rows = [*ROWS, row(60, "question 1"), row(61, "Question 2!"), row(62, "question 2", "YES"), row(63, "question 3", "No.")]
    record = place.run(rows)
    assert record == PreparedDataset.read(place.record)
    assert (record.n_accepted, record.dropped) == (
        64,
        {"duplicate": 3, "near_duplicate": 0, "contaminated": 0, "replay_surplus": 0},
    )
    assert record.n_accepted == sum(split.rows for split in record.splits.values()) + sum(record.dropped.values())
    named = [*place.split_by_id(), *(dropped["id"] for dropped in place.dropped())]
    assert sorted(named) == sorted(given.id for given in rows)


def test_of_equal_rows_the_first_stays_and_the_others_name_it(place: Place) -> None:
    place.run([*ROWS, row(60, "question 1"), row(61, "Question 1!"), row(62, "question  1", "yes")])
    assert place.dropped() == [
        {"id": f"r{number}", "source": f"a.jsonl:{number}", "reason": "duplicate", "of": "a.jsonl:1", "similarity": 1.0}
        for number in (60, 61, 62)
    ]
    assert "r1" in place.split_by_id()


def test_one_prompt_with_two_replies_is_no_duplicate_but_stays_in_one_split(place: Place) -> None:
    again = [row(100 + number, f"QUESTION {number}?", "No.") for number in range(60)]
    record = place.run([*ROWS, *again])
    assert sum(record.dropped.values()) == 0
    assert place.dropped() == []
    assert record.n_conflicts == 60
    named = [json.loads(line) for line in (place.target / "conflicts.jsonl").read_text().splitlines()]
    assert named[1] == [{"id": "r1", "source": "a.jsonl:1"}, {"id": "r101", "source": "a.jsonl:101"}]
    where = place.split_by_id()
    assert [where[f"r{number}"] for number in range(60)] == [where[f"r{100 + number}"] for number in range(60)]
    assert set(where.values()) == set(SPLITS)


def test_splits_hold_the_row_and_its_tokens_and_the_record_counts_them(place: Place) -> None:
    record = place.run(ROWS)
    for name in SPLITS:
        rows, counted = place.split(name), record.splits[name]
        for found in rows:
            given = ROWS[int(found["id"][1:])]
            assert (found["source"], found["topic"], chat.conversation(found)[0]) == (given.source, given.topic, given.messages)
            assert found["cluster"] == given.identity.prompt_hash
            assert decode(found["labels"]) == f"Yes.{EOS}"
            assert decode(found["input_ids"]).startswith(f"<user>\n{given.messages[0]['content']}{EOS}")
        assert counted.rows == len(rows)
        assert counted.messages == 2 * len(rows)
        assert counted.tokens == sum(len(found["input_ids"]) for found in rows)
        assert counted.max_tokens == max(len(found["input_ids"]) for found in rows)
        assert counted.supervised_tokens == 5 * len(rows)
        schema = pq.read_schema(place.target / f"{name}.parquet")
        assert [str(schema.field(column).type.value_type) for column in ("input_ids", "labels")] == ["int32", "int32"]


def test_the_same_rows_give_the_same_bytes(place: Place, tmp_path: Path) -> None:
    first, second = place.run(ROWS), Place(tmp_path / "second").run(ROWS)
    assert first.files == second.files
    assert set(first.files) == {"train.parquet", "eval.parquet", "test.parquet", "dropped.jsonl", "conflicts.jsonl", "README.md"}


def test_rows_of_a_group_share_a_split(place: Place) -> None:
    place.run([row(number, group=f"g{number % 6}") for number in range(120)], SECTION.model_copy(update={"test_fraction": 0.5}))
    where = place.split_by_id()
    groups = [{where[f"r{number}"] for number in range(start, 120, 6)} for start in range(6)]
    assert [len(places) for places in groups] == [1] * 6


SENTENCE = "the parcel with the kettle left our house on monday and comes by courier on wednesday morning before noon"


def variant(number: int) -> str:
    """Nearly the same sentence, in a split of its own hash."""
    return SENTENCE + " ok" * (number % 2) + f" {number}"


def test_of_nearly_equal_rows_the_one_that_is_scored_stays(place: Place) -> None:
    section = SECTION.model_copy(update={"near_duplicate_threshold": 0.8})
    record = place.run([*ROWS, *(row(100 + number, variant(number)) for number in range(40))], section)
    stays = [name for name in place.split_by_id().items() if int(name[0][1:]) >= 100]
    assert [split for _, split in stays] == ["test"]
    near = [drop for drop in place.dropped() if drop["reason"] == "near_duplicate"]
    assert len(near) == record.dropped["near_duplicate"] == 39
    assert {drop["of"] for drop in near} == {f"a.jsonl:{stays[0][0][1:]}"}
    assert all(0.8 <= drop["similarity"] < 1 for drop in near)


def test_a_training_row_that_holds_a_scored_text_is_dropped(place: Place) -> None:
    place.run(ROWS)
    where = place.split_by_id()
    train = [number for number in range(60) if where[f"r{number}"] == "train"]
    item = "which planet of our sun has the largest moon"
    leaking = [
        replace(row(number), identity=replace(row(number).identity, text=f"before {item} {SENTENCE}{SENTENCE} after"))
        for number in train[:1]
    ]
    others = [row(number) for number in range(60) if number != train[0]]
    pq.write_table(to_table([*leaking, *others]), place.accepted)
    record = prepare(SECTION, place.accepted, place.target, place.record, [("suite 7", item), ("suite 8", "4 plus 4")])
    assert record.dropped == {"duplicate": 0, "near_duplicate": 0, "contaminated": 1, "replay_surplus": 0}
    assert place.dropped() == [
        {"id": f"r{train[0]}", "source": f"a.jsonl:{train[0]}", "reason": "contaminated", "of": "suite 7", "similarity": 1.0}
    ]


def in_split(split: str, rows: Iterator[Accepted]) -> Accepted:
    return next(given for given in rows if split_of(given.identity.prompt_hash, SECTION) == split)


def test_a_training_row_that_holds_a_test_row_is_dropped(place: Place) -> None:
    scored = in_split("test", (row(number, f"{SENTENCE} {number}", "so it is") for number in range(100, 200)))
    told = f"{scored.identity.text}, he said, and then a lot of other things that nobody could remember the day after. "
    holding = in_split("train", (row(number, told * 2 + str(number)) for number in range(200, 300)))
    place.run([*ROWS, scored, holding])
    (drop,) = place.dropped()
    assert (drop["id"], drop["reason"], drop["of"]) == (holding.id, "contaminated", scored.source)
    assert drop["similarity"] >= 0.8


GENERAL = [row(1000 + number, f"general {number}", "Yes.", replay=True) for number in range(200)]


def test_replayed_rows_fill_their_share_of_the_train_split_and_no_other(place: Place) -> None:
    own = place.run(ROWS).splits
    mixed = place.run([*ROWS, *GENERAL], SECTION.model_copy(update={"replay_share": 0.25}))
    assert mixed.n_replayed == own["train"].rows // 3
    assert mixed.splits["train"].rows == own["train"].rows + mixed.n_replayed
    assert [mixed.splits[name] for name in ("eval", "test")] == [own[name] for name in ("eval", "test")]
    assert mixed.dropped["replay_surplus"] == len(GENERAL) - mixed.n_replayed
    assert {split for name, split in place.split_by_id().items() if int(name[1:]) >= 1000} == {"train"}
    assert [drop["of"] for drop in place.dropped()] == [""] * mixed.dropped["replay_surplus"]


def test_more_own_rows_bring_more_replayed_ones_and_lose_none(place: Place) -> None:
    section = SECTION.model_copy(update={"replay_share": 0.25})
    place.run([*ROWS[:40], *GENERAL], section)
    before = place.split_by_id()
    place.run([*GENERAL, *ROWS], section)
    assert before.items() < place.split_by_id().items()


def test_of_few_replayed_rows_all_are_taken(place: Place) -> None:
    record = place.run([*ROWS, *GENERAL[:3]], SECTION.model_copy(update={"replay_share": 0.5}))
    assert (record.n_replayed, record.dropped["replay_surplus"]) == (3, 0)


def test_the_card_finds_the_splits_and_tells_the_counts(place: Place) -> None:
    record = place.run([*ROWS, *GENERAL, row(60, "question 1")], SECTION.model_copy(update={"replay_share": 0.25}))
    _, metadata, text = (place.target / "README.md").read_text().split("---\n", 2)
    files = {entry["split"]: entry["path"] for entry in yaml.safe_load(metadata)["configs"][0]["data_files"]}
    assert files == {"train": "train.parquet", "validation": "eval.parquet", "test": "test.parquet"}
    train = record.splits["train"]
    assert f"| `train` | `{train.rows}` | `{train.messages}` | `{train.tokens}` | `{train.supervised_tokens}` |" in text
    assert "| `duplicate` | `1` |" in text
    assert f"{record.n_replayed} rows are replayed" in text
    assert record.accepted_sha256 in text
    named = {name for line in text.splitlines() if line.startswith("| `") for name in line.split("`")[1].split(", ")}
    assert set(pq.read_schema(place.target / "train.parquet").names) <= named


def test_an_empty_split_is_refused_without_a_record(place: Place) -> None:
    with pytest.raises(DataError, match="60 rows left the eval and test split empty; add data or change"):
        place.run(ROWS, SECTION.model_copy(update={"eval_fraction": 0.0, "test_fraction": 0.0}))
    assert not place.record.exists()


def test_without_accepted_rows_the_stage_names_the_one_before(place: Place) -> None:
    with pytest.raises(StageInputError, match="the stage validate has not finished"):
        prepare(SECTION, place.accepted, place.target, place.record)
