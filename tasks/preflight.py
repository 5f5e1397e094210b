"""What would stop a run later on, asked before any costly work: data, base model, registry, places to write down, room, gate."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.base_source import check_reachable
from tasks.chat import load_tokenizer
from tasks.dvc_repo import dvc_repo
from tasks.errors import InputError, PipelineError, TransientError
from tasks.evaluation_records import SuitesReport, SuiteTask, limited
from tasks.evaluation_sections import JudgeScorer
from tasks.guidelines import load_policy
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import parse_error
from tasks.readers import find_raw_files
from tasks.records import BaseModelRecord, PreparedDataset
from tasks.registry import TRAINING, Registry, open_registry
from tasks.sections import FolderBase
from tasks.sft_config import asks_more
from tasks.statistics import power_at_no_difference, unseen_share
from tasks.target_suite import target_docs

_GIGABYTE = 1 << 30
_ROWS_READ = 64  # of the test split, by the champion's tokenizer and by the base model's
_COPIES = 8
"""Of the base model on the disk: base, candidate, champion and published version, most of them once more in DVC's cache."""
_FIRST_RUN = 2 * _GIGABYTE
_MEMORY, _LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
_ALL_THE_SAME = "gate.min_power: 0 begins a run all the same"
_DISCORDANT = 0.1
"""Share of items that two like models answer differently; 7 % were seen between the default base model and its candidate."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, and what was found; `fault` if that would stop a run."""

    name: str
    found: str
    fault: bool

    def line(self) -> str:
        mark = "FAULT" if self.fault else "ok"
        return f"{mark:<6} {self.name:<10} {self.found.replace(chr(10), chr(10) + ' ' * 18)}"


def preflight(workspace: Workspace, params: Params) -> None:
    """Ask for everything that takes no more than seconds.

    Raises:
        PipelineError: the only fault, of its own type; or the first of some that another try may cure.
        InputError: several faults, each from a line of its own.
    """
    faults = [error for _, error in _ask(workspace, params, _CHECKS) if isinstance(error, PipelineError)]
    if len(faults) == 1 or (faults and all(isinstance(error, TransientError) for error in faults)):
        raise faults[0]
    if faults:
        raise InputError("\n".join(["this run could not end well; nothing was run", *map(str, faults)]))


def before_training(workspace: Workspace, params: Params) -> None:
    """What only the base model and the prepared data of this run tell, asked once they are there.

    Raises:
        InputError: there is too little memory, or the test split has too few rows for any candidate, or for one that comes
            after a champion, to pass, or the champion could not be compared with any.
        RegistryError: the champion's version is damaged.
    """
    _memory(workspace, params)
    _same_items(workspace, open_registry(params.push, workspace))
    rows, least = PreparedDataset.read(workspace.record("prepare")).splits["test"].rows, params.gate.min_target_items
    few = [_too_few("target", rows, least)] if rows < least else []
    faults = [*few, *_narrow_margins(params, rows)]
    if faults and params.gate.min_power > 0:
        raise InputError("\n".join([*faults, _ALL_THE_SAME]))


def _same_items(workspace: Workspace, registry: Registry) -> None:
    """Refuse a base model that reads the test split otherwise than the champion does: the gate compares scores of equal items."""
    import pyarrow.parquet as pq

    pointer, base = registry.champion(), BaseModelRecord.read(workspace.record("base"))
    if pointer is None or json.loads(registry.document(pointer.version, TRAINING) or b"{}").get("base_digest") == base.digest:
        return
    with TemporaryDirectory() as folder:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            if data := registry.document(pointer.version, name):
                (Path(folder) / name).write_bytes(data)
        tokenizers = [load_tokenizer(Path(folder)), load_tokenizer(workspace.base)]
    rows = next(pq.ParquetFile(workspace.prepared / "test.parquet").iter_batches(_ROWS_READ)).to_pylist()
    theirs, ours = (target_docs(rows, tokenizer) for tokenizer in tokenizers)
    if theirs != ours:
        raise InputError(
            f"{registry.name}: {pointer.version} has another tokenizer or chat template than {base.source}, so no candidate "
            "could be compared with it: publish apart, by another push.path or push.repo_id"
        )


