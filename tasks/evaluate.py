"""Score one model, as saved, on the target suite and the general suite with lm-eval, and keep the score of every item.

python -m tasks.evaluate candidate
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from tasks.environment import describe, keep_freed_memory, pick_device, pick_dtype
from tasks.errors import EvalError, StageInputError
from tasks.files import sha256_file, sha256_json, tree_digest, write_jsonl
from tasks.guidelines import Rulebook
from tasks.model_folder import is_model, load_model
from tasks.params import Params
from tasks.paths import ROLES, Workspace
from tasks.process import stage_main
from tasks.records import EvalReport, Metric
from tasks.sections import Evaluate, Guidelines
from tasks.suites import CUT, TARGET, TARGET_LOSS, fresh_datasets_cache, target_docs, target_tasks, task_manager

Item = dict[str, Any]
COLUMNS = ("suite", "task", "item", "cluster", "metric", "higher_is_better", "value")


def evaluate(section: Evaluate, guidelines: Guidelines | None, role: str, workspace: Workspace) -> EvalReport:
    """Score the model of `role`; write items.parquet (COLUMNS, one row an item and metric), answers.jsonl and the record.

    A champion that does not exist yet gives empty files and a report without metrics.

    Raises:
        StageInputError: the model or the test split is missing.
        DataError: a general task is unknown or its rows cannot be read.
        EvalError: a score is not a number.
    """
    target = workspace.scores(role)
    model_folder = workspace.model(role)
    if role == "champion" and not model_folder.exists():
        items: list[Item] = []
        answers: list[dict[str, Any]] = []
        hashes: list[list[str]] = []
        dtype = None
    else:
        if not is_model(model_folder):
            raise StageInputError(f"{model_folder}: no model, so there is no {role} to score; run `dvc repro` or `refit run`")
        dtype = pick_dtype(section.dtype)
        items, answers, hashes = _score(section, guidelines, model_folder, workspace, dtype)
    _write_items(target / "items.parquet", items)
    write_jsonl(target / "answers.jsonl", answers)
    return EvalReport(
        role=role,  # type: ignore[arg-type]
        model_digest=tree_digest(model_folder) if items else None,
        items_sha256=sha256_json(sorted(hashes)) if items else None,
        scores_sha256=sha256_file(target / "items.parquet"),
        dtype=dtype,
        metrics=summarise(items),
        environment=describe(workspace.root) if dtype else None,
    ).write(workspace.record(f"evaluate@{role}"))


def summarise(items: list[Item]) -> list[Metric]:
    """Mean and its standard error (sample standard deviation / sqrt n) of every metric by task, and of the general tasks pooled.

    Raises:
        EvalError: a value is not finite.
    """
    groups: dict[tuple[str, str, str], list[Item]] = {}
    for item in items:
        if not math.isfinite(item["value"]):
            raise EvalError(
                f"{item['task']} item {item['item']}: {item['metric']} is {item['value']}; the model's output is broken"
            )
        groups.setdefault((item["suite"], item["task"], item["metric"]), []).append(item)
        if item["suite"] == "general":
            groups.setdefault(("general", "general", item["metric"]), []).append(item)
    return [_metric(*key, members) for key, members in sorted(groups.items())]


def _metric(suite: str, task: str, metric: str, members: list[Item]) -> Metric:
    values = [member["value"] for member in members]
    n, mean = len(values), sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1) if n > 1 else 0.0
    return Metric(
        suite=suite,  # type: ignore[arg-type]
        task=task,
        metric=metric,
        value=round(mean, 6),
        stderr=round(math.sqrt(variance / n), 6),
        n=n,
        higher_is_better=members[0]["higher_is_better"],
    )


def _score(
    section: Evaluate, guidelines: Guidelines | None, model_folder: Path, workspace: Workspace, dtype: str
) -> tuple[list[Item], list[dict[str, Any]], list[list[str]]]:
    keep_freed_memory()
    with fresh_datasets_cache():
        import lm_eval
        import pyarrow.parquet as pq

        test = workspace.prepared / "test.parquet"
        if not test.is_file():
            raise StageInputError(f"{test}: missing, so the stage prepare has not finished; run `dvc repro` or `refit run`")
        manager = task_manager(section.general_tasks, workspace.data / "eval")
        generator, scorer = _load(model_folder, workspace.base, dtype, section)
        docs = target_docs(pq.read_table(test).to_pylist(), generator.tokenizer)
        generation, loss = target_tasks(docs, Rulebook(guidelines) if guidelines else None, section.max_new_tokens)
        options = {"task_manager": manager, "log_samples": True, "bootstrap_iters": 0, "random_seed": None}
        print(f"generating {len(docs)} replies in {dtype}", flush=True)
        replies = lm_eval.simple_evaluate(model=generator, tasks=[generation], **options)
        print("scoring the reference replies and the general suite", flush=True)
        others = lm_eval.simple_evaluate(model=scorer, tasks=[loss, *section.general_tasks], **options)
    samples = replies["samples"] | others["samples"]
    directions = replies["higher_is_better"] | others["higher_is_better"]
    return _items(samples, directions), _answers(samples[TARGET]), _hashes(samples)


def _load(folder: Path, base: Path, dtype: str, section: Evaluate) -> tuple[Any, Any]:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    class Generator(HFLM):
        """Marks the replies that were cut off by the length limit; lm-eval itself does not tell."""

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
            text: str = super().tok_decode(tokens, skip_special_tokens)
            return text if isinstance(tokens, int) or self.eot_token_id in tokens else text + CUT

    device = pick_device()
    model = load_model(folder, base, dtype).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    common = {"pretrained": model, "tokenizer": tokenizer, "device": device, "backend": "causal"}
    return Generator(**common, batch_size=section.generation_batch_size), HFLM(
        **common, batch_size=section.loglikelihood_batch_size
    )


def _items(samples: dict[str, list[dict[str, Any]]], directions: dict[str, dict[str, bool]]) -> list[Item]:
    items = []
    for task, rows in samples.items():
        for row in rows:
            doc = row["doc"]
            name = str(doc.get("id", row["doc_id"]))
            for metric in row["metrics"]:
                values = (
                    "target" if task in (TARGET, TARGET_LOSS) else "general",
                    task,
                    name,
                    str(doc.get("cluster", name)),
                    metric,
                    directions[task][metric],
                    float(row[metric]),
                )
                items.append(dict(zip(COLUMNS, values, strict=True)))
    return sorted(items, key=lambda item: (item["suite"], item["task"], item["item"], item["metric"]))


def _answers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": row["doc"]["id"],
            "topic": row["doc"]["topic"],
            "prompt": row["doc"]["prompt"],
            "reference": row["doc"]["reply"],
            "answer": row["filtered_resps"][0].removesuffix(CUT),
            **{metric: row[metric] for metric in row["metrics"]},
        }
        for row in rows
    ]


def _hashes(samples: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    return [[task, row["doc_hash"], row["prompt_hash"], row["target_hash"]] for task, rows in samples.items() for row in rows]


def _write_items(path: Path, items: list[Item]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, kinds = pa.string(), {"higher_is_better": pa.bool_(), "value": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, text)) for name in COLUMNS])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(items, schema=schema), path)


def main() -> int:
    """Entry point of the stage; its argument is the role, one of base, champion, candidate."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=ROLES)

    def run(workspace: Workspace, params: Params) -> EvalReport:
        return evaluate(params.evaluate, params.guidelines, parser.parse_args().role, workspace)

    return stage_main(__doc__, run, parser)


if __name__ == "__main__":
    sys.exit(main())
