"""The wanted behaviour as lm-eval tasks: of each conversation of the test split a generated reply, and the loss of its own."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.chat import conversation, prompt_and_reply, said
from tasks.item_scores import TARGET, TARGET_LOSS
from tasks.scorers import CUT, Doc

LENGTHS = ("short", "medium", "long")


def target_docs(rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[Doc]:
    """One doc a conversation of the test split: everything before the last reply as `prompt`, the last reply as `reply`.

    An `id` that several rows have is told apart by where each of them stands. `messages` are those before that reply; `length` is
    the third of the split that they are in, by their characters.
    """
    talks = [conversation(row) for row in rows]
    texts = [prompt_and_reply(messages, tools, tokenizer) for messages, tools in talks]
    encoded = tokenizer([reply for _, reply in texts], add_special_tokens=False, return_attention_mask=False)["input_ids"]
    asked = [messages[:-1] for messages, _ in talks]
    lengths = _thirds([sum(len(said(message)) for message in messages) for messages in asked])
    times = Counter(row["id"] for row in rows)
    return [
        {
            "id": row["id"] if times[row["id"]] == 1 else f"{row['id']} ({row['source']})",
            "cluster": row["cluster"],
            "topic": row["topic"],
            "length": length,
            "messages": messages,
            "prompt": prompt,
            "reply": reply,
            "reply_tokens": len(tokens),
            "must_say": list(row["must_say"]),
        }
        for row, messages, length, (prompt, reply), tokens in zip(rows, asked, lengths, texts, encoded, strict=True)
    ]


def _thirds(sizes: Sequence[int]) -> list[str]:
    ordered = sorted(sizes)
    bounds = [ordered[len(ordered) * third // 3] for third in (1, 2)] if ordered else []
    return [LENGTHS[sum(size >= bound for bound in bounds)] for size in sizes]


def target_tasks(docs: Sequence[Doc], max_new_tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """lm-eval configurations of both halves of the suite. The replies are scored afterwards, by `tasks.scorers`."""

    def stops(doc: Doc, results: list[str]) -> dict[str, float]:
        return {"stops": float(not results[0].endswith(CUT))}

    def reply_loss(doc: Doc, results: list[tuple[float, bool]]) -> dict[str, float]:
        return {"reply_loss": -results[0][0] / doc["reply_tokens"]}

    generation = _task(TARGET, docs, stops, "stops", True) | {
        "output_type": "generate_until",
        "generation_kwargs": {"until": [], "max_gen_toks": max_new_tokens, "do_sample": False},
    }
    loss = _task(TARGET_LOSS, docs, reply_loss, "reply_loss", False) | {"output_type": "loglikelihood", "target_delimiter": ""}
    return generation, loss


def _task(name: str, docs: Sequence[Doc], score: Callable[..., dict[str, float]], metric: str, higher: bool) -> dict[str, Any]:
    keys = ("id", "cluster", "prompt", "reply", "reply_tokens")

    def dataset(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        return {"test": Dataset.from_list([{key: doc[key] for key in keys} for doc in docs])}

    return {
        "task": name,
        "custom_dataset": dataset,
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{reply}}",
        "process_results": score,
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": higher}],
        "metadata": {"version": 1},
    }
