"""What a repository of the Hub says about versions, at one moment: main, tags, staging branches, the moves of the pointer."""

from dataclasses import dataclass

from tasks.hub_repository import HubRepository
from tasks.registry import HISTORY, Action, Move, Pointer, next_version, parse_stored, pointer_after, version_number

MAIN = "main"
STAGING = "refit-staging-"


@dataclass(frozen=True, slots=True)
class State:
    """A repository at one moment: the head of main (None: no repository), the commits of tags and staging branches, the moves."""

    head: str | None
    tags: dict[str, str]
    staging: dict[str, str]
    moves: list[Move]

    @property
    def champion(self) -> Pointer | None:
        return pointer_after(self.moves)

    @property
    def versions(self) -> list[str]:
        return sorted({*self.tags, *([self.champion.version] if self.champion else [])}, key=version_number)

    def commit(self, revision: str) -> str | None:
        """Of a version or staging branch; of a champion whose publication was cut off before its tag, the head of main."""
        at_head = self.champion is not None and self.champion.version == revision
        return self.tags.get(revision) or self.staging.get(revision) or (self.head if at_head else None)

    def find(self, digest: str) -> str | None:
        return next((move.version for move in reversed(self.moves) if move.digest == digest), None)

    def next_version(self) -> str:
        return next_version(self.tags, self.moves)


def read_state(repository: HubRepository) -> State:
    """Raises:
    RegistryError: the Hub refuses, or history.jsonl is damaged.
    NetworkError: it could not be asked.
    """
    refs = repository.refs()
    if refs is None:
        return State(None, {}, {}, [])
    branches, tags = refs
    head = branches.get(MAIN)
    lines = (repository.file(head, HISTORY) or b"").splitlines() if head else []
    return State(
        head=head,
        tags={name: commit for name, commit in tags.items() if version_number(name)},
        staging={name: commit for name, commit in branches.items() if name.startswith(STAGING)},
        moves=[parse_stored(Move, line, f"{repository.name}: {HISTORY}") for line in lines],
    )


def commit_title(version: str, action: Action) -> str:
    """Of the commit that makes a version the champion."""
    return f"{version}: {action}"


def proposal_title(version: str, digest: str) -> str:
    """Of the pull request that would make a model the champion; merged, it is its commit's."""
    return f"{commit_title(version, 'publish')} {digest[:12]}"
