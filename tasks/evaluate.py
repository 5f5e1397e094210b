"""Score one model, as saved, on the target suite and the general suite with lm-eval, and keep the score of every item.

python -m tasks.evaluate candidate
"""

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.chat import load_tokenizer
from tasks.environment import describe, keep_freed_memory, pick_device, pick_dtype
from tasks.errors import EvalError, StageInputError
from tasks.eval_tasks import LoadedTask, fresh_datasets_cache, load_configs, load_tasks, metric_name
from tasks.evaluation_records import EvalReport, Metric, SuiteTask
from tasks.evaluation_sections import REPLY_LOSS, Evaluate
from tasks.files import sha256_file, sha256_json, tree_digest, write_jsonl
from tasks.item_scores import TARGET, TARGET_LOSS, Item
from tasks.language import language_of
from tasks.model_folder import is_model, load_model
from tasks.params import Params
from tasks.paths import ROLES, Workspace
from tasks.process import stage_main
from tasks.scorers import CUT, Doc, score_replies
from tasks.sections import Guidelines
from tasks.target_suite import target_docs, target_tasks


@dataclass(frozen=True, slots=True)
class _Scored:
    items: Sequence[Item] = ()
    answers: Sequence[dict[str, Any]] = ()
    tasks: Sequence[SuiteTask] = ()

    def items_sha256(self) -> str:
        """Changes with any prompt, target or version of a task: what differs in it cannot be compared."""
        versions = {task.task: task.version for task in self.tasks}
        return sha256_json(sorted({(one.task, versions.get(one.task, ""), one.item, one.hash) for one in self.items}))


def evaluate(section: Evaluate, guidelines: Guidelines | None, role: str, workspace: Workspace) -> EvalReport:
    """Score the model of `role`; write items.parquet (a row an item and metric, see `Item`), answers.jsonl and the record.

    A champion or a best version that does not exist gives empty files and a report without metrics.

    Raises:
        StageInputError: the model or the test split is missing.
        DataError: an eval suite cannot be loaded.
        EvalError: a score is not a number, or a scorer of the user fails.
        BaseModelError: the tokenizer cannot be loaded, or has no chat template.
    """
    target, folder = workspace.scores(role), workspace.model(role)
    absent = role in ("champion", "best") and not folder.exists()
    if not absent and not is_model(folder):
        raise StageInputError(f"{folder}: no model, so there is no {role} to score; run `dvc repro` or `refit run`")
    dtype = None if absent else pick_dtype(section.dtype)
    scored = _score(section, guidelines, folder, workspace, dtype) if dtype else _Scored()
    _write_items(target / "items.parquet", scored.items)
    write_jsonl(target / "answers.jsonl", scored.answers)
    return EvalReport(
        role=role,  # type: ignore[arg-type]
        model_digest=None if absent else tree_digest(folder),
        items_sha256=None if absent else scored.items_sha256(),
        scores_sha256=sha256_file(target / "items.parquet"),
        dtype=dtype,
        tasks=list(scored.tasks),
        metrics=summarise(scored.items),
        environment=None if absent else describe(workspace.root),
    ).write(workspace.record(f"evaluate@{role}"))


def summarise(items: Iterable[Item]) -> list[Metric]:
    """Mean and its standard error (sample standard deviation / sqrt n) of every metric by task, and of the general tasks pooled.

    Raises:
        EvalError: a value is not finite.
    """
    groups: dict[tuple[str, str, str], list[Item]] = {}
    for item in items:
        if not math.isfinite(item.value):
            raise EvalError(f"{item.task} item {item.item}: {item.metric} is {item.value}; the model's output is broken")
        groups.setdefault((item.suite, item.task, item.metric), []).append(item)
        if item.suite == "general":
            groups.setdefault(("general", "general", item.metric), []).append(item)
    return [_metric(*key, members) for key, members in sorted(groups.items())]


def _metric(suite: str, task: str, metric: str, members: Sequence[Item]) -> Metric:
    values = [member.value for member in members]
    n, mean = len(values), sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1) if n > 1 else 0.0
    return Metric(
        suite=suite,  # type: ignore[arg-type]
        task=task,
        metric=metric,
        value=round(mean, 6),
        stderr=round(math.sqrt(variance / n), 6),
        n=n,
        higher_is_better=members[0].higher_is_better,
    )


def _score(section: Evaluate, guidelines: Guidelines | None, folder: Path, workspace: Workspace, dtype: str) -> _Scored:
    keep_freed_memory()
    own = workspace.data / "eval"
    with fresh_datasets_cache():
        tasks = load_tasks(section, own, look_at_items=False)
        described = [task.described() for task in tasks]
        tokenizer = load_tokenizer(folder)
        docs = target_docs(_test_rows(workspace), tokenizer)
        generation, loss = load_configs(target_tasks(docs, section.max_new_tokens), own)
        generator, scorer = _load(folder, workspace.base, tokenizer, dtype, section)
        print(f"generating {len(docs)} replies in {dtype}", flush=True)
        replies = _run_tasks(generator, [generation])[TARGET]
        print(f"scoring the reference replies and {sum(task.n_items for task in described)} items", flush=True)
        samples = _run_all(scorer, loss, tasks)
        losses = samples[TARGET_LOSS]
    answers = [row["filtered_resps"][0] for row in replies]
    scores = score_replies(section, guidelines, own, docs, answers)
    slices = [(doc["topic"] or "", _language(doc), doc["length"]) for doc in docs]
    reply_losses = [{REPLY_LOSS: row[REPLY_LOSS]} for row in losses]
    items = [
        *_target_items(TARGET, docs, slices, replies, scores, higher_is_better=True),
        *_target_items(TARGET_LOSS, docs, slices, losses, reply_losses, higher_is_better=False),
        *(item for task in tasks for item in _task_items(task, samples[task.name])),
    ]
    return _Scored(sorted(items), _answers(docs, answers, scores), described)


