"""The expectations on the accepted conversations as a whole: the only module that imports Great Expectations.

It sees one narrow frame of scalars, a row a conversation. Severity `critical` refuses the data, `warning` is only reported.
"""

import html
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.accepted import FEATURES
from tasks.errors import DataError, one_line
from tasks.files import read_data_yaml, write_atomic
from tasks.guidelines import Policy
from tasks.records import ExpectationResult
from tasks.sections import Guidelines, Validate

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

_MISSING_SHOWN = 20
ROLES_PATTERN = r"^(?:system\|)?user\|assistant(?:(?:\|tool)+\|assistant|\|user\|assistant)*$"


COLUMNS = (*FEATURES, "quarantined_share")


def load_expectations(path: Path) -> list[Any]:
    """The user's own expectations: a YAML list of `{type, kwargs, severity}` as in Great Expectations' documentation.

    Raises:
        DataError: the file is missing or has faults; each is named.
    """
    _quiet()
    entries = read_data_yaml(path, "validate.expectations")
    if not isinstance(entries, list):
        raise DataError(f"{path}: found {type(entries).__name__}, wanted a list of {{type, kwargs, severity}}")
    found = [_expectation(entry) for entry in entries]
    if faults := [f"{number}. {fault}" for number, fault in enumerate(found, start=1) if isinstance(fault, str)]:
        raise DataError("\n".join([f"{path}: {len(faults)} of {len(found)} expectations cannot be used", *faults]))
    return found


def _expectation(entry: Any) -> Any:
    """The expectation of one entry, or in words why there is none."""
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.registry import get_expectation_impl

    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str) or not isinstance(entry.get("kwargs", {}), dict):
        return f"found {entry!r}, wanted {{type: expect_…, kwargs: {{…}}, severity: critical or warning}}"
    kwargs = {**entry.get("kwargs", {}), **{key: value for key, value in entry.items() if key not in ("type", "kwargs")}}
    if unknown := [
        str(kwargs[key]) for key in ("column", "column_A", "column_B") if key in kwargs and kwargs[key] not in COLUMNS
    ]:
        return f"{entry['type']}: no column {', '.join(unknown)}; there are {', '.join(COLUMNS)}"
    try:
        return get_expectation_impl(entry["type"])(**kwargs)
    except ExpectationNotFoundError:
        return f"{entry['type']}: Great Expectations has no such expectation"
    except (ValueError, TypeError) as error:
        return f"{entry['type']}: {one_line(error)}"


def _quiet() -> None:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"


def check(
    features: Mapping[str, Any],
    section: Validate,
    guidelines: Guidelines | None,
    policy: Policy | None,
    docs: Path,
    more: Sequence[Any] = (),
) -> list[ExpectationResult]:
    """Hold the frame against every expectation and write Data Docs, whole without a network, to `docs`/index.html.

    Args:
        features: One sequence for each of accepted.FEATURES, all of one length, and `quarantined_share`, a number.
        more: The user's own expectations.

    Returns:
        One result for each expectation, sorted by expectation and column; one that raised is a failed one.
    """
    _quiet()
    import great_expectations as gx
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_pandas(f"refit-{uuid.uuid4().hex}")
    definition = source.add_dataframe_asset("conversations").add_batch_definition_whole_dataframe("all")
    batch = definition.get_batch({"dataframe": pd.DataFrame(features)})
    suite = build_suite(section, guidelines, policy, more)
    outcome = batch.validate(suite, result_format={"result_format": "BASIC", "exclude_unexpected_values": True})
    for result in outcome.results:
        result.result = {key: value.item() if hasattr(value, "item") else value for key, value in result.result.items()}
        if "partial_missing_list" in result.result and result.expectation_config:  # GX takes any 20: others in each process
            kwargs = result.expectation_config.kwargs
            missing = set(kwargs["value_set"]) - set(features[kwargs["column"]])
            result.result["partial_missing_list"] = sorted(missing)[:_MISSING_SHOWN]
    write_atomic(docs / "index.html", _data_docs(outcome).encode())
    return sorted(map(_in_short, outcome.results), key=lambda result: (result.expectation, result.column or ""))


