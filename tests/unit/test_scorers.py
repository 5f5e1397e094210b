"""What a reply scores: each metric for itself, faults of the user's own scorers, and what is known before a model is loaded.

tests/integration/test_scorers.py has the scorers whose libraries take long to load.
"""

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import EvalError, ParamsError
from tasks.evaluation_sections import GUIDELINE_PARTS, HYGIENE
from tasks.scorer_files import load_entry_point
from tasks.scorers import CUT, check_scorers, score_replies
from tasks.sections import Guidelines
from tests.evaluating import section

GUIDELINES = Guidelines(
    policy="policy.yaml",
    reply_pattern=r"\[(?P<category>[a-z]+) \| (?P<priority>low|normal|urgent)\]\n(?P<body>[^\n]+)",
    max_words=12,
    forbidden=("!",),
)
REPLY = "[refunds | low]\nWithin 5 days, to the card you paid with."
DOC: dict[str, Any] = {"id": "a-1", "reply": REPLY, "must_say": ["5 days", "card"], "messages": []}
ALL_RIGHT = dict.fromkeys(("guideline_score", *GUIDELINE_PARTS, *HYGIENE), 1.0)


def score(scorer: dict[str, Any], answer: str, reply: str = REPLY, folder: Path = Path()) -> float:
    (scores,) = score_replies(section(it=scorer), None, folder, [DOC | {"reply": reply}], [answer])
    return scores["it"]


def hygiene(answer: str) -> dict[str, float]:
    (scores,) = score_replies(section(it={"type": "exact_match"}), None, Path(), [DOC], [answer])
    return {name: scores[name] for name in HYGIENE}


# Guidelines.


def faults(answer: str, **doc: Any) -> dict[str, float]:
    """The metrics that are not 1, without the mean; checks the mean."""
    (scores,) = score_replies(section(guideline_score={"type": "guidelines"}), GUIDELINES, Path(), [DOC | doc], [answer])
    assert list(scores) == list(ALL_RIGHT)
    assert scores.pop("guideline_score") == pytest.approx(sum(scores[name] for name in GUIDELINE_PARTS) / 4)
    return {name: value for name, value in scores.items() if value != 1}


def test_the_reference_reply_scores_full_marks() -> None:
    assert score_replies(section(guideline_score={"type": "guidelines"}), GUIDELINES, Path(), [DOC], [REPLY]) == [ALL_RIGHT]


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("[refunds | low]\nYour card gets it within 5 days", {}),
        (f"\n{REPLY}\n", {}),
        ("[orders | low]\n5 days, by card.", {"category": 0}),
        ("[refunds | urgent]\n5 days, by card.", {"priority": 0}),
        ("[refunds | low]\n5 days, by card!", {"structure": 0}),
        ("[refunds | low]\n5 days, by card" + " or so" * 5, {"structure": 0}),
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


def test_guidelines_that_are_not_there_are_a_fault_of_the_parameters() -> None:
    with pytest.raises(ParamsError, match=r"^evaluate\.scorers\.it: of the type guidelines, and guidelines is null"):
        score({"type": "guidelines"}, REPLY)


# Hygiene.

LOOPS = [
    "I can help. ",
    "네 ",
    "a",
    "はい、",
    "ขอบคุณ",
    "\n",
    "환불은 카드로 5일 안에 됩니다. ",
    "Please tell us your order number and we look. ",
]
NORMAL = "An order can be cancelled free of charge within 2 hours of placing it, so you are in good time. "


VARIED = " ".join(f"{number} {NORMAL[number % 60 :]}" for number in range(60))


@pytest.mark.parametrize("unit", LOOPS)
@pytest.mark.parametrize(("before", "length"), [(0, 230), (90, 230), (90, 1000), (1700, 2000)])
def test_a_reply_that_runs_in_circles_is_seen(unit: str, before: int, length: int) -> None:
    text = VARIED[:before] + unit * length
    assert hygiene(text[:length] + CUT)["no_repetition"] == 0
    assert hygiene(VARIED[:before])["no_repetition"] == 1


@pytest.mark.parametrize("period", [40, 80, 120, 160, 320])
@pytest.mark.parametrize("before", [300, 900])
def test_a_longer_loop_is_seen_as_well(period: int, before: int) -> None:
    """Of a unit that repeats nothing in itself."""
    unit = "".join(map(chr, range(0x4E00, 0x4E00 + period)))
    assert hygiene(VARIED[:before] + unit * 5)["no_repetition"] == 0
    assert hygiene(VARIED[:before] + unit)["no_repetition"] == 1