def _test_rows(workspace: Workspace) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    test = workspace.prepared / "test.parquet"
    if not test.is_file():
        raise StageInputError(f"{test}: missing, so the stage prepare has not finished; run `dvc repro` or `refit run`")
    rows: list[dict[str, Any]] = pq.read_table(test).to_pylist()
    return rows


def _load(folder: Path, base: Path, tokenizer: Any, dtype: str, section: Evaluate) -> tuple[Any, Any]:
    from lm_eval.models.huggingface import HFLM

    class Generator(HFLM):
        """Marks the replies that were cut off by the length limit; lm-eval itself does not tell."""

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
            text: str = super().tok_decode(tokens, skip_special_tokens)
            return text if isinstance(tokens, int) or self.eot_token_id in tokens else text + CUT

    device = pick_device()
    model = load_model(folder, base, dtype).to(device).eval()
    common = {"pretrained": model, "tokenizer": tokenizer, "device": device, "backend": "causal"}
    return Generator(**common, batch_size=section.generation_batch_size), HFLM(
        **common, batch_size=section.loglikelihood_batch_size
    )


def _run_tasks(
    model: Any, tasks: Sequence[Any], apply_chat_template: bool = False, limit: int | None = None
) -> dict[str, list[dict[str, Any]]]:
    import lm_eval

    found: dict[str, list[dict[str, Any]]] = lm_eval.evaluate(
        lm=model,
        task_dict={"tasks": {task.task_name: task for task in tasks}},
        limit=limit,
        bootstrap_iters=0,
        apply_chat_template=apply_chat_template,
        fewshot_as_multiturn=apply_chat_template,
    )["samples"]
    return found


def _run_all(model: Any, loss: Any, tasks: Sequence[LoadedTask]) -> dict[str, list[dict[str, Any]]]:
    """Tasks with the same options in one go, so that lm-eval batches over all of them."""
    together: dict[tuple[bool, int | None], list[Any]] = {(False, None): [loss]}
    for task in tasks:
        together.setdefault((task.entry.apply_chat_template, task.entry.limit), []).append(task.task)
    samples: dict[str, list[dict[str, Any]]] = {}
    for options, members in together.items():
        samples |= _run_tasks(model, members, *options)
    return samples


def _language(doc: Doc) -> str:
    return language_of(" ".join(message["content"] for message in doc["messages"] if message["role"] == "user"))


def _target_items(
    task: str,
    docs: Sequence[Doc],
    slices: Sequence[tuple[str, str, str]],
    rows: Sequence[Mapping[str, Any]],
    scores: Sequence[Mapping[str, float]],
    higher_is_better: bool,
) -> Iterable[Item]:
    for doc, parts, row, found in zip(docs, slices, rows, scores, strict=True):
        for metric, value in found.items():
            yield Item("target", task, doc["id"], _hash(row), doc["cluster"], *parts, metric, higher_is_better, float(value))


def _task_items(task: LoadedTask, rows: Sequence[Mapping[str, Any]]) -> Iterable[Item]:
    directions = task.task.higher_is_better()
    for row in rows:
        name = task.item_names[row["doc_id"]]
        cluster = str(row["doc"].get("cluster", name))
        for metric in row["metrics"]:
            if (full := metric_name(metric, row["filter"])) in task.metrics:
                found = (full, directions[metric], float(row[metric]))
                yield Item(task.suite, task.name, name, _hash(row), cluster, "", "", "", *found)


def _hash(row: Mapping[str, Any]) -> str:
    return sha256_json([row["doc_hash"], row["prompt_hash"], row["target_hash"]])[:16]


def _answers(docs: Sequence[Doc], answers: Sequence[str], scores: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    return [
        {
            "id": doc["id"],
            "topic": doc["topic"],
            "prompt": doc["prompt"],
            "reference": doc["reply"],
            "answer": answer.removesuffix(CUT),
            **found,
        }
        for doc, answer, found in zip(docs, answers, scores, strict=True)
    ]


def _write_items(path: Path, items: Sequence[Item]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"higher_is_better": pa.bool_(), "value": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in Item._fields])
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = zip(*items, strict=True) if items else [()] * len(Item._fields)
    pq.write_table(pa.table(list(map(list, columns)), schema=schema), path)


def main() -> int:
    """Entry point of the stage; its argument is the role, one of base, champion, best, candidate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=ROLES)

    def run(workspace: Workspace, params: Params) -> EvalReport:
        return evaluate(params.evaluate, params.guidelines, parser.parse_args().role, workspace)

    return stage_main(__doc__, run, parser)


if __name__ == "__main__":
    sys.exit(main())
