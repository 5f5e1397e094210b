"""The target suite as lm-eval tasks, and the scorers of a reply. The general suite is YAML and JSONL in data/eval."""

from collections.abc import Callable
from typing import Any

from tasks.chat import prompt_text
from tasks.guidelines import Rulebook, missing_facts

CUT = "\x00cut"
"""Marks a generated reply that did not end by itself within `max_new_tokens`."""

TARGET, TARGET_LOSS = "target", "target_loss"
_HIGHER_IS_BETTER = {
    "guideline_score": True,
    "structure": True,
    "category": True,
    "priority": True,
    "policy_facts": True,
    "stops": True,
    "nonempty": True,
}
Doc = dict[str, Any]


def target_docs(rows: list[Doc], tokenizer: Any) -> list[Doc]:
    """One doc a conversation of the test split: everything before the last reply as `prompt`, the last reply as `reply`."""
    return [
        {
            "id": row["id"],
            "cluster": row["cluster"],
            "topic": row["topic"],
            "prompt": prompt_text(row["messages"][:-1], tokenizer),
            "reply": row["messages"][-1]["content"],
            "reply_tokens": len(tokenizer(row["messages"][-1]["content"], add_special_tokens=False)["input_ids"]),
            "must_say": list(row["must_say"]),
        }
        for row in rows
    ]


def score_reply(answer: str, doc: Doc, rulebook: Rulebook) -> dict[str, float]:
    """Score one generated reply against the guidelines and the reference reply; every metric lies in [0, 1], higher is better.

    `guideline_score` is the mean of structure, category, priority and policy_facts. Category and priority are right if they equal
    those of the reference; policy_facts is the share of the topic's `must_say` that the reply contains.
    """
    stops = not answer.endswith(CUT)
    answer = answer.removesuffix(CUT)
    found, wanted = rulebook.parse(answer), rulebook.parse(doc["reply"])
    must_say = doc["must_say"]
    scores = {
        "structure": float(rulebook.structure_fault(answer) is None),
        "category": float(found is not None and wanted is not None and found.category == wanted.category),
        "priority": float(found is not None and wanted is not None and found.priority == wanted.priority),
        "policy_facts": 1 - len(missing_facts(answer, must_say)) / len(must_say),
    }
    return {
        "guideline_score": sum(scores.values()) / len(scores),
        **scores,
        "stops": float(stops),
        "nonempty": float(bool(answer.strip())),
    }


def target_tasks(docs: list[Doc], rulebook: Rulebook, max_new_tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """lm-eval configurations of the two halves of the target suite: the generated reply, and the loss of the reference reply."""

    def reply_scores(doc: Doc, results: list[str]) -> dict[str, float]:
        return score_reply(results[0], doc, rulebook)

    def reply_loss(doc: Doc, results: list[tuple[float, bool]]) -> dict[str, float]:
        return {"reply_loss": -results[0][0] / doc["reply_tokens"]}

    generation = _task(TARGET, docs, reply_scores, _HIGHER_IS_BETTER) | {
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