@pytest.mark.parametrize(
    "reply",
    [
        REPLY,
        "",
        NORMAL,
        "네 네 네, 알겠습니다.",
        "ㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋㅋ 정말요?",
        "주문은 두 시간 안에 무료로 취소할 수 있습니다. 그 뒤에는 반품만 할 수 있으니, 쓰지 않은 채로 다시 보내 주세요.",
        "ご注文は二時間以内であれば無料でキャンセルできます。それ以降は返品のみとなりますので、未使用のままお送りください。",
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        json.dumps([{"name": name, "price": 3 * len(name), "in_stock": True} for name in NORMAL.split()], indent=2),
        "| name | price |\n| --- | --- |\n" + "\n".join(f"| {name} | {len(name)} |" for name in NORMAL.split()),
        "\n".join(f"{number}. Open the {name} and press OK." for number, name in enumerate(NORMAL.split())),
        ", ".join(map(str, range(100, 160))),
    ],
)
def test_lists_laughs_and_rows_are_no_loop(reply: str) -> None:
    assert hygiene(reply)["no_repetition"] == 1


def test_no_reply_of_the_default_data_runs_in_circles() -> None:
    replies = []
    for path in sorted((Path(__file__).parents[2] / "data" / "raw").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                replies.append(json.loads(line)["messages"][-1]["content"])
            except (ValueError, LookupError, TypeError):
                assert path.name == "inbox.jsonl", "the one with faults on purpose"
    docs = [DOC] * len(replies)
    found = score_replies(section(it={"type": "exact_match"}), None, Path(), docs, list(map(str, replies)))
    assert len(found) > 561
    assert {scores["no_repetition"] for scores in found} == {1.0}


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [("Yes.", (1, 1)), ("Yes." + CUT, (0, 1)), ("", (1, 0)), (" \n\t", (1, 0)), (CUT, (0, 0)), (CUT + "Yes.", (1, 1))],
)
def test_a_reply_stops_and_says_something(answer: str, wanted: tuple[float, float]) -> None:
    found = hygiene(answer)
    assert (found["stops"], found["nonempty"]) == wanted


# Scorers that need nothing but the texts.


def test_metrics_stand_in_the_order_of_the_section_whatever_the_answer() -> None:
    three = section(b={"type": "exact_match"}, a={"type": "guidelines"}, c={"type": "contains", "texts": ["card"]})
    found = score_replies(three, GUIDELINES, Path(), [DOC] * 2, [REPLY, CUT])
    assert [list(scores) for scores in found] == [["b", "a", "c", *GUIDELINE_PARTS, *HYGIENE]] * 2
    assert [(scores["a"], scores["b"], scores["c"]) for scores in found] == [(1, 1, 1), (0, 0, 0)]


def test_each_doc_must_have_its_answer() -> None:
    with pytest.raises(ValueError, match="shorter"):
        score_replies(section(it={"type": "exact_match"}), None, Path(), [DOC, DOC], [REPLY])


def test_no_docs_give_no_scores() -> None:
    assert score_replies(section(it={"type": "exact_match"}), None, Path(), [], []) == []


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [(REPLY, 1), (REPLY.upper() + "!", 1), (f" {REPLY} ", 1), (REPLY + CUT, 1), ("Within 5 days", 0), ("", 0)],
)
def test_exact_match(answer: str, wanted: float) -> None:
    assert score({"type": "exact_match"}, answer) == wanted


@pytest.mark.parametrize(
    ("pattern", "answer", "reply", "wanted"),
    [
        (r"#### (-?\d+)", "so\n#### 42", "thus #### 42", 1),
        (r"#### (-?\d+)", "so #### 41", "thus #### 42", 0),
        (r"#### (-?\d+)", "42", "thus #### 42", 0),
        (r"#### (-?\d+)", "#### 42", "42", 0),
        (r"#### (-?\d+)", "41", "42", 1),
        (r"\d+", "in 5 days", "5 days or 7", 1),
        (r"\d+ (?:days|hours)", "in 5 hours", "in 5 days", 0),
        (r"(a)|b", "b", "x", 0),  # a match whose group takes no part is a match all the same
        (r"(a)|b", "b", "b", 1),
        (r"(\d)(\d)", "12", "13", 1),  # the first group only
    ],
)
def test_regex_compares_what_it_finds(pattern: str, answer: str, reply: str, wanted: float) -> None:
    assert score({"type": "regex", "pattern": pattern}, answer, reply) == wanted


