"""How often the same items have judged a candidate: each verdict tells a little about them, and what is tuned until it passes has
been fitted to them (Renggli et al. 2019, arXiv 1903.00278: a test set has a shelf life).
"""

from tasks.evaluation_records import GateDecision
from tasks.files import read_jsonl, write_jsonl
from tasks.paths import Workspace


def judged_before(workspace: Workspace, items_sha256: str, candidate_digest: str) -> int:
    """Other candidates that these items have judged in this workspace."""
    return len({entry["candidate"] for entry in _entries(workspace) if entry["items"] == items_sha256} - {candidate_digest})


def note(workspace: Workspace, decision: GateDecision) -> None:
    """Add a decision to the log, unless these items have judged this candidate before: the same question tells nothing new."""
    entry = {"items": decision.items_sha256, "candidate": decision.candidate_digest}
    if entry not in (entries := _entries(workspace)):
        write_jsonl(workspace.decisions, [*entries, entry])


def _entries(workspace: Workspace) -> list[dict[str, str]]:
    return read_jsonl(workspace.decisions, workspace.relative(workspace.decisions))
