"""The tasks of lm-eval that params.yaml names: loaded, looked at item by item, and by which metric each of them is compared."""

import logging
import os
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from tasks.errors import DataError, NetworkError, one_line
from tasks.evaluation_records import SuiteTask
from tasks.evaluation_sections import EvalTask, Evaluate
from tasks.normalisation import normalise

_SHOWN = 20
_FEW_SHOT_SEED = 1234  # that of lm-eval's command line
Suite = Literal["target", "general"]


@contextmanager
def fresh_datasets_cache() -> Iterator[None]:
    """Call it before the first import of datasets: never rows that an earlier version of a file left behind."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_DATASETS_CACHE"] = cache
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
        yield


@dataclass(frozen=True)
class LoadedTask:
    """One task of lm-eval, alone or as a member of the group that `entry` names."""

    suite: Suite
    entry: EvalTask
    task: Any
    is_ours: bool

    @property
    def name(self) -> str:
        return str(self.task.task_name)

    @cached_property
    def docs(self) -> list[Any]:
        """Every item, those beyond `entry.limit` too."""
        return list(self.task.eval_docs)

    @cached_property
    def item_names(self) -> list[str]:
        """The `id` of each item, else its number; of tasks that are not ours also where ids repeat."""
        names = [str(doc.get("id", number)) for number, doc in enumerate(self.docs)]
        return names if self.is_ours or len(set(names)) == len(names) else [str(number) for number in range(len(names))]

    @cached_property
    def metrics(self) -> list[str]:
        """Means of one score an item, named as lm-eval prints them: with the filter, if that has a name."""
        from lm_eval.api.metrics import mean, nanmean

        means = [name for name, aggregation in self.task.aggregation().items() if aggregation in (mean, nanmean)]
        return [metric_name(name, answers.name) for answers in self.task._filters for name in means]

    def text(self, doc: Any) -> str:
        """Prompt and right answer, the first one of several."""
        prompt, target = self.task.doc_to_text(doc), self.task.doc_to_target(doc)
        if isinstance(target, list) and target:
            target = target[0]
        if isinstance(target, int) and self._is_choice:
            target = self.task.doc_to_choice(doc)[target]
        if getattr(self.task, "multiple_input", 0):  # the choices are what stands before the target, as in Winogrande
            prompt = self.task.doc_to_choice(doc)[prompt]
        return f"{prompt} {target}"

    def faults(self) -> list[str]:
        """What is wrong with the task or with single items of it."""
        if not self.metrics:
            return [
                f"{self.name}: lm-eval computes {', '.join(self.task.aggregation()) or 'no metric'} of the suite as a whole, and "
                "models are compared item by item; take a task with acc, exact_match or another mean"
            ]
        if getattr(self.task, "UNSAFE_CODE", False):
            return [f"{self.name}: would run code that the model writes, which Refit does not; take another task"]
        if not self.docs:
            return [f"{self.name}: has no items"]
        if faults := list(self._filter_faults()):
            return faults
        twice = [name for name, count in Counter(self.item_names).items() if count > 1]
        faults = [f"{self.name}: {len(twice)} ids stand more than once, such as {', '.join(twice[:3])}"] if twice else []
        for name, doc in zip(self.item_names, self.docs, strict=True):
            if fault := self._item_fault(doc):
                faults.append(f"{self.name} item {name}: {fault}")
        return faults

    def _filter_faults(self) -> Iterator[str]:
        """lm-eval itself makes them only when there are answers to filter."""
        for ensemble in self.task._filters:
            try:
                for make in ensemble.filters:
                    make()
            except Exception as error:
                yield f"{self.name}: its filter {ensemble.name} is faulty: {_first_line(error)}"

    @property
    def _is_choice(self) -> bool:
        return self.task.get_config("output_type") == "multiple_choice" and not getattr(self.task, "multiple_input", 0)

    def _item_fault(self, doc: Any) -> str | None:
        try:
            if self._is_choice and (fault := self._choice_fault(doc)):
                return fault
            self.text(doc)
        except Exception as error:  # templates and functions of a task may raise anything
            return _first_line(error)
        return None

    def _choice_fault(self, doc: Any) -> str | None:
        choices, target = self.task.doc_to_choice(doc), self.task.doc_to_target(doc)
        if len(set(choices)) < max(2, len(choices)):
            return f"wanted two or more different choices, found {choices!r}"
        targets = target if isinstance(target, list) else [target]
        outside = [one for one in targets if not (0 <= one < len(choices) if isinstance(one, int) else one in choices)]
        return f"the answer {outside[0]} is outside its {len(choices)} choices" if outside else None

    def described(self) -> SuiteTask:
        """For the records."""
        return SuiteTask(
            suite=self.suite,
            entry=self.entry.task,
            task=self.name,
            metric=self.metrics[0],
            version=str(self.task.VERSION),
            num_fewshot=self.task.get_config("num_fewshot"),  # of a task that says 0 not what was asked for
            apply_chat_template=self.entry.apply_chat_template,
            limit=self.entry.limit,
            n_items=min(len(self.docs), self.entry.limit or len(self.docs)),
        )


def metric_name(metric: str, answers: str) -> str:
    """lm-eval's `metric,filter`; the filter that takes the answer as it is has the name `none`."""
    return metric if answers == "none" else f"{metric},{answers}"