@pytest.mark.parametrize(
    ("kind", "texts", "answer", "wanted"),
    [
        ("contains", ["5 days", "card"], REPLY, 1),
        ("contains", ["5 days", "cash"], REPLY, 0.5),
        ("contains", ["STRASSE"], "die Straße", 1),
        ("contains", ["five  days"], "Five\ndays", 1),
        ("contains", ["환불"], "\u1112\u116a\u11ab\u1107\u116e\u11af", 1),  # the same, decomposed
        ("contains", ["cash", "cheque"], REPLY, 0),
        ("omits", ["cash", "cheque"], REPLY, 1),
        ("omits", ["cash", "CARD"], REPLY, 0),
        ("omits", ["cash"], "", 1),
    ],
)
def test_contains_gives_a_share_and_omits_all_or_nothing(kind: str, texts: list[str], answer: str, wanted: float) -> None:
    assert score({"type": kind, "texts": texts}, answer) == wanted


@pytest.mark.parametrize(
    ("answer", "reply", "wanted"),
    [
        ("the card", "The Card!", 1),
        ("a b c d", "c d e f", 0.5),
        ("a a a", "a", 0.5),
        ("card", "cash", 0),
        ("", "cash", 0),
        ("...", "!?", 1),
        ("주문을 취소", "주문은 취소", 0.8),  # syllables: two forms of one noun have it in common
        ("東京都", "京都", 0.8),
        ("สวัสดี", "สวัสดี", 1),
        ("5日", "5月", 0.5),
    ],
)
def test_token_f1(answer: str, reply: str, wanted: float) -> None:
    assert score({"type": "token_f1"}, answer, reply) == pytest.approx(wanted)


# A JSON schema.

ORDER = {
    "type": "object",
    "required": ["id"],
    "additionalProperties": False,
    "properties": {"id": {"$ref": "#/$defs/id"}, "more": {"$ref": "#"}},
    "$defs": {"id": {"type": "integer", "multipleOf": 0.5}},
}


def schema(folder: Path, value: Any = ORDER, name: str = "order.json") -> dict[str, Any]:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return {"type": "json_schema", "file": name}


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ('{"id": 7}', 1),
        (' \n{"id": 7}\n', 1),
        ('{"id": 7}' + CUT, 1),
        ('{"id": 7, "more": {"id": 8}}', 1),
        ('{"id": "7"}', 0),
        ('{"id": 7, "more": {}}', 0),
        ('{"id": 7, "name": "x"}', 0),
        ("[]", 0),
        ('```json\n{"id": 7}\n```', 0),
        ('{"id": 7} and more', 0),
        ('{"id": 7', 0),
        ('{"id": NaN}', 0),
        ("", 0),
        ("[" * 100_000, 0),
        ('{"more":' * 900 + "1" + "}" * 900, 0),
        (f'{{"id": {"9" * 400}}}', 0),
    ],
)
def test_json_must_fit_the_schema_and_be_all_there_is(tmp_path: Path, answer: str, wanted: float) -> None:
    assert score(schema(tmp_path), answer, folder=tmp_path) == wanted


@pytest.mark.parametrize(("answer", "wanted"), [("1e999", 1), ("[NaN]", 0), ("-Infinity", 0), ("", 0)])
def test_a_schema_that_allows_all_wants_json_all_the_same(tmp_path: Path, answer: str, wanted: float) -> None:
    assert score(schema(tmp_path, {}), answer, folder=tmp_path) == wanted


