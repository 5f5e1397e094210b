"""What a generated reply scores: the scorers of `evaluate.scorers`, and what every reply must do whatever they are."""

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from numbers import Real
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from tasks.errors import EvalError, ParamsError
from tasks.evaluation_sections import Evaluate, JudgeScorer
from tasks.guidelines import Rulebook, missing_facts
from tasks.normalisation import normalise
from tasks.scorer_files import load_entry_point, load_schema, shortened
from tasks.sections import Guidelines

CUT = "\x00cut"
"""Marks a generated reply that did not end by itself within `max_new_tokens`."""

Doc = dict[str, Any]
"""An item of the target suite: id, cluster, topic, prompt (rendered), reply (the reference), must_say, messages before it."""
Score = Callable[[str, Doc], dict[str, float]]
"""From a reply and its doc to metrics in [0, 1], higher is better."""

_REPEATED = 0.55
_SCALES = ((8, 128), (16, 256), (32, 512), (64, 1024))  # length of n-gram, characters at the end of the text
_SHORTEST_LOOP = 48  # characters: below, a laugh or a long number is no loop
# Characters of scripts without blanks between words (Thai, Lao, Burmese, Khmer, kana, Han), and of Hangul: its words have blanks,
# but particles and endings stick to them, so that one noun in two cases would have nothing in common. KorQuAD does the same.
_ALONE = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\ua960-\ua97f\uac00-\ud7ff"
    r"\u2e80-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_TOKEN = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}]+")


def score_replies(
    section: Evaluate, guidelines: Guidelines | None, folder: Path, docs: Sequence[Doc], answers: Sequence[str]
) -> list[dict[str, float]]:
    """The metrics of every answer, in the order of `section.reply_metrics`; each lies in [0, 1], higher is better.

    `folder` is data/eval, with what scorers name. An answer that was cut off ends with CUT, which no scorer sees.

    Raises:
        ParamsError: as `check_scorers`.
        EvalError: a scorer of the user raises, or gives no number in [0, 1]; a judge refuses, or gives no verdict.
        TransientError: a judge cannot be reached.
    """
    scorers = _build(section, guidelines, folder, _MAKERS)
    texts = [answer.removesuffix(CUT) for answer in answers]
    found = [_hygiene(answer) for answer in answers]
    for doc, text, scores in zip(docs, texts, found, strict=True):
        for score in scorers:
            scores |= score(text, doc)
    for name, scorer in section.scorers.items():
        if isinstance(scorer, JudgeScorer):  # last: nobody pays for verdicts beside which another scorer fails
            from tasks.judge import judge_replies

            for scores, verdict in zip(found, judge_replies(scorer, docs, texts), strict=True):
                scores[name] = verdict
    return [{metric: scores[metric] for metric in section.reply_metrics} for scores in found]


def check_scorers(section: Evaluate, folder: Path) -> None:
    """All that can be known of the scorers before a model is loaded, but for a judge, which `tasks.judge` asks.

    Raises:
        ParamsError: a line for each schema that is no valid one in `folder`, and each entry point that cannot be called.
    """
    _build(section, None, folder, ("json_schema", "python"))  # the types that need something beside params.yaml


class _Asked(NamedTuple):
    """What a scorer is made of."""

    name: str
    scorer: Any
    guidelines: Guidelines | None
    folder: Path


def _build(section: Evaluate, guidelines: Guidelines | None, folder: Path, types: Collection[str]) -> list[Score]:
    built, faults = [], []
    for name, scorer in section.scorers.items():
        if scorer.type in types:
            try:
                built.append(_MAKERS[scorer.type](_Asked(name, scorer, guidelines, folder)))
            except ParamsError as error:
                faults.append(f"evaluate.scorers.{name}: {error}")
    if faults:
        raise ParamsError("\n".join(faults))
    return built


def _hygiene(answer: str) -> dict[str, float]:
    text = answer.removesuffix(CUT)
    return {
        "stops": float(not answer.endswith(CUT)),
        "nonempty": float(bool(text.strip())),
        "no_repetition": float(not _runs_in_circles(text)),
    }


def _runs_in_circles(text: str) -> bool:
    """Whether a text ends in a loop: the share of repeated n-grams among its last characters is above 0.55.

    The measure is seq-rep-n of Welleck et al. 2020 (arXiv 1908.04319) on characters, so that it suits any script. It looks at the
    end, since a model that loops goes on until it is cut off, and at four scales, since only a long n-gram tells a long loop from
    rows of JSON or of a table. Measured, cut anywhere: at most 0.07 on the project's own replies, 0.20 on Korean, 0.25 on English
    questions, 0.28 on long answers, 0.53 on code and Markdown. Of loops of 1 to 130 characters, four rounds or more, that filled
    the last 130 of 230 characters, 200 of 400 or 300 of 2,000, none was missed.
    """
    if len(text) < _SHORTEST_LOOP:
        return False
    for length, end in _SCALES:
        grams = [text[start : start + length] for start in range(max(0, len(text) - end), len(text) - length + 1)]
        if grams and 1 - len(set(grams)) / len(grams) > _REPEATED:
            return True
    return False


