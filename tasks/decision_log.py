"""How often the same items have judged a candidate: each verdict tells a little about them, and what is tuned until it passes has
been fitted to them (Renggli et al. 2019, arXiv 1903.00278: a test set has a shelf life). And when they did.

New data bring new test rows beside the old ones, so it is likeness that counts: of two sets of items the `sketch` tells the share
that they have in common (bottom-k sketch; Broder 1997, On the resemblance and containment of documents).
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from tasks.evaluation_records import GateDecision
from tasks.files import read_jsonl, write_jsonl
from tasks.paths import Workspace

_SKETCH = 128
_THE_SAME = 0.5
"""Share of all items of two sets that both must have, to count as the same items."""


def sketch(hashes: Iterable[str]) -> list[str]:
    """What the log keeps of the hashes of a set of items."""
    return sorted(set(hashes))[:_SKETCH]


def common_share(one: Sequence[str], other: Sequence[str]) -> float:
    """Of all items of two sketched sets, the share that both have (Jaccard); exact while the sets are no larger than a sketch."""
    smallest = sorted({*one, *other})[:_SKETCH]
    return len({*smallest} & {*one} & {*other}) / max(1, len(smallest))


def judged_before(workspace: Workspace, items: Sequence[str], candidate_digest: str) -> int:
    """Other candidates that these items, or at least half of them, have judged in this workspace; `items` is their sketch."""
    judged = {entry["candidate"] for entry in _entries(workspace) if common_share(items, entry.get("sketch", ())) >= _THE_SAME}
    return len(judged - {candidate_digest})


def note(workspace: Workspace, decision: GateDecision, items: Sequence[str]) -> None:
    """Add a decision to the log, unless these items have judged this candidate before: the same question tells nothing new.

    `items` is the sketch of the target items.
    """
    entry: dict[str, Any] = {"items": decision.items_sha256, "candidate": decision.candidate_digest}
    entries = _entries(workspace)
    if not any(entry.items() <= known.items() for known in entries):
        at = datetime.now(UTC).isoformat(timespec="seconds")
        write_jsonl(workspace.decisions, [*entries, entry | {"at": at, "sketch": [*items]}])


def judged_at(workspace: Workspace, candidate_digest: str) -> datetime | None:
    """When a candidate was judged by items that had not judged it before, for the last time; None if that is not known."""
    times = [entry["at"] for entry in _entries(workspace) if entry["candidate"] == candidate_digest and "at" in entry]
    return datetime.fromisoformat(times[-1]) if times else None


def _entries(workspace: Workspace) -> list[dict[str, Any]]:
    return read_jsonl(workspace.decisions, workspace.relative(workspace.decisions))
