"""Sort the raw rows into accepted and quarantined ones, and hold the accepted ones against the expectations.

    python -m tasks.validate

Reads validate.raw, guidelines.policy and the tokenizer of data/base. Writes data/validated/ (accepted.parquet, quarantine.jsonl,
data_docs/index.html) and, last and only if the data may be used, data/reports/validate.json.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path

from tasks import conversations, readers
from tasks.chat import control_tokens, count_tokens, load_tokenizer
from tasks.conversations import Accepted, Quarantined
from tasks.errors import DataError
from tasks.expectations import FEATURES, check
from tasks.files import sha256_file, write_atomic, write_jsonl
from tasks.guidelines import Rulebook, load_policy
from tasks.params import Guidelines, Validate
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.records import ExpectationResult, ValidationReport

ROW_GROUP = 16_384
TOP_REASONS = 5


def validate(section: Validate, guidelines: Guidelines, workspace: Workspace) -> ValidationReport:
    """Run the stage.

    Returns:
        The record, written.

    Raises:
        DataError: there is nothing to read, or a critical expectation failed; quarantine.jsonl then lies there all the same.
        StageInputError: data/base has no tokenizer.
        BaseModelError: that tokenizer cannot be used.
    """
    _remove_old_results(workspace)
    policy = load_policy(workspace.root / guidelines.policy)
    folder = workspace.root / section.raw
    paths = readers.find_raw_files(folder)
    tokenizer = load_tokenizer(workspace.base)
    control = control_tokens(tokenizer)
    rules = conversations.Rules(Rulebook(guidelines), policy, control, section.max_length, section, section.columns)

    digests: dict[str, str] = {}
    lines = (line for path in paths for line in _read(workspace, path, digests))
    quarantined: list[Quarantined] = []
    features: dict[str, list[str | int | float]] = {name: [] for name in FEATURES}
    verdicts = conversations.judge_all(lines, rules, partial(count_tokens, tokenizer=tokenizer))
    masked: Counter[str] = Counter()
    write_accepted(workspace.accepted, _split(verdicts, quarantined, features, masked))
    write_jsonl(workspace.quarantine, map(asdict, quarantined))

    n_accepted, n_raw = len(features["id"]), len(features["id"]) + len(quarantined)
    features["quarantined_share"] = [len(quarantined) / max(n_raw, 1)] * n_accepted
    if not n_raw:
        raise DataError(f"{section.raw}: {len(paths)} files without a row; add conversations or change validate.raw")
    if not n_accepted:
        raise DataError(f"{section.raw}: none of {n_raw} rows can be used\n{_top_reasons(quarantined, workspace)}")
    expectations = check(features, section, guidelines, policy, workspace.data_docs)
    if failed := [result for result in expectations if not result.success and result.severity == "critical"]:
        counts = f"{n_raw} rows, {n_accepted} accepted, {len(quarantined)} quarantined"
        raise DataError(f"{section.raw}: refused ({counts})\n{_faults(failed)}\n{_top_reasons(quarantined, workspace)}")
    return ValidationReport(
        raw_files=digests,
        n_raw=n_raw,
        n_accepted=n_accepted,
        n_quarantined=len(quarantined),
        reasons=dict(_reasons(quarantined)),
        masked=dict(sorted(masked.items())),
        expectations=expectations,
        accepted_sha256=sha256_file(workspace.accepted),
        quarantine_sha256=sha256_file(workspace.quarantine),
    ).write(workspace.record("validate"))


def write_accepted(path: Path, rows: Iterable[Accepted]) -> None:
    """Write the accepted rows as Parquet, atomically; the same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    message = pa.struct([pa.field("role", text, nullable=False), pa.field("content", text, nullable=False)])
    kinds = {
        "id": text,
        "source": text,
        "topic": text,
        "category": text,
        "priority": text,
        "n_tokens": pa.int64(),
        "must_say": pa.list_(text),
        "messages": pa.list_(message),
    }
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])
    stream, sink = iter(rows), pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        while group := list(islice(stream, ROW_GROUP)):
            writer.write_table(pa.table({name: [getattr(row, name) for row in group] for name in kinds}, schema=schema))
    write_atomic(path, sink.getvalue())


def _remove_old_results(workspace: Workspace) -> None:
    for path in (workspace.record("validate"), workspace.accepted, workspace.quarantine):
        path.unlink(missing_ok=True)
    shutil.rmtree(workspace.data_docs, ignore_errors=True)


def _read(workspace: Workspace, path: Path, digests: dict[str, str]) -> Iterator[readers.RawLine]:
    name = workspace.relative(path)
    if not name.isprintable():
        raise DataError(f"{name!r}: the file name is not printable UTF-8; rename the file")
    return readers.read_rows(path, name, digests)


def _split(
    verdicts: Iterable[Accepted | Quarantined],
    quarantined: list[Quarantined],
    features: dict[str, list[str | int | float]],
    masked: Counter[str],
) -> Iterator[Accepted]:
    """Pass the accepted rows on, their scalars to `features` and their masks to `masked`; the others go to `quarantined`."""
    for row in verdicts:
        if isinstance(row, Quarantined):
            quarantined.append(row)
            continue
        roles = [message["role"] for message in row.messages]
        values: dict[str, str | int] = {
            "id": row.id,
            "source": row.source,
            "topic": row.topic,
            "category": row.category,
            "priority": row.priority,
            "roles": "|".join(roles),
            "last_role": roles[-1],
            "n_messages": len(roles),
            "n_user_turns": roles.count("user"),
            "n_tokens": row.n_tokens,
            "reply_words": row.reply_words,
        }
        for name, value in values.items():
            features[name].append(value)
        masked.update(row.masked)
        yield row


def _reasons(quarantined: list[Quarantined]) -> list[tuple[str, int]]:
    """Codes and their rows, the most frequent first."""
    return sorted(Counter(row.reason for row in quarantined).items(), key=lambda item: (-item[1], item[0]))


def _faults(failed: list[ExpectationResult]) -> str:
    return "\n".join(f"{result.expectation}({result.column or 'table'}): {result.detail}" for result in failed)


def _top_reasons(quarantined: list[Quarantined], workspace: Workspace) -> str:
    shown = workspace.relative(workspace.quarantine)
    first = {row.reason: row for row in reversed(quarantined)}
    lines = [
        f"{count} {reason}, first {first[reason].file}:{first[reason].line}: {first[reason].detail}"
        for reason, count in _reasons(quarantined)[:TOP_REASONS]
    ]
    return "\n".join([*lines, f"mend or remove the rows that {shown} lists, or change validate and guidelines in params.yaml"])


def main() -> int:
    """Run as `python -m tasks.validate`."""
    return stage_main(__doc__, lambda workspace, params: validate(params.validation, params.guidelines, workspace))


if __name__ == "__main__":
    sys.exit(main())
