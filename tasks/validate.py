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
from pathlib import Path
from typing import TYPE_CHECKING

from tasks import readers
from tasks.accepted import features, schema, to_table
from tasks.chat import Encoder, control_tokens, load_tokenizer, shows_tools
from tasks.conversations import Accepted, Quarantined, Rules, judge_all
from tasks.errors import DataError
from tasks.expectations import check, load_expectations
from tasks.fast_tokenizer import WORTHWHILE, FastTokenizer
from tasks.files import hash_tree, sha256_file, sha256_json
from tasks.guidelines import Policy, Rulebook, load_policy
from tasks.parallel import map_ordered
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.progress import Progress
from tasks.quarantine import Quarantine
from tasks.readers import RawLine
from tasks.records import ExpectationResult, ValidationReport
from tasks.sections import Guidelines, Validate
from tasks.tables import TableWriter

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 2048
CHUNK_BYTES = 8 << 20
"""Rows that one process judges at a time, and their bytes, whichever comes first."""
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
    own = load_expectations(workspace.root / section.expectations) if section.expectations else []
    digests: dict[str, str] = {}
    judged = _judge(section, guidelines, policy, workspace, paths, digests)
    if fault := _unusable(judged, section, len(paths)):
        raise DataError("\n".join([f"{section.raw}: {fault}", *_advice(judged.quarantine, workspace)]))
    n_raw, quarantine = judged.n_raw, judged.quarantine
    frame = features(workspace.accepted) | {"quarantined_share": quarantine.rows / n_raw}
    expectations = check(frame, section, guidelines, policy, workspace.data_docs, own)
    if failed := [result for result in expectations if not result.success and result.severity == "critical"]:
        counts = f"{n_raw} rows, {judged.n_accepted} accepted, {quarantine.rows} quarantined"
        raise DataError("\n".join([f"{section.raw}: refused ({counts})", *map(_fault, failed), *_advice(quarantine, workspace)]))
    base = workspace.base
    return ValidationReport(
        raw_files=digests,
        n_raw=n_raw,
        n_accepted=judged.n_accepted,
        n_quarantined=quarantine.rows,
        reasons=dict(quarantine.counts.most_common()),
        masked=dict(sorted(judged.masked.items())),
        expectations=expectations,
        tokenizer_digest=sha256_json({name: sha256_file(base / name) for name in _TOKENIZER_FILES if (base / name).is_file()}),
        accepted_sha256=sha256_file(workspace.accepted),
        quarantine_sha256=sha256_json(hash_tree(workspace.quarantine)),
    ).write(workspace.record("validate"))


@dataclass(frozen=True, slots=True)
class _Judged:
    """What became of all rows; `masked` counts rows by the kind of what was masked in them."""

    n_accepted: int
    masked: Counter[str]
    quarantine: Quarantine

    @property
    def n_raw(self) -> int:
        return self.n_accepted + self.quarantine.rows


def _judge(
    section: Validate,
    guidelines: Guidelines | None,
    policy: Policy | None,
    workspace: Workspace,
    paths: list[Path],
    digests: dict[str, str],
) -> _Judged:
    """Write accepted.parquet and the quarantine, and for each file that was read to its end its sha256 into `digests`."""
    size = sum(path.stat().st_size for path in paths)
    judge = partial(_Worker, section, guidelines, policy, workspace.base, fast=size > WORTHWHILE)
    masked: Counter[str] = Counter()
    progress = Progress("validated")
    with Quarantine(workspace.quarantine) as quarantine, TableWriter(workspace.accepted, schema()) as accepted:
        for chunk in map_ordered(judge, _chunks(workspace, paths, digests), 1 if size <= SMALL else None):
            quarantine.add(chunk.quarantined)
            accepted.write(chunk.accepted)
            masked.update(chunk.masked)
            progress.add(chunk.accepted.num_rows + len(chunk.quarantined))
        progress.end()
    return _Judged(accepted.rows, masked, quarantine)


def _unusable(judged: _Judged, section: Validate, n_files: int) -> str | None:
    """Why there is nothing for expectations to hold."""
    if not judged.n_raw:
        return f"{n_files} files without a row; add conversations or change validate.raw"
    if (broken := judged.quarantine.counts[UNREADABLE]) > section.max_unreadable_files:
        return f"{broken} files could not be read to the end"
    return None if judged.n_accepted else f"none of {judged.n_raw} rows can be used"


@dataclass(frozen=True, slots=True)
class _Chunk:
    accepted: "pa.Table"
    masked: list[str]
    quarantined: list[Quarantined]


class _Worker:
    """Judges chunks of lines in one process; lines that are quarantined already pass through."""

    def __init__(
        self, section: Validate, guidelines: Guidelines | None, policy: Policy | None, base: Path, *, fast: bool
    ) -> None:
        tokenizer = load_tokenizer(base)
        known = (Rulebook(guidelines), policy) if guidelines and policy else None
        self._rules = Rules(section, known, control_tokens(tokenizer), shows_tools(tokenizer))
        self._encoder = Encoder(tokenizer, FastTokenizer.make(tokenizer) if fast else None)

    def __call__(self, lines: list[RawLine | Quarantined]) -> _Chunk:
        accepted: list[Accepted] = []
        quarantined = [line for line in lines if isinstance(line, Quarantined)]
        raw = (line for line in lines if isinstance(line, RawLine))
        for verdict in judge_all(raw, self._rules, self._encoder):
            (accepted if isinstance(verdict, Accepted) else quarantined).append(verdict)  # type: ignore[arg-type]
        return _Chunk(to_table(accepted), [kind for row in accepted for kind in row.masked], quarantined)


def _chunks(workspace: Workspace, paths: Iterable[Path], digests: dict[str, str]) -> Iterator[list[RawLine | Quarantined]]:
    chunk: list[RawLine | Quarantined] = []
    size = 0
    for line in (line for path in paths for line in _lines(workspace, path, digests)):
        chunk.append(line)
        size += len(line.data) if isinstance(line, RawLine) else 0
        if len(chunk) == CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
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
        if not last:
            print(f"{name}: no row in it", flush=True)
    except DataError as error:
        yield Quarantined(name, last + 1, UNREADABLE, str(error), b"")


def _remove_old_results(workspace: Workspace) -> None:
    for path in (workspace.record("validate"), workspace.accepted):
        path.unlink(missing_ok=True)
    for folder in (workspace.quarantine, workspace.data_docs):
        shutil.rmtree(folder, ignore_errors=True)


def _fault(result: ExpectationResult) -> str:
    return f"{result.expectation}({result.column or 'table'}): {result.detail}"


def _advice(quarantine: Quarantine, workspace: Workspace) -> list[str]:
    if not quarantine.rows:
        return []
    shown = workspace.relative(workspace.quarantine)
    return [*quarantine.lines(), f"mend or remove the rows below {shown}, or change validate and guidelines in params.yaml"]


def _run(workspace: Workspace, params: Params) -> ValidationReport:
    return validate(params.validation, params.guidelines, workspace)


def main() -> int:
    """Run as `python -m tasks.validate`."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
