"""The page of a run: whole in itself, in the right order, and nothing from the data leaves its place."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import pytest

from tasks.errors import StageInputError
from tasks.evaluation_records import EvalReport, GateDecision, ReportPage, RuleResult
from tasks.files import sha256_file
from tasks.paths import Workspace
from tasks.pictures import intervals_svg
from tasks.report import report, word_changes
from tests.unit.publishing import approve, make_workspace, sha

NASTY = "<script>alert(1)</script> & \"quoted\" 'too' {{ 7 * 7 }} </pre><img src=x onerror=alert(1)> \ud83d"
METRIC = "guideline_score"


def answer(name: str, text: str, score: float, topic: str = "returns") -> dict[str, Any]:
    return {"id": name, "topic": topic, "prompt": f"ask {name}", "reference": "say it", "answer": text, METRIC: score}


def write_answers(workspace: Workspace, role: str, answers: list[dict[str, Any]]) -> None:
    folder = workspace.scores(role)
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answers)
    (folder / "answers.jsonl").write_text(lines, encoding="utf-8", errors="surrogatepass")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Judged against base and champion; the champion answered `a` better, `b` as well as and `c` worse than the candidate."""
    workspace, _ = make_workspace(tmp_path)
    approve(workspace, b"one", None)
    candidate = EvalReport.read(workspace.record("evaluate@candidate"))
    none: dict[str, Any] = {"role": "best", "model_digest": None, "metrics": []}
    candidate.model_copy(update=none).write(workspace.record("evaluate@best"))
    for role in ("base", "champion"):
        metrics = [metric.model_copy(update={"value": 0.5}) for metric in candidate.metrics]
        update = {"role": role, "model_digest": sha(role), "metrics": metrics}
        candidate.model_copy(update=update).write(workspace.record(f"evaluate@{role}"))
    rules = [
        RuleResult(
            rule="learned", verdict="PASS", unit="points", value=0.4, lower=0.3, threshold=0.2, n=128, reason="far better"
        ),
        RuleResult(
            rule="kept/facts",
            verdict="FAIL",
            unit="points",
            value=-0.2,
            lower=-0.3,
            threshold=-0.12,
            n=150,
            reason=f"worse {NASTY[:-1]}",
        ),
        RuleResult(
            rule="smoke/stops", verdict="PASS", unit="share", value=0.99, lower=None, threshold=0.95, n=128, reason="they stop"
        ),
    ]
    decision = GateDecision.read(workspace.record("gate")).model_copy(update={"rules": rules, "verdict": "FAIL"})
    decision.write(workspace.record("gate"))
    workspace.plots.mkdir(parents=True)
    for kind in ("train", "eval"):
        (workspace.plots / f"{kind}.csv").write_text("step,loss\n1,3.0\n2,2.0\n")
    write_answers(workspace, "base", [answer(name, "base says so", 0.0) for name in "abc"])
    write_answers(workspace, "champion", [answer("a", "a good one", 1), answer("b", "the same", 0.5), answer("c", "bad", 0)])
    write_answers(
        workspace, "candidate", [answer("c", "good", 1.0, "billing"), answer("b", NASTY, 0.5), answer("a", "a bad one", 0)]
    )
    return workspace


