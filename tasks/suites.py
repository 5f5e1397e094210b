"""The target suite as lm-eval tasks, and the scorers of a reply. The general suite is YAML and JSONL in data/eval."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.chat import conversation, prompt_and_reply
from tasks.errors import DataError
from tasks.guidelines import Rulebook, missing_facts
from tasks.normalisation import normalise

CUT = "\x00cut"
"""Marks a generated reply that did not end by itself within `max_new_tokens`."""

TARGET, TARGET_LOSS = "target", "target_loss"
_GUIDELINE_SCORES = ("guideline_score", "structure", "category", "priority", "policy_facts")
Doc = dict[str, Any]


@contextmanager
def fresh_datasets_cache() -> Iterator[None]:
    """Call it before the first import of datasets: never rows that an earlier version of a file left behind."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_DATASETS_CACHE"] = cache
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        yield


def task_manager(names: Sequence[str], folder: Path) -> Any:
    """lm-eval's, with the tasks of `folder`; its own thousands of task files are only read if one of them is named.

    Raises:
        DataError: a name is neither here nor there.
    """
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    own = TaskManager(include_path=str(folder), include_defaults=False)
    manager = own if set(names) <= set(own.all_tasks) else TaskManager(include_path=str(folder))
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise DataError(f"evaluate.general_tasks: lm-eval and {folder} have no {', '.join(unknown)}")
    return manager


def general_texts(names: Sequence[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Name and normalised text (prompt and right answer) of every item of the general suite.

    Raises:
        DataError: as `task_manager`.
    """
    for name, task in task_manager(names, folder).load(list(names))["tasks"].items():
        for number, doc in enumerate(task.eval_docs):
            target = task.doc_to_target(doc)
            if isinstance(target, int) and task.config.doc_to_choice is not None:
                target = task.doc_to_choice(doc)[target]
            yield f"{name} {doc.get('id', number)}", normalise(f"{task.doc_to_text(doc)} {target}")


def target_docs(rows: list[Doc], tokenizer: Any) -> list[Doc]:
    """One doc a conversation of the test split: everything before the last reply as `prompt`, the last reply as `reply`."""
    texts = [prompt_and_reply(*conversation(row), tokenizer) for row in rows]
    encoded = tokenizer([reply for _, reply in texts], add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return [
        {
            "id": row["id"],
            "cluster": row["cluster"],
            "topic": row["topic"],
            "prompt": prompt,
            "reply": reply,
            "reply_tokens": len(tokens),
            "must_say": list(row["must_say"]),
        }
        for row, (prompt, reply), tokens in zip(rows, texts, encoded, strict=True)
    ]


def score_reply(answer: str, doc: Doc, rulebook: Rulebook | None) -> dict[str, float]:
    """Score one generated reply; every metric lies in [0, 1], higher is better.

    `exact_match` compares it with the reference reply, normalised; where there are guidelines, their metrics stand in its place.
    """
    text = answer.removesuffix(CUT)
    scores = (
        _guideline_scores(text, doc, rulebook) if rulebook else {"exact_match": float(normalise(text) == normalise(doc["reply"]))}
    )
    return {**scores, "stops": float(not answer.endswith(CUT)), "nonempty": float(bool(text.strip()))}


def _guideline_scores(answer: str, doc: Doc, rulebook: Rulebook) -> dict[str, float]:
    """`guideline_score` is the mean of structure, category, priority and policy_facts.

    Category and priority are right if they equal those of the reference; policy_facts is the share of the topic's `must_say` that
    the reply contains.
    """
    found, wanted = rulebook.parse(answer), rulebook.parse(doc["reply"])
    must_say = doc["must_say"]
    scores = {
        "structure": float(rulebook.structure_fault(answer) is None),
        "category": float(found is not None and wanted is not None and found.category == wanted.category),
        "priority": float(found is not None and wanted is not None and found.priority == wanted.priority),
        "policy_facts": 1 - len(missing_facts(answer, must_say)) / len(must_say),
    }
    return {"guideline_score": sum(scores.values()) / len(scores), **scores}


def target_tasks(docs: list[Doc], rulebook: Rulebook | None, max_new_tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """lm-eval configurations of the two halves of the target suite: the generated reply, and the loss of the reference reply."""

    def reply_scores(doc: Doc, results: list[str]) -> dict[str, float]:
        return score_reply(results[0], doc, rulebook)

    def reply_loss(doc: Doc, results: list[tuple[float, bool]]) -> dict[str, float]:
        return {"reply_loss": -results[0][0] / doc["reply_tokens"]}

    names = (*(_GUIDELINE_SCORES if rulebook else ("exact_match",)), "stops", "nonempty")
    generation = _task(TARGET, docs, reply_scores, dict.fromkeys(names, True)) | {
        "output_type": "generate_until",
        "generation_kwargs": {"until": [], "max_gen_toks": max_new_tokens, "do_sample": False},
    }
    loss = _task(TARGET_LOSS, docs, reply_loss, {"reply_loss": False}) | {"output_type": "loglikelihood", "target_delimiter": ""}
    return generation, loss


def _task(name: str, docs: list[Doc], scorer: Callable[..., dict[str, float]], metrics: dict[str, bool]) -> dict[str, Any]:
    def dataset(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        return {"test": Dataset.from_list(docs)}

    return {
        "task": name,
        "custom_dataset": dataset,
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{reply}}",
        "process_results": scorer,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": higher} for metric, higher in metrics.items()
        ],
        "metadata": {"version": 1},
    }