def load_tasks(section: Evaluate, folder: Path, look_at_items: bool = True) -> list[LoadedTask]:
    """Every task of both suites, groups resolved. No model is loaded.

    Args:
        folder: data/eval, whose tasks come before lm-eval's of the same name.
        look_at_items: Ask each item for its faults too, as the stage suites does before anything else.

    Raises:
        DataError: a task is unknown, cannot be loaded or compared, or has faulty items; every fault at once, up to 20.
        NetworkError: items lie on the Hub, which cannot be reached.
    """
    _refuse(_syntax_faults(folder))
    suites: list[tuple[Suite, Sequence[EvalTask]]] = [("target", section.target_tasks), ("general", section.general_tasks)]
    manager = _manager(folder)
    own = set(manager.all_tasks)
    # lm-eval's own thousands of task files are only read if one of them is named.
    if any(entry.task not in own for _, entries in suites for entry in entries):
        manager = _manager(folder, include_defaults=True)
    loaded: list[LoadedTask] = []
    faults: list[str] = []
    for suite, entry in ((suite, entry) for suite, entries in suites for entry in entries):
        if entry.task not in manager.all_tasks:
            faults.append(f"evaluate.{suite}_tasks: lm-eval and {folder} have no {entry.task}; correct params.yaml")
            continue
        try:
            members = _members(manager, entry)
        except ConnectionError as error:
            raise NetworkError(
                f"{entry.task}: its items cannot be fetched: {_first_line(error)}; is the Hub reachable?"
            ) from None
        except Exception as error:  # YAML, templates, filters, files and the network: lm-eval has no errors of its own
            faults.append(f"{entry.task}: lm-eval cannot load it, or its first item: {_first_line(error)}")
            continue
        loaded += [LoadedTask(suite, entry, task, name in own) for name, task in members.items()]
    names = Counter(task.name for task in loaded)
    faults += [f"{name}: named {count} times by target_tasks and general_tasks" for name, count in names.items() if count > 1]
    _refuse(faults + ([fault for task in loaded for fault in task.faults()] if look_at_items else []))
    return loaded


def _refuse(faults: Sequence[str]) -> None:
    """Raises:
    DataError: there are any.
    """
    if faults:
        more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise DataError("\n".join([f"{len(faults)} faults in the eval suites; nothing was scored", *faults[:_SHOWN], *more]))


def _syntax_faults(folder: Path) -> list[str]:
    """lm-eval passes over a file that it cannot read, and says later that its task is unknown."""
    faults = []
    for path in sorted(folder.rglob("*.y*ml")):
        try:
            deque(yaml.parse(path.read_text(encoding="utf-8")), maxlen=0)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            faults.append(f"{path}: not YAML: {one_line(error)}")
    return faults


def load_configs(configs: Sequence[dict[str, Any]], folder: Path) -> list[Any]:
    """Tasks of configurations in memory, in their order."""
    return list(_manager(folder).load(list(configs))["tasks"].values())


def _manager(folder: Path, include_defaults: bool = False) -> Any:
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=str(folder), include_defaults=include_defaults)


def _members(manager: Any, entry: EvalTask) -> dict[str, Any]:
    """By name, the task or the members of the group, with their items."""
    tasks: dict[str, Any] = manager.load([entry.task])["tasks"]
    for task in tasks.values():
        _set_few_shot(task, entry.num_fewshot)
        task.eval_docs  # noqa: B018  reads the rows
    return tasks


def _set_few_shot(task: Any, wanted: int | None) -> None:
    """As lm-eval's own command line does: a task that says 0 means it."""
    stated = task.get_config("num_fewshot")
    if stated is None or (wanted is not None and stated != 0):
        task.set_config(key="num_fewshot", value=wanted or 0)
    task.set_fewshot_seed(seed=_FEW_SHOT_SEED)


def _first_line(error: BaseException) -> str:
    """Datasets says that it failed and hides why in the cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def protected_texts(tasks: Sequence[LoadedTask]) -> Iterator[tuple[str, str]]:
    """Name and normalised text (prompt and right answer) of every item."""
    for task in tasks:
        for name, doc in zip(task.item_names, task.docs, strict=True):
            yield f"{task.name} {name}", normalise(task.text(doc))
