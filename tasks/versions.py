"""Published versions for a person or a program: which there are, and what one says of itself."""

from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from tasks.decision_text import explain
from tasks.errors import RegistryError
from tasks.evaluation_records import GateDecision
from tasks.records import TrainedModel
from tasks.registry import DECISION, TRAINING, Move, Registry, pointer_after, why_withdrawn

_R = TypeVar("_R", GateDecision, TrainedModel)


@dataclass(frozen=True, slots=True)
class Version:
    """`published` is the time (ISO 8601, UTC), None if it never was the champion; `withdrawn` why it was rolled back."""

    version: str
    digest: str
    champion: bool
    published: str | None
    withdrawn: str | None

    def line(self) -> str:
        state = "champion" if self.champion else f"rolled back: {self.withdrawn}" if self.withdrawn else "replaced"
        when = self.published or "never the champion"
        return f"{self.version:<6} {when:<26} {self.digest[:12]}  {state}"


def list_versions(registry: Registry) -> list[Version]:
    """All versions, oldest first."""
    moves = registry.history()
    return [_version(registry, name, moves) for name in registry.versions()]


def _version(registry: Registry, name: str, moves: list[Move]) -> Version:
    digest, champion = registry.digest(name), pointer_after(moves)
    published = next((move.at for move in moves if move.version == name and move.action == "publish"), None)
    return Version(name, digest, champion is not None and champion.version == name, published, why_withdrawn(moves, digest))


@dataclass(frozen=True, slots=True)
class Shown:
    """One version: its place in the history, and what it says of itself (None where it was published without)."""

    version: Version
    moves: list[Move]
    decision: GateDecision | None
    training: TrainedModel | None

    def lines(self) -> list[str]:
        found = [self.version.line(), ""]
        found += [
            f"{move.at}  {move.action} after {move.previous or 'nothing'}: {' '.join(move.reason.split())}" for move in self.moves
        ]
        if self.training:
            made = self.training.environment
            found += ["", self.training.summary(), f"commit {made.git_commit or 'none'}, Python {made.python}, {made.platform}"]
        if self.decision:
            found += ["", explain(self.decision)]
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self.version),
            "moves": [move.model_dump(mode="json") for move in self.moves],
            "decision": self.decision.model_dump(mode="json") if self.decision else None,
            "training": self.training.model_dump(mode="json") if self.training else None,
        }


def show(registry: Registry, name: str) -> Shown:
    """Raises:
    RegistryError: there is no such version, or a file of it is damaged.
    """
    moves = registry.history()
    return Shown(
        version=_version(registry, name, moves),
        moves=[move for move in moves if name in (move.version, move.previous)],
        decision=_document(registry, name, DECISION, GateDecision),
        training=training_of(registry, name),
    )


def training_of(registry: Registry, name: str) -> TrainedModel | None:
    """How a version was trained; None if it was published without saying.

    Raises:
        RegistryError: as `show`.
    """
    return _document(registry, name, TRAINING, TrainedModel)


def _document(registry: Registry, name: str, document: str, kind: type[_R]) -> _R | None:
    data = registry.document(name, document)
    if data is None:
        return None
    try:
        return kind.model_validate_json(data)
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise RegistryError(
            f"{registry.name}: {document} of {name} is of another release of Refit ({first}); read it with that one"
        ) from None