class Page(HTMLParser):
    """Tags with their attributes, and the text of each article."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.articles: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "article":
            self.articles.append("")

    def handle_data(self, data: str) -> None:
        if self.articles:
            self.articles[-1] += data


def make(workspace: Workspace) -> str:
    page = report("quillmere-support", METRIC, workspace)
    assert page == ReportPage.read(workspace.record("report"))
    assert page.page == "data/reports/report.html"
    assert page.sha256 == sha256_file(workspace.report)
    return workspace.report.read_text(encoding="utf-8")


def test_the_decision_comes_first_with_every_reason(workspace: Workspace) -> None:
    html = make(workspace)
    assert html.index("FAIL: the candidate is not to be published") < html.index("<h2>Decision") < html.index("<h2>Scores")
    for text in ("far better", "they stop", "kept/facts", "trained 48 steps", "620 raw rows", "no_reply", "91.2 %", "+41.2 pp"):
        assert text in html


def test_worst_regressions_come_first_against_the_champion(workspace: Workspace) -> None:
    html = make(workspace)
    articles = [attributes for tag, attributes in Page(html).tags if tag == "article"]
    assert [(each["data-topic"], each["data-change"]) for each in articles] == [
        ("returns", "worse"),
        ("returns", "same"),
        ("billing", "better"),
    ]
    assert [re.search(r"<strong>(\w)</strong>", part)[1] for part in html.split("<article")[1:]] == ["a", "b", "c"]  # type: ignore[index]
    first = html.split("<article")[1]
    assert "<del> good</del><ins> bad</ins>" in first
    for text in ("base says so", "a good one", "say it", "ask a"):
        assert text in first


def test_without_a_champion_it_is_the_base(workspace: Workspace) -> None:
    empty = EvalReport.read(workspace.record("evaluate@champion")).model_copy(update={"model_digest": None, "metrics": []})
    empty.write(workspace.record("evaluate@champion"))
    (workspace.scores("champion") / "answers.jsonl").write_text("")
    html = make(workspace)
    assert f"by {METRIC} against the base" in html
    assert "a good one" not in html


def test_nothing_from_the_data_is_markup(workspace: Workspace) -> None:
    page = Page(make(workspace))
    assert [tag for tag, _ in page.tags if tag in ("img", "iframe", "link", "object")] == []
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.articles[1]
    assert "{{ 7 * 7 }}" in page.articles[1]


def test_it_loads_nothing_from_anywhere(workspace: Workspace) -> None:
    html = make(workspace)
    page = Page(html)
    assert not [1 for _, attributes in page.tags if {"src", "href"} & attributes.keys()]
    assert "url(" not in html
    assert "@import" not in html
    policies = [attributes["content"] for tag, attributes in page.tags if tag == "meta" and "http-equiv" in attributes]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"]


def test_the_same_run_gives_the_same_page(workspace: Workspace) -> None:
    assert make(workspace) == make(workspace)


def test_a_stage_that_has_not_finished_is_named(workspace: Workspace) -> None:
    workspace.record("gate").unlink()
    with pytest.raises(StageInputError, match="the stage gate has not finished"):
        report("name", METRIC, workspace)
    assert not workspace.report.exists()


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ("", "", []),
        ("same words", "same words", [("", "same words")]),
        ("", "all new", [("ins", "all new")]),
        ("all gone", "", [("del", "all gone")]),
        ("the old one", "the new one", [("", "the"), ("del", " old"), ("ins", " new"), ("", " one")]),
        ("환불은 14일", "환불은 30일", [("", "환불은"), ("del", " 14일"), ("ins", " 30일")]),
    ],
)
def test_changes_by_words(before: str, after: str, parts: list[tuple[str, str]]) -> None:
    assert word_changes(before, after) == parts


@pytest.mark.parametrize("text", ["  two  spaces \n and a line\n", NASTY, "one"])
def test_changes_lose_no_character(text: str) -> None:
    parts = word_changes("one two\nthree", text)
    assert "".join(words for kind, words in parts if kind != "del") == text


def test_intervals_are_drawn_for_shares_with_a_bound() -> None:
    def rule(name: str, value: float, lower: float | None, unit: Literal["points", "number"] = "points") -> RuleResult:
        return RuleResult(rule=name, verdict="PASS", unit=unit, value=value, lower=lower, threshold=-0.03, n=9, reason="")

    svg = intervals_svg(
        [rule("kept", 0.01, -0.02), rule("smoke", 0.9, None), rule("loss", 0.7, 0.2, "number"), rule("<b>", 0.0, -0.01)]
    )
    assert svg.count("<circle") == 2
    assert "&lt;b&gt;" in svg
    assert "+1.0" in svg
    assert intervals_svg([]).startswith("<svg")