def build_suite(
    section: Validate, guidelines: Guidelines | None, policy: Policy | None, more: Sequence[Any]
) -> "ExpectationSuite":
    """The suite; every threshold is a parameter."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    return gx.ExpectationSuite(
        name="conversations",
        expectations=[
            gxe.ExpectTableRowCountToBeBetween(min_value=section.min_accepted, severity="critical"),
            gxe.ExpectColumnMaxToBeBetween(column="quarantined_share", max_value=section.max_quarantined, severity="critical"),
            *(gxe.ExpectColumnValuesToNotBeNull(column=column, severity="critical") for column in COLUMNS),
            gxe.ExpectColumnValuesToBeUnique(column="source", severity="critical"),
            gxe.ExpectColumnValuesToBeUnique(column="id", severity="warning"),
            gxe.ExpectColumnValuesToMatchRegex(column="roles", regex=ROLES_PATTERN, severity="critical"),
            gxe.ExpectColumnValuesToBeInSet(column="last_role", value_set=["assistant"], severity="critical"),
            gxe.ExpectColumnValuesToBeBetween(column="n_messages", min_value=2, severity="critical"),
            gxe.ExpectColumnValuesToBeBetween(column="n_user_turns", min_value=1, severity="critical"),
            gxe.ExpectColumnValuesToBeBetween(column="n_tokens", min_value=1, max_value=section.max_length, severity="critical"),
            gxe.ExpectColumnValuesToBeBetween(
                column="reply_words",
                min_value=1,
                max_value=guidelines.max_words if guidelines else None,
                severity="critical",
            ),
            *(_guideline_expectations(guidelines, policy) if guidelines and policy else []),
            *more,
        ],
    )


def _guideline_expectations(guidelines: Guidelines, policy: Policy) -> list[Any]:
    import great_expectations.expectations as gxe

    topics, priorities = sorted(policy.topics), priorities_of(guidelines.reply_pattern)
    categories = sorted({topic.category for topic in policy.topics.values()})
    wanted = {"category": categories, "topic": topics} | ({"priority": priorities} if priorities else {})
    return [
        *(gxe.ExpectColumnValuesToBeInSet(column=name, value_set=values, severity="critical") for name, values in wanted.items()),
        gxe.ExpectColumnDistinctValuesToContainSet(column="topic", value_set=topics, severity="warning"),
    ]


def priorities_of(pattern: str) -> list[str]:
    """The words that the group `priority` of a reply pattern lists; empty if it is not a plain list of words."""
    match = re.search(r"\(\?P<priority>(\w+(?:\|\w+)*)\)", pattern)
    return match[1].split("|") if match else []


def _in_short(result: "ExpectationValidationResult") -> ExpectationResult:
    config = result.expectation_config
    assert config is not None, "a result of a suite carries its expectation"
    kwargs = {key: value for key, value in config.kwargs.items() if key not in ("batch_id", "column") and value is not None}
    wanted = ", ".join(f"{key} {_shown(value)}" for key, value in kwargs.items())
    error = _exception(result.exception_info)
    unexpected = result.result.get("unexpected_count")
    if error:
        found = f"not computed: {error}"
    elif unexpected is not None:
        found = f"{unexpected} of {result.result['element_count']} values unexpected"
    elif missing := result.result.get("partial_missing_list"):
        found = f"{result.result['missing_count']} missing: {_shown(missing)}"
    else:
        observed = result.result.get("observed_value")
        found = "what was wanted" if observed is None else _shown(observed)
    return ExpectationResult(
        expectation=config.type,
        column=config.kwargs.get("column"),
        success=bool(result.success) and not error,
        severity=getattr(config.severity, "value", str(config.severity)),
        unexpected_count=None if unexpected is None else int(unexpected),
        detail=f"found {found}" + (f", wanted {wanted}" if wanted else ""),
    )


def _exception(info: Any) -> str | None:
    """First line of the exception; GX stores one flat entry, or one for each metric that raised."""
    entries = [info] if "raised_exception" in (info or {}) else list((info or {}).values())
    for entry in entries:
        if entry.get("raised_exception"):
            return str(entry.get("exception_message") or "unknown").splitlines()[0]
    return None


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 120 else text[:117] + "…"


def _data_docs(outcome: "ExpectationSuiteValidationResult") -> str:
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    page = DefaultJinjaPageView().render(ValidationResultsPageRenderer(run_info_at_end=False).render(outcome))
    return make_offline(page, "Expectations on the accepted conversations")


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1c2630}
h1{font-size:1.5rem}h4,h5{margin:1.2rem 0 .3rem}table{border-collapse:collapse;width:100%;margin:.3rem 0}
th,td{border:1px solid #d5dbe1;padding:.35rem .6rem;text-align:left;vertical-align:top}th{background:#f3f5f7}
code{font-size:.85em;white-space:pre-wrap;overflow-wrap:anywhere}.badge{background:#e8ecf0;border-radius:.3rem;padding:0 .35rem}
.text-success{color:#17703a}.text-danger{color:#b3261e}.text-warning{color:#8a5a00}.fa-check-circle::before{content:"\\2713"}
.fa-times::before{content:"\\2717"}.fa-exclamation-triangle::before{content:"\\26A0"}.fas{font-style:normal;font-weight:bold}
@media(prefers-color-scheme:dark){body{background:#12181e;color:#dfe6ec}th{background:#1e2730}th,td{border-color:#3a4652}
.badge{background:#2b3641}.text-success{color:#6fcf97}.text-danger{color:#ff8a80}.text-warning{color:#ffcc66}}"""


def make_offline(page: str, title: str) -> str:
    """A page of GX reduced to text and tables: no script, image, style, link or fold-out part is left of it."""
    cleaner = _Cleaner()
    cleaner.feed(page)
    cleaner.close()
    body = re.sub(r"\s*\n\s*", "\n", "".join(cleaner.parts))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>{body}</body></html>\n"
    )


_TABLES = ("table", "thead", "tbody", "tr", "th", "td", "ul", "ol", "li")


class _Cleaner(HTMLParser):
    """Copies known harmless tags with their id and class, and text escaped anew; whatever else there is falls away."""

    kept = ("h1", "h2", "h3", "h4", "h5", "h6", "p", "div", "span", "strong", "b", "em", "i", "code", "pre", "br", "hr", *_TABLES)
    dropped = ("head", "script", "style", "nav", "svg", "button", "label", "select", "footer", "iframe", "object", "template")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.inside = ""
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        classes = (given.get("class") or "").split()
        unusable = "sticky" in classes or "collapse" in classes or given.get("data-toggle") == "collapse"
        if self.inside:
            self.depth += tag == self.inside
        elif tag in self.dropped or unusable:
            self.inside, self.depth = tag, 1
        elif tag in self.kept:
            shown = "".join(f' {key}="{html.escape(value)}"' for key, value in attrs if key in ("id", "class") and value)
            self.parts.append(f"<{tag}{shown}>")

    def handle_endtag(self, tag: str) -> None:
        if self.inside:
            self.depth -= tag == self.inside
            self.inside = self.inside if self.depth else ""
        elif tag in self.kept and tag not in ("br", "hr"):
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.parts.append(html.escape(data))