def _guidelines(asked: _Asked) -> Score:
    """The mean of its four parts.

    Category and priority must equal those of the reference; policy_facts is the share of `must_say` that the reply contains.
    """
    if asked.guidelines is None:
        raise ParamsError("of the type guidelines, and guidelines is null; take another type")
    rulebook = Rulebook(asked.guidelines)

    def score(answer: str, doc: Doc) -> dict[str, float]:
        found, wanted = rulebook.parse(answer), rulebook.parse(doc["reply"])
        must_say = doc["must_say"]
        parts = {
            "structure": float(rulebook.structure_fault(answer) is None),
            "category": float(found is not None and wanted is not None and found.category == wanted.category),
            "priority": float(found is not None and wanted is not None and found.priority == wanted.priority),
            "policy_facts": 1 - len(missing_facts(answer, must_say)) / len(must_say),
        }
        return {asked.name: sum(parts.values()) / len(parts), **parts}

    return score


def _exact_match(asked: _Asked) -> Score:
    return lambda answer, doc: {asked.name: float(normalise(answer) == normalise(doc["reply"]))}


def _regex(asked: _Asked) -> Score:
    """What is found must be equal; nothing found in both is equal too."""
    pattern = re.compile(asked.scorer.pattern)
    group = min(1, pattern.groups)

    def found(text: str) -> tuple[str | None, ...]:
        match = pattern.search(text)
        return (match[group],) if match else ()

    return lambda answer, doc: {asked.name: float(found(answer) == found(doc["reply"]))}


def _contains(asked: _Asked) -> Score:
    texts = list(map(_folded, asked.scorer.texts))
    return lambda answer, doc: {asked.name: sum(text in _folded(answer) for text in texts) / len(texts)}


def _omits(asked: _Asked) -> Score:
    texts = list(map(_folded, asked.scorer.texts))
    return lambda answer, doc: {asked.name: float(not any(text in _folded(answer) for text in texts))}


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _token_f1(asked: _Asked) -> Score:
    """F1 over tokens as multisets, as SQuAD has it (Rajpurkar et al. 2016)."""

    def score(answer: str, doc: Doc) -> dict[str, float]:
        found, wanted = Counter(_tokens(answer)), Counter(_tokens(doc["reply"]))
        total = found.total() + wanted.total()
        return {asked.name: 2 * (found & wanted).total() / total if total else 1.0}

    return score


def _tokens(text: str) -> list[str]:
    """Words, normalised; single characters where words cannot be told by blanks."""
    return _TOKEN.findall(normalise(text))


def _rouge_l(asked: _Asked) -> Score:
    """F1 by the longest common subsequence of tokens (Lin 2004, by rouge_score, whose own tokens are Latin letters only)."""
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    rouge = RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=_tokens))
    return lambda answer, doc: {asked.name: float(rouge.score(doc["reply"], answer)["rougeL"].fmeasure)}


def _chrf(asked: _Asked) -> Score:
    """Character n-gram F-score (Popović 2015, by sacrebleu), from 0 to 1."""
    from sacrebleu.metrics.chrf import CHRF

    chrf = CHRF()
    return lambda answer, doc: {asked.name: min(1.0, chrf.sentence_score(answer, [doc["reply"]]).score / 100)}


def _json_schema(asked: _Asked) -> Score:
    """The whole reply must be JSON: a fence around it is one of the things that a program could not read."""
    validator = load_schema(asked.scorer.file, asked.folder)

    def score(answer: str, doc: Doc) -> dict[str, float]:
        try:
            return {asked.name: float(validator.is_valid(json.loads(answer.strip(), parse_constant=int)))}
        except (ValueError, RecursionError, OverflowError):  # also NaN, which int refuses, too deep nesting, too large a number
            return {asked.name: 0.0}

    return score


def _python(asked: _Asked) -> Score:
    function = load_entry_point(asked.scorer.entry_point, asked.folder)

    def score(answer: str, doc: Doc) -> dict[str, float]:
        where = f"evaluate.scorers.{asked.name}: {asked.scorer.entry_point}: item {doc['id']}"
        try:
            value = function(answer, deepcopy(doc))
            number = float(value) if isinstance(value, Real) else math.nan
        except (Exception, SystemExit) as error:
            raise EvalError(f"{where}: raised {type(error).__name__}: {shortened(error)}; wanted a number from 0 to 1") from error
        if not 0 <= number <= 1:
            raise EvalError(f"{where}: found {shortened(repr(value))}, wanted a number from 0 to 1; mend the function")
        return {asked.name: number}

    return score


_MAKERS: dict[str, Callable[[_Asked], Score]] = {
    "guidelines": _guidelines,
    "exact_match": _exact_match,
    "regex": _regex,
    "json_schema": _json_schema,
    "contains": _contains,
    "omits": _omits,
    "rouge_l": _rouge_l,
    "chrf": _chrf,
    "token_f1": _token_f1,
    "python": _python,
}
