"""Sort the raw rows into accepted and quarantined ones, and hold the accepted ones against the expectations.

    python -m tasks.validate

Reads validate.raw with the policy of the guidelines, and the tokenizer of data/base. Writes data/validated/ (accepted.parquet,
tokenised; quarantine/REASON.jsonl; data_docs/index.html) and, last and only if the data may be used, data/reports/validate.json.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import readers
from tasks.accepted import features, schema, to_table
from tasks.chat import Encoder, control_tokens, load_tokenizer
from tasks.conversations import Accepted, Quarantined, Rules, judge_all
from tasks.errors import DataError
from tasks.expectations import check, load_expectations
from tasks.files import hash_tree, sha256_file, sha256_json
from tasks.guidelines import Policy, Rulebook, load_policy
from tasks.parallel import map_ordered
from tasks.params import Guidelines, Params, Validate
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.progress import Progress
from tasks.quarantine import Quarantine
from tasks.readers import RawLine
from tasks.records import ExpectationResult, ValidationReport
from tasks.tables import TableWriter

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 2048
"""Rows that one process judges at a time."""
SMALL = 8 << 20
"""Bytes of raw files up to which a second process would cost more time than it saves."""
UNREADABLE = "unreadable"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def validate(section: Validate, guidelines: Guidelines | None, workspace: Workspace) -> ValidationReport:
    """Run the stage, on every core where there is much to do; memory does not grow with the texts.

    Returns:
        The record, written.

    Raises:
        DataError: there is nothing to read, or a critical expectation failed; the quarantine then lies there all the same.
        StageInputError: data/base has no tokenizer.
        BaseModelError: that tokenizer cannot be used.
    """
    _remove_old_results(workspace)
    policy = load_policy(workspace.root / guidelines.policy) if guidelines else None
    paths = readers.find_raw_files(workspace.root / section.raw)
    expectations = load_expectations(workspace.root / section.expectations) if section.expectations else []
    judge = partial(_Judge, section, guidelines, policy, workspace.base)
    processes = 1 if sum(path.stat().st_size for path in paths) <= SMALL else None
    digests: dict[str, str] = {}
    masked: Counter[str] = Counter()
    quarantine = Quarantine(workspace.quarantine)
    with quarantine, TableWriter(workspace.accepted, schema()) as accepted:
        progress = Progress("validated")
        for judged in map_ordered(judge, _chunks(workspace, paths, digests), processes):
            quarantine.add(judged.quarantined)
            accepted.write(judged.accepted)
            masked.update(judged.masked)
            progress.add(judged.accepted.num_rows + len(judged.quarantined))
        progress.end()

    n_raw = accepted.rows + quarantine.rows
    if not n_raw:
        raise DataError(f"{section.raw}: {len(paths)} files without a row; add conversations or change validate.raw")
    broken = quarantine.counts[UNREADABLE]
    if broken > section.max_unreadable_files:
        raise DataError(f"{section.raw}: {broken} files could not be read to the end\n{_top_reasons(quarantine, workspace)}")
    if not accepted.rows:
        raise DataError(f"{section.raw}: none of {n_raw} rows can be used\n{_top_reasons(quarantine, workspace)}")
    frame = features(workspace.accepted) | {"quarantined_share": quarantine.rows / n_raw}
    results = check(frame, section, guidelines, policy, workspace.data_docs, expectations)
    if failed := [result for result in results if not result.success and result.severity == "critical"]:
        counts = f"{n_raw} rows, {accepted.rows} accepted, {quarantine.rows} quarantined"
        raise DataError(f"{section.raw}: refused ({counts})\n{_faults(failed)}\n{_top_reasons(quarantine, workspace)}")
    base = workspace.base
    return ValidationReport(
        raw_files=digests,
        n_raw=n_raw,
        n_accepted=accepted.rows,
        n_quarantined=quarantine.rows,
        reasons=dict(quarantine.counts.most_common()),
        masked=dict(sorted(masked.items())),
        expectations=results,
        tokenizer_digest=sha256_json({name: sha256_file(base / name) for name in _TOKENIZER_FILES if (base / name).is_file()}),
        accepted_sha256=sha256_file(workspace.accepted),
        quarantine_sha256=sha256_json(hash_tree(workspace.quarantine)),
    ).write(workspace.record("validate"))


@dataclass(frozen=True, slots=True)
class _Judged:
    accepted: "pa.Table"
    masked: list[str]
    quarantined: list[Quarantined]


class _Judge:
    """Judges chunks of lines in one process; lines that are quarantined already pass through."""

    def __init__(self, section: Validate, guidelines: Guidelines | None, policy: Policy | None, base: Path) -> None:
        tokenizer = load_tokenizer(base)
        known = (Rulebook(guidelines), policy) if guidelines and policy else None
        self._rules = Rules(known, control_tokens(tokenizer), section.max_length, section, section.columns)
        self._encoder = Encoder(tokenizer)

    def __call__(self, lines: list[RawLine | Quarantined]) -> _Judged:
        accepted: list[Accepted] = []
        quarantined = [line for line in lines if isinstance(line, Quarantined)]
        raw = (line for line in lines if isinstance(line, RawLine))
        for verdict in judge_all(raw, self._rules, self._encoder):
            (accepted if isinstance(verdict, Accepted) else quarantined).append(verdict)  # type: ignore[arg-type]
        return _Judged(to_table(accepted), [kind for row in accepted for kind in row.masked], quarantined)


def _chunks(workspace: Workspace, paths: Iterable[Path], digests: dict[str, str]) -> Iterator[list[RawLine | Quarantined]]:
    lines = (line for path in paths for line in _lines(workspace, path, digests))
    while chunk := list(islice(lines, CHUNK)):
        yield chunk


def _lines(workspace: Workspace, path: Path, digests: dict[str, str]) -> Iterator[RawLine | Quarantined]:
    """The rows of a file; where it breaks off, what stands before counts, and the break stands for the rest."""
    name = workspace.relative(path)
    if not name.isprintable():
        raise DataError(f"{name!r}: the file name is not printable UTF-8; rename the file")
    last = 0
    try:
        for line in readers.read_rows(path, name, digests):
            last = line.line
            yield line
    except DataError as error:
        yield Quarantined(name, last + 1, UNREADABLE, str(error), b"")


def _remove_old_results(workspace: Workspace) -> None:
    for path in (workspace.record("validate"), workspace.accepted):
        path.unlink(missing_ok=True)
    for folder in (workspace.quarantine, workspace.data_docs):
        shutil.rmtree(folder, ignore_errors=True)


def _faults(failed: list[ExpectationResult]) -> str:
    return "\n".join(f"{result.expectation}({result.column or 'table'}): {result.detail}" for result in failed)


def _top_reasons(quarantine: Quarantine, workspace: Workspace) -> str:
    shown = workspace.relative(workspace.quarantine)
    return "\n".join(
        [*quarantine.lines(), f"mend or remove the rows below {shown}, or change validate and guidelines in params.yaml"]
    )


def _run(workspace: Workspace, params: Params) -> ValidationReport:
    return validate(params.validation, params.guidelines, workspace)


def main() -> int:
    """Run as `python -m tasks.validate`."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