def _narrow_margins(params: Params, rows: int) -> list[str]:
    """Of the rules against published versions, those that no candidate meets even if it gives the same answers, for so few rows
    (reference: `unseen_share`). They are about shares: of a reply's loss nobody knows beforehand how far it may be off.
    """
    section, open_loss = params.gate, unseen_share(rows, params.gate.confidence)
    margins = {"champion": section.champion.margin, "best": section.best.margin}
    if section.champion.promote_if == "better":
        del margins["champion"]
    if not section.learned.keys() & set(params.evaluate.reply_metrics):
        margins.clear()
    return [
        f"gate.{role}.margin is {margin:g}, and {rows} test rows leave a loss of {open_loss:.3f} possible even where no answer "
        f"changed: no candidate could pass against a {role}; add rows or widen the margin"
        for role, margin in margins.items()
        if margin <= open_loss
    ]


def examine(workspace: Workspace, params: Params) -> Iterator[Check]:
    """Every check, the slow ones too, as each is done."""
    for name, found in _ask(workspace, params, _CHECKS | _THOROUGH):
        yield Check(name, str(found), isinstance(found, PipelineError))


_Ask = Callable[[Workspace, Params], str]


def _ask(workspace: Workspace, params: Params, checks: dict[str, _Ask]) -> Iterator[tuple[str, str | PipelineError]]:
    for name, check in checks.items():
        try:
            yield name, check(workspace, params)
        except PipelineError as error:
            yield name, error


def _data(workspace: Workspace, params: Params) -> str:
    raw = workspace.root / params.validation.raw
    files = find_raw_files(raw)
    if params.guidelines:
        load_policy(workspace.root / params.guidelines.policy)
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB in {params.validation.raw}"


def _base(workspace: Workspace, params: Params) -> str:
    if isinstance(params.base, FolderBase) and not (workspace.root / params.base.path / "config.json").is_file():
        raise InputError(f"base.path {params.base.path}: no config.json there; correct params.yaml")
    if _fetched(workspace, params):
        return f"{params.base.named} was fetched"
    if not isinstance(params.base, FolderBase):
        check_reachable(params.base)
    return f"{params.base.named} is there, and is fetched by the next run"


def _fetched(workspace: Workspace, params: Params) -> BaseModelRecord | None:
    """The base model in data/base, if it is the one of params.yaml."""
    path = workspace.record("base")
    record = BaseModelRecord.read(path) if path.is_file() else None
    return record if record and record.source == params.base.named else None


def _train(workspace: Workspace, params: Params) -> str:
    """TRL itself is asked, in a process of its own so that this one stays small, where the section names what only it knows."""
    if not asks_more(params.train):
        return f"train.method {params.train.method}"
    done = subprocess.run(
        [sys.executable, "-m", "tasks.sft_config"], cwd=workspace.root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise parse_error(done.stderr.splitlines()) or InputError(f"train: {done.stderr.strip() or 'the check of it was killed'}")
    return f"train.method {params.train.method}; TRL takes {', '.join(params.train.sft) or 'it'}"


def _registry(workspace: Workspace, params: Params) -> str:
    registry = open_registry(params.push, workspace)
    registry.check_access()
    champion = registry.champion()
    return f"{registry.name} can be written; the champion is {champion.version if champion else 'none yet'}"


def _record(workspace: Workspace, params: Params) -> str:
    section = params.record
    if section.git_branch and not _succeeds(workspace, "rev-parse", "--verify", "--quiet", "HEAD"):
        raise InputError(f"record.git_branch: {workspace.root} is not in git, or has no commit; make one, or set it to null")
    if section.git_remote and not _succeeds(workspace, "remote", "get-url", section.git_remote):
        raise InputError(f"record.git_remote {section.git_remote}: git has no such remote; `git remote add`, or set it to null")
    if section.dvc_remote and section.dvc_remote not in _dvc_remotes(workspace):
        raise InputError(f"record.dvc_remote {section.dvc_remote}: DVC has no such remote; `dvc remote add`, or set it to null")
    places = [place for _, place in section if place]
    return f"versions are written down at {', '.join(places)}" if places else "versions are written down in the registry only"


def _succeeds(workspace: Workspace, *words: str) -> bool:
    return subprocess.run(["git", *words], cwd=workspace.root, capture_output=True, check=False).returncode == 0


def _dvc_remotes(workspace: Workspace) -> list[str]:
    with dvc_repo(workspace, "tell its remotes") as repo:
        return list(repo.config["remote"])


def _disk(workspace: Workspace, params: Params) -> str:
    free = shutil.disk_usage(workspace.root).free
    needed = (_COPIES * _base_size(workspace) if _fetched(workspace, params) else 0) or _FIRST_RUN
    if free < needed:
        raise InputError(
            f"{workspace.root}: {free / _GIGABYTE:.1f} GB free, a run may need {needed / _GIGABYTE:.1f} GB; make room there "
            "(`dvc gc --workspace` drops what this workspace does not use from DVC's cache)"
        )
    return f"{free / _GIGABYTE:.1f} GB free, a run may need {needed / _GIGABYTE:.1f} GB"


def _base_size(workspace: Workspace) -> int:
    return sum(path.stat().st_size for path in workspace.base.rglob("*") if path.is_file())


def _memory(workspace: Workspace, params: Params) -> str:
    """Weights, gradients and two moments of Adam in 4 bytes each where all is trained; of LoRA little more than the weights."""
    base, available = _fetched(workspace, params), _available_memory()
    if available is None or base is None:
        return "not known before the base model was fetched" if available else "this system does not tell"
    each = 16 if params.train.method == "full" else 6
    needed = _GIGABYTE + each * base.n_parameters
    if available < needed:
        raise InputError(
            f"{available / _GIGABYTE:.1f} GB of memory are free, training needs about {needed / _GIGABYTE:.1f} GB; "
            "end other programs, take a smaller base model, or train.method: lora"
        )
    return f"{available / _GIGABYTE:.1f} GB free, training needs about {needed / _GIGABYTE:.1f} GB"


def _available_memory() -> int | None:
    """Linux tells it in /proc/meminfo, in kB; a container may have less."""
    try:
        lines = _MEMORY.read_text().splitlines()
    except OSError:
        return None
    of_machine = next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)
    with suppress(OSError, ValueError):  # no cgroup v2, or "max"
        return min(int(_LIMIT.read_text()), of_machine or sys.maxsize)
    return of_machine