@pytest.mark.parametrize(
    ("draft", "wanted"),
    [("http://json-schema.org/draft-07/schema#", 1), ("https://json-schema.org/draft/2020-12/schema", 0), (None, 0)],
)
def test_the_schema_says_its_draft(tmp_path: Path, draft: str | None, wanted: float) -> None:
    """`prefixItems` is of 2020-12; an older draft does not know it."""
    value = {"prefixItems": [{"type": "string"}]} | ({"$schema": draft} if draft else {})
    assert score(schema(tmp_path, value), "[1]", folder=tmp_path) == wanted


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("{", "cannot be read as JSON: "),
        ("[" * 100_000, "cannot be read as JSON: "),
        ("[]", "found list, wanted a JSON schema"),
        ("true", "found bool, wanted a JSON schema"),
        ({"type": "objekt"}, r"not a valid schema: \$\.type: 'objekt' is not valid"),
        ({"pattern": "("}, r"not a valid schema: \$\.pattern"),
        ({"$schema": 7}, r"its \$schema is 7, wanted a draft"),
        ({"$schema": "https://example.com/mine"}, r"its \$schema is https://example.com/mine, wanted"),
        ({"items": {"$ref": "#/$defs/none"}}, r"\$ref to #/\$defs/none leads nowhere"),
        (
            {"items": {"$ref": "https://example.com/a.json"}},
            r"\$ref to https://example.com/a.json leads nowhere in it",
        ),
        (
            {"$schema": "http://json-schema.org/draft-04/schema#", "not": {"$ref": "other.json"}},
            r"\$ref to other.json leads nowhere",
        ),
    ],
)
def test_a_schema_that_is_none_is_found_before_anything_is_scored(tmp_path: Path, value: Any, fault: str) -> None:
    with pytest.raises(ParamsError, match=rf"^evaluate\.scorers\.it: {tmp_path}/order\.json: {fault}"):
        check_scorers(section(it=schema(tmp_path, value)), tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"properties": {"$ref": {"type": "string"}}},
        {"$id": "https://example.com/a", "items": {"$ref": "#here"}, "$defs": {"x": {"$anchor": "here"}}},
        {"$defs": {"x": {"$id": "https://example.com/x"}}, "items": {"$ref": "https://example.com/x"}},
        {"$defs": {"x": {"$id": "https://example.com/x", "items": {"$ref": "#/$defs/y"}, "$defs": {"y": {}}}}},
        {"const": {"$ref": "https://example.com/no-reference"}},
    ],
)
def test_references_inside_the_schema_are_fine(tmp_path: Path, value: Any) -> None:
    check_scorers(section(it=schema(tmp_path, value)), tmp_path)


