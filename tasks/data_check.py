"""Judge files of conversations by the row rules alone: nothing is written, no stage needs to have run."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.chat import Encoder, control_tokens, load_tokenizer, shows_tools
from tasks.conversations import Accepted, Quarantined, Rules, judge_all
from tasks.errors import DataError
from tasks.fast_tokenizer import WORTHWHILE, FastTokenizer
from tasks.guidelines import Rulebook, load_policy
from tasks.params import Params
from tasks.paths import Workspace
from tasks.progress import counted
from tasks.readers import RawLine, find_raw_files, read_rows


@dataclass(slots=True)
class FileCheck:
    """What one file holds. `error` says why it could not be read to its end; `first` has the first row of each reason."""

    file: str
    rows: int = 0
    usable: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    error: str | None = None

    @property
    def good(self) -> bool:
        """Every row is usable, and there is one."""
        return self.error is None and 0 < self.rows == self.usable

    def lines(self) -> list[str]:
        """For a person: the counts, then each reason with its first row, the most frequent first."""
        told = [f"{self.file}: {self.rows} rows, {self.usable} usable"]
        told += [
            f"  {count} {reason}, first {self.first[reason]}"
            for reason, count in sorted(self.reasons.items(), key=lambda item: -item[1])
        ]
        return told + ([f"  {self.error}"] if self.error else [])

    def add(self, verdict: Accepted | Quarantined) -> None:
        """Count one row."""
        self.rows += 1
        if isinstance(verdict, Accepted):
            self.usable += 1
        else:
            self.reasons[verdict.reason] = self.reasons.get(verdict.reason, 0) + 1
            self.first.setdefault(verdict.reason, f"{verdict.file}:{verdict.line}: {verdict.detail}")


def check_files(paths: Sequence[Path], params: Params, workspace: Workspace) -> Iterator[FileCheck]:
    """One result a file; a folder stands for the files below it. Tokens are counted if the base model was fetched.

    Raises:
        DataError: a path does not exist, a folder has no file of conversations, or the policy cannot be used.
        BaseModelError: the base model's tokenizer cannot be used.
    """
    section, guidelines = params.validation, params.guidelines
    tokenizer = load_tokenizer(workspace.base) if (workspace.base / "tokenizer.json").is_file() else None
    known = (Rulebook(guidelines), load_policy(workspace.root / guidelines.policy)) if guidelines else None
    rules = Rules(section, known, control_tokens(tokenizer) if tokenizer else (), tokenizer is None or shows_tools(tokenizer))
    files = list(_files(paths))
    large = sum(path.stat().st_size for path in files) > WORTHWHILE
    encoder = Encoder(tokenizer, FastTokenizer.make(tokenizer) if large else None) if tokenizer else None
    for path in files:
        found = FileCheck(str(path))
        of_file = rules.of(workspace.relative(path.resolve()))
        for verdict in counted(judge_all(_until_error(path, found), of_file, encoder), f"{path}: checked", sys.stderr):
            found.add(verdict)
        yield found


def _until_error(path: Path, found: FileCheck) -> Iterator[RawLine]:
    try:
        yield from read_rows(path, found.file, {})
    except DataError as error:
        found.error = str(error)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from find_raw_files(path)
        elif path.is_file():
            yield path
        else:
            raise DataError(f"{path}: no such file or folder")
