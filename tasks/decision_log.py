"""How often the same items have judged a candidate: each verdict tells a little about them, and what is tuned until it passes has
been fitted to them (Renggli et al. 2019, arXiv 1903.00278: a test set has a shelf life). And when they did.
"""

from datetime import UTC, datetime

from tasks.evaluation_records import GateDecision
from tasks.files import read_jsonl, write_jsonl
from tasks.paths import Workspace


def judged_before(workspace: Workspace, items_sha256: str, candidate_digest: str) -> int:
    """Other candidates that these items have judged in this workspace."""
    return len({entry["candidate"] for entry in _entries(workspace) if entry["items"] == items_sha256} - {candidate_digest})


def note(workspace: Workspace, decision: GateDecision) -> None:
    """Add a decision to the log, unless these items have judged this candidate before: the same question tells nothing new."""
    entry = {"items": decision.items_sha256, "candidate": decision.candidate_digest}
    entries = _entries(workspace)
    if not any(entry.items() <= known.items() for known in entries):
        write_jsonl(workspace.decisions, [*entries, entry | {"at": datetime.now(UTC).isoformat(timespec="seconds")}])


def judged_at(workspace: Workspace, candidate_digest: str) -> datetime | None:
    """When a candidate was judged by items that had not judged it before, for the last time; None if that is not known."""
    times = [entry["at"] for entry in _entries(workspace) if entry["candidate"] == candidate_digest and "at" in entry]
    return datetime.fromisoformat(times[-1]) if times else None


def _entries(workspace: Workspace) -> list[dict[str, str]]:
    return read_jsonl(workspace.decisions, workspace.relative(workspace.decisions))
