"""What a workspace is at, without Prefect: which stages are up to date, and whether a run would do anything."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tasks.base import folder_changed
from tasks.champion import current
from tasks.data_watch import watch_of
from tasks.drift import current_reference
from tasks.environment import scores_as_now
from tasks.evaluation_records import ChampionRecord, EvalReport, GateDecision
from tasks.params import Params
from tasks.paths import ROLES, Workspace
from tasks.publishing_sections import Push, Recording
from tasks.records import BaseModelRecord, DriftReport, VersionRecord
from tasks.refusals import why_refused
from tasks.registry import Registry, open_registry
from tasks.repro import STAGES, changed_stages


@dataclass(frozen=True, slots=True)
class Status:
    """`stale`: stages that a run would run; `decision`: the last one, None before the first; `champion`: the published version.

    `published` tells that the champion is this candidate, `withdrawn` that this candidate was refused or taken back,
    `recorded` that the champion is written down wherever params.yaml wants it, `data_wait` that no run has seen the raw data as
    they are.
    """

    stale: list[str]
    decision: GateDecision | None
    champion: str | None
    published: bool
    withdrawn: bool
    recorded: bool
    data_wait: bool

    @property
    def waits(self) -> str | None:
        """The digest of a candidate that passed and was neither published nor refused."""
        if self.decision is None or self.decision.verdict != "PASS" or self.published or self.withdrawn:
            return None
        return self.decision.candidate_digest

    @property
    def settled(self) -> bool:
        """Nothing changed since the last decision, and what it approved was published: a run would end Unchanged."""
        if self.stale or self.decision is None:
            return False
        return self.decision.verdict != "PASS" or (self.published and self.recorded) or self.withdrawn


def read_status(workspace: Workspace, params: Params) -> Status:
    """Ask DVC, the registry and the records; writes nothing. About a second, most of it imports."""
    stale = stale_stages(workspace, params, list(STAGES))
    gate = workspace.record("gate")
    decision = GateDecision.read(gate) if gate.is_file() else None
    registry = open_registry(params.push, workspace)
    pointer = registry.champion()
    return Status(
        stale=stale,
        decision=decision,
        champion=pointer.version if pointer else None,
        published=pointer is not None and decision is not None and pointer.digest == decision.candidate_digest,
        withdrawn=decision is not None and _withdrawn(registry, decision.candidate_digest, workspace, params.push),
        data_wait="validate" in stale or watch_of(workspace, params.validation.raw, 0, 0).waits(),
        recorded=pointer is None or _recorded(params.record, pointer.version, workspace),
    )


def _withdrawn(registry: Registry, digest: str, workspace: Workspace, section: Push) -> bool:
    return why_refused(workspace, digest, section) is not None or registry.withdrawn(digest) is not None


def _recorded(section: Recording, version: str, workspace: Workspace) -> bool:
    if not section.wanted:
        return True
    path = workspace.record("record")
    if not path.is_file():
        return False
    note = VersionRecord.read(path)
    return note.version == version and all(getattr(note, place) == wanted for place, wanted in section)


def stale_stages(workspace: Workspace, params: Params, stages: list[str]) -> list[str]:
    """Those of `stages` that are not up to date: by DVC, and where they read what it does not know, by what stands there now."""
    changed = set(changed_stages(workspace, stages))
    return [stage for stage in stages if stage in changed or (stage in _LOOK and _LOOK[stage](workspace, params))]


def _reference_moved(workspace: Workspace, params: Params) -> bool:
    return DriftReport.read(workspace.record("drift")).reference != current_reference(workspace, params)


def _champion_moved(workspace: Workspace, params: Params) -> bool:
    return ChampionRecord.read(workspace.record("champion")) != current(workspace, params)


def _base_edited(workspace: Workspace, params: Params) -> bool:
    return folder_changed(params.base, workspace.root, BaseModelRecord.read(workspace.record("base")))


def _scored_otherwise(role: str, workspace: Workspace, params: Params) -> bool:
    environment = EvalReport.read(workspace.record(f"evaluate@{role}")).environment
    return environment is not None and not scores_as_now(environment)


READ_REGISTRY = {"drift": _reference_moved, "champion": _champion_moved}
"""Stages that look into the registry, with what tells whether it gives another answer than the last time."""
UNKNOWN_TO_DVC: dict[str, Callable[[Workspace, Params], bool]] = {
    "base": _base_edited,
    **{f"evaluate@{role}": partial(_scored_otherwise, role) for role in ROLES},
}
"""Stages whose result depends on what DVC does not look at, a folder elsewhere or the installed packages."""
_LOOK = READ_REGISTRY | UNKNOWN_TO_DVC