def _gate(workspace: Workspace, params: Params) -> str:
    record = workspace.record("suites")
    if not record.is_file():
        return "not known before the stage suites has run"
    return _could_pass(workspace, params, SuitesReport.read(record).tasks)


def _suites_and_gate(workspace: Workspace, params: Params) -> str:
    """Looks at every item of the eval suites as they are now, which takes some seconds."""
    from tasks.eval_tasks import fresh_datasets_cache, load_tasks
    from tasks.scorers import check_scorers

    folder = workspace.data / "eval"
    check_scorers(params.evaluate, folder)
    with fresh_datasets_cache():
        return _could_pass(workspace, params, [task.described() for task in load_tasks(params.evaluate, folder)])


def _could_pass(workspace: Workspace, params: Params, tasks: Sequence[SuiteTask]) -> str:
    """How often a model without any loss would pass `kept`, pooled and by each task (reference: tasks/statistics.py).

    How many target items there will be, only `before_training` knows.
    """
    section = params.gate
    items = {task.task: task.n_items for task in tasks if task.suite == "general"}
    general = sum(items.values())
    faults = [_too_few("general", general, section.min_general_items)] if general < section.min_general_items else []
    rules = {"gate.kept.margin": (general, section.kept.margin)}
    rules |= {f"gate.kept.task_margin of {task}": (n, section.kept.task_margin) for task, n in items.items()}
    powers = {name: power_at_no_difference(margin, n, _DISCORDANT, section.confidence) for name, (n, margin) in rules.items()}
    told = {
        name: f"with {n} general items and a margin of {margin * 100:g} points a model without any loss would pass about "
        f"{powers[name] * 100:.0f} % of the time"
        for name, (n, margin) in rules.items()
    }
    faults += [
        f"{name}: {told[name]}, wanted {section.min_power * 100:g} %; add items or widen the margin"
        for name, power in powers.items()
        if power < section.min_power
    ]
    if faults and section.min_power > 0:
        raise InputError("\n".join([*faults, _ALL_THE_SAME]))
    return f"{told['gate.kept.margin']}{limited(tasks)}"


def _too_few(suite: str, n: int, least: int) -> str:
    return f"gate.min_{suite}_items is {least}, and there are {n}: no model could pass; add items or lower it"


def _judge(workspace: Workspace, params: Params) -> str:
    from tasks.judge import check_judge

    judges = [scorer for scorer in params.evaluate.scorers.values() if isinstance(scorer, JudgeScorer)]
    for scorer in judges:
        check_judge(scorer)
    return f"{', '.join(scorer.model for scorer in judges)} answers" if judges else "none is asked"


_CHECKS: dict[str, _Ask] = {
    "data": _data,
    "base": _base,
    "train": _train,
    "registry": _registry,
    "record": _record,
    "disk": _disk,
    "memory": _memory,
    "judge": _judge,
    "gate": _gate,
}
_THOROUGH: dict[str, _Ask] = {"gate": _suites_and_gate}