def test_no_reference_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*address: object) -> None:
        raise AssertionError(f"asks for {address}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(ParamsError, match="none is fetched"):
        score(schema(tmp_path, {"$ref": "http://example.com/a.json"}), "{}", folder=tmp_path)


@pytest.mark.parametrize(
    "file", ["none.json", "sub", "../order.json", "sub/../../order.json", "{outside}/order.json", "link.json"]
)
def test_a_schema_lies_in_the_folder(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "eval"
    (folder / "sub").mkdir(parents=True)
    schema(tmp_path)
    (folder / "link.json").symlink_to(tmp_path / "order.json")
    file = file.format(outside=tmp_path)
    with pytest.raises(
        ParamsError, match=rf"^evaluate\.scorers\.it: {re.escape(file)}: no file in {folder}; put the schema there"
    ):
        check_scorers(section(it={"type": "json_schema", "file": file}), folder)


# A function of the user's.


def python(entry_point: str = "mine:score") -> dict[str, Any]:
    return {"type": "python", "entry_point": entry_point}


def mine(folder: Path, body: str, name: str = "mine.py") -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(body, encoding="utf-8")
    return folder


def function(folder: Path, result: str) -> Path:
    return mine(folder, f"def score(reply, doc):\n    return {result}\n")


@pytest.mark.parametrize(
    ("result", "wanted"),
    [("0", 0), ("1", 1), ("0.25", 0.25), ("True", 1), ("len(reply) / 8", 0.5), ("doc['id'] == 'a-1'", 1), ("'\\0' in reply", 0)],
)
def test_a_function_gives_the_score(tmp_path: Path, result: str, wanted: float) -> None:
    found = score(python(), "four" + CUT, folder=function(tmp_path, result))
    assert (found, type(found)) == (wanted, float)


@pytest.mark.parametrize(
    ("result", "found"),
    [
        ("None", "found None"),
        ("'0.5'", "found '0.5'"),
        ("1.01", "found 1.01"),
        ("-1", "found -1"),
        ("float('nan')", "found nan"),
        ("float('inf')", "found inf"),
        ("[0.5]", r"found \[0.5\]"),
        ("0.5 + 0j", r"found \(0.5\+0j\)"),
        ("10 ** 400", "raised OverflowError: int too large"),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("doc['none']", "raised KeyError: 'none'"),
        ("exit('enough')", "raised SystemExit: enough"),
    ],
)
def test_a_function_that_gives_no_share_is_named_with_the_item(tmp_path: Path, result: str, found: str) -> None:
    with pytest.raises(EvalError, match=rf"^evaluate\.scorers\.it: mine:score: item a-1: {found}.*wanted a number from 0 to 1"):
        score(python(), REPLY, folder=function(tmp_path, result))


def test_a_function_cannot_change_the_doc_for_those_after_it(tmp_path: Path) -> None:
    folder = mine(tmp_path, "def score(reply, doc):\n    doc['must_say'].clear()\n    doc.pop('reply')\n    return 1\n")
    both = section(it=python(), guideline_score={"type": "guidelines"})
    assert score_replies(both, GUIDELINES, folder, [DOC], [REPLY]) == [{"it": 1.0, **ALL_RIGHT}]


@pytest.mark.parametrize(
    ("body", "entry_point", "fault"),
    [
        ("", "none:score", r"no module none, neither in .* nor installed"),
        ("", "mine.sub:score", r"no module mine\.sub"),
        ("", "mine:score", r"found nothing of that name, wanted `def score\(reply: str, doc: dict\) -> float`"),
        ("score = 0.5", "mine:score", "found float, wanted `def score"),
        ("score = None", "mine:score", "found nothing of that name, wanted `def score"),
        ("import not_installed_at_all", "mine:score", "no module not_installed_at_all, neither in .* nor installed"),
        ("1 / 0", "mine:score", "importing mine raised ZeroDivisionError: division by zero"),
        ("def score(", "mine:score", "importing mine raised SyntaxError: "),
        ("exit(3)", "mine:score", "importing mine raised SystemExit: 3"),
        ("from json import nothing", "mine:score", "importing mine raised ImportError: "),
    ],
)
def test_an_entry_point_that_cannot_be_called_is_found_before_anything_is_scored(
    tmp_path: Path, body: str, entry_point: str, fault: str
) -> None:
    with pytest.raises(ParamsError, match=rf"^evaluate\.scorers\.it: {entry_point}: {fault}"):
        check_scorers(section(it=python(entry_point)), mine(tmp_path, body))


def test_an_installed_module_serves_too(tmp_path: Path) -> None:
    assert load_entry_point("json:dumps", tmp_path) is json.dumps


def test_a_class_that_can_be_called_serves_too(tmp_path: Path) -> None:
    folder = mine(tmp_path, "class Score:\n    def __call__(self, reply, doc):\n        return 0.5\nscore = Score()\n")
    assert score(python(), REPLY, folder=folder) == 0.5


def test_a_module_may_import_its_neighbours_and_be_a_package(tmp_path: Path) -> None:
    mine(tmp_path, "HALF = 0.5\n", "helper.py")
    mine(tmp_path, "from mine.part import half\ndef score(reply, doc):\n    return half()\n", "mine/__init__.py")
    mine(tmp_path, "from helper import HALF\ndef half():\n    return HALF\n", "mine/part.py")
    assert score(python(), REPLY, folder=tmp_path) == 0.5


def test_a_module_is_read_anew_each_time_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = (dict(sys.modules), list(sys.path), list(sys.meta_path), sys.dont_write_bytecode)
    assert "mine" not in sys.modules
    assert [score(python(), REPLY, folder=function(tmp_path, result)) for result in ("0.1", "0.2")] == [0.1, 0.2]
    assert (dict(sys.modules), list(sys.path), list(sys.meta_path), sys.dont_write_bytecode) == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"], "bytecode would change the digest of the folder"


def test_an_import_that_raises_leaves_nothing_behind_either(tmp_path: Path) -> None:
    before = (set(sys.modules), list(sys.meta_path), sys.dont_write_bytecode)
    with pytest.raises(ParamsError):
        load_entry_point("mine:score", mine(tmp_path, "1 / 0"))
    assert (set(sys.modules), list(sys.meta_path), sys.dont_write_bytecode) == before


def test_a_module_named_like_a_library_comes_first_and_does_not_stand_in_its_way(tmp_path: Path) -> None:
    mine(tmp_path, "def score(reply, doc):\n    return 0.5\n", "json.py")
    assert score(python("json:score"), REPLY, folder=tmp_path) == 0.5
    assert sys.modules["json"] is json


def test_a_folder_that_is_no_package_does_not_hide_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "colorsys").mkdir()
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    assert load_entry_point("colorsys:rgb_to_hls", tmp_path)(0, 0, 0) == (0, 0, 0)


# All faults at once.


def test_all_faults_come_in_one_message(tmp_path: Path) -> None:
    scorers = section(
        fine={"type": "exact_match"},
        a={"type": "json_schema", "file": "none.json"},
        b=python("none:score"),
        c=schema(tmp_path),
        d=python("mine:score"),
    )
    with pytest.raises(ParamsError) as caught:
        check_scorers(scorers, mine(tmp_path, "score = 1"))
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"evaluate.scorers.{name}" for name in "abd"]


def test_nothing_is_wrong_with_scorers_that_need_nothing(tmp_path: Path) -> None:
    judge = {"type": "judge", "base_url": "http://127.0.0.1:1/v1", "model": "m", "criteria": "good"}
    check_scorers(section(a={"type": "guidelines"}, b={"type": "rouge_l"}, c=judge), tmp_path / "none")
    assert "rouge_score" not in sys.modules, "it takes seconds"
