"""The card says what was measured, parses, and lets nothing from the data out of its place."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.evaluation_records import EvalReport, GateDecision
from tasks.files import parse_yaml
from tasks.model_card import CardFacts, model_card
from tasks.records import BaseModelRecord, PreparedDataset, TrainedModel, ValidationReport
from tasks.sections import HubBase
from tests.unit.publishing import approve, make_workspace

NASTY = "a|b `c` ``d`` <script>alert(1)</script>\n# heading\n---\n```\n[x](javascript:1) \u202e![y](z)"


@pytest.fixture
def facts(tmp_path: Path) -> CardFacts:
    workspace, params = make_workspace(tmp_path)
    approve(workspace, b"one", None)
    return CardFacts(
        name=params.push.name,
        repo_id=None,
        license="apache-2.0",
        base_section=params.base,
        base=BaseModelRecord.read(workspace.record("base")),
        validation=ValidationReport.read(workspace.record("validate")),
        prepared=PreparedDataset.read(workspace.record("prepare")),
        train_section=params.train,
        trained=TrainedModel.read(workspace.record("train")),
        evaluated=EvalReport.read(workspace.record("evaluate@candidate")),
        decision=GateDecision.read(workspace.record("gate")),
        decision_markdown="THE DECISION",
        system_prompt="Follow the guidelines.",
        max_new_tokens=80,
    )


def front_matter(card: str) -> dict[str, object]:
    _, text, _ = card.split("---\n", 2)
    found = parse_yaml(text)
    assert isinstance(found, dict)
    return found


def fenced(card: str, language: str) -> str:
    match = re.search(rf"^(`{{3,}}){language}\n(.*?)\n\1$", card, re.MULTILINE | re.DOTALL)
    assert match
    return match[2]


def test_metadata(facts: CardFacts) -> None:
    metadata = front_matter(model_card(facts))
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["refit", "sft"],
        "license": "apache-2.0",
        "model-index": [
            {
                "name": "quillmere-support",
                "results": [
                    {
                        "task": {"type": "text-generation"},
                        "dataset": {"type": "target", "name": "target suite: refit_target"},
                        "metrics": [{"type": "guideline_score", "name": "guideline_score (n=126)", "value": 0.9123}],
                    }
                ],
            }
        ],
    }


def test_what_is_published_to_the_hub_is_loaded_from_there(facts: CardFacts) -> None:
    assert 'name = "acme/bot"' in fenced(model_card(replace(facts, repo_id="acme/bot")), "python")
    assert 'name = "."' in fenced(model_card(facts), "python")


def test_without_a_license_none_is_claimed(facts: CardFacts) -> None:
    assert "License: `apache-2.0`, as far as" in model_card(facts)
    without = model_card(replace(facts, license=None))
    assert "license" not in front_matter(without)
    assert "Nobody has said under which license" in without


def test_base_of_the_hub_is_named_in_the_metadata(facts: CardFacts) -> None:
    base = HubBase(source="hub", chat_template=None, repo_id="org/model", revision="a" * 40, sha256="b" * 64)
    assert front_matter(model_card(replace(facts, base_section=base)))["base_model"] == "org/model"


def test_every_fact_is_there(facts: CardFacts) -> None:
    card = model_card(facts)
    for text in (
        facts.trained.digest,
        facts.base.source,
        facts.base_section.sha256,
        facts.validation.accepted_sha256,
        facts.trained.train_sha256,
        "549 accepted, 71 quarantined",
        "3 were dropped (2 duplicate, 1 near duplicate, 0 contaminated, 0 replay surplus)",
        "| `train` | `378` | `1306` | `40664` | `19452` |",
        "| `no_reply` | `70` |",
        "c" * 40,
        "| `torch` | `2.13` |",
        "THE DECISION",
    ):
        assert text in card
    assert parse_yaml(fenced(card, "yaml")) == facts.train_section.model_dump(mode="json")


def test_example_is_python_and_asks_with_the_system_prompt(facts: CardFacts) -> None:
    code = fenced(model_card(facts), "python")
    compile(code, "card", "exec")
    assert '{"role": "system", "content": "Follow the guidelines."}' in code
    assert "trust_remote_code" not in code
    assert "system" not in fenced(model_card(replace(facts, system_prompt=None)), "python")


@pytest.mark.parametrize("prompt", [NASTY, NASTY + "\\'\"", "it's", 'say "no"', "\ud83d half", "저는 상담원입니다 🙂"])
def test_nothing_from_the_data_leaves_its_place(facts: CardFacts, prompt: str) -> None:
    nasty = replace(
        facts,
        base=facts.base.model_copy(update={"source": NASTY}),
        validation=facts.validation.model_copy(update={"reasons": {NASTY: 1}}),
        evaluated=facts.evaluated.model_copy(
            update={"metrics": [facts.evaluated.metrics[0].model_copy(update={"task": NASTY, "metric": NASTY})]}
        ),
        system_prompt=prompt,
    )
    card = model_card(nasty)
    assert set(front_matter(card)) == set(front_matter(model_card(facts)))
    code = fenced(card, "python")
    compile(code, "card", "exec")
    asked = next(
        node.value for node in ast.parse(code).body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "messages"
    )
    assert ast.literal_eval(asked)[0] == {"role": "system", "content": prompt}
    body = card.split("---\n", 2)[2].replace(code, "")
    assert "\u202e" not in body
    assert [line for line in body.splitlines() if line.startswith("#")] == [
        line for line in model_card(facts).splitlines() if line.startswith("#")
    ]
    row = next(line for line in body.splitlines() if "alert" in line and line.startswith("|"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_markdown_of_nasty_values_renders_as_text(facts: CardFacts) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    nasty = replace(
        facts,
        base=facts.base.model_copy(update={"source": NASTY}),
        validation=facts.validation.model_copy(update={"reasons": {NASTY: 1, "`": 2, "": 3}}),
    )
    body = model_card(nasty).split("---\n", 2)[2]
    html = markdown_it.MarkdownIt("commonmark").enable("table").render(body)
    assert "<script" not in html
    assert "<a " not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;") == 3
    assert html.count("<h1>") == 1
