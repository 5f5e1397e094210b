"""Candidates that passed the gate and that a person refused, or did not approve in time: nothing publishes them any more."""

from datetime import UTC, datetime, timedelta

from tasks.decision_log import judged_at
from tasks.errors import NotApprovedError
from tasks.evaluation_records import GateDecision
from tasks.files import read_jsonl, write_jsonl
from tasks.paths import Workspace
from tasks.publishing_sections import Push


def waiting(workspace: Workspace, candidate: str) -> GateDecision:
    """The decision on the candidate that waits, if its digest begins like this.

    Raises:
        NotApprovedError: another one waits, or too few characters were given.
        StageInputError: the gate has judged none yet.
    """
    decision = GateDecision.read(workspace.record("gate"))
    if len(candidate) < 8 or not decision.candidate_digest.startswith(candidate):
        raise NotApprovedError(
            f"candidate {candidate}: the one that waits is {decision.candidate_digest[:12]}; a later run made it, look at it"
        )
    return decision


def refuse(workspace: Workspace, decision: GateDecision, reason: str) -> None:
    """Write down that a person refused this candidate, and why."""
    entry = {
        "candidate": decision.candidate_digest,
        "reason": reason,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_jsonl(workspace.refusals, [*_entries(workspace), entry])


def why_refused(workspace: Workspace, digest: str, section: Push, now: datetime | None = None) -> str | None:
    """Why this model is not to be published, since a person refused it or nobody approved it in time; None if it may be."""
    if reason := next((entry["reason"] for entry in _entries(workspace) if entry["candidate"] == digest), None):
        return reason
    judged = judged_at(workspace, digest)
    if not section.require_approval or section.approval_days is None or judged is None:
        return None
    if (now or datetime.now(UTC)) - judged <= timedelta(days=section.approval_days):
        return None
    return f"nobody approved it within {section.approval_days:g} days of {judged:%Y-%m-%d}, push.approval_days"


def _entries(workspace: Workspace) -> list[dict[str, str]]:
    return read_jsonl(workspace.refusals, workspace.relative(workspace.refusals))
