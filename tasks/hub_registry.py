"""A registry in a repository of the Hugging Face Hub.

    main                    the champion: the files of its version, and history.jsonl, which says how the pointer came there
    tag v1, v2, …           the versions: the commit of main that first made each the champion
    branch refit-staging-…  a candidate on its way, in as many commits as the client makes of it

A candidate is uploaded to its staging branch, every hash there is compared with the local file, and one commit copies the files
to main on condition that nobody moved main meanwhile (`parent_commit`). So readers find a whole version at any moment, of two
publishers one wins, and whatever a killed publication left is taken up by its digest or removed by the next one.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import NetworkError, NotApprovedError, RegistryError, StaleChampionError
from tasks.files import sha256_file, sha256_json
from tasks.hub_repository import HubRepository, RateLimitedError
from tasks.hub_staging import TOLERATED, operations, our_files, upload
from tasks.hub_state import MAIN, State, commit_title, proposal_title, read_state
from tasks.registry import (
    CARD,
    HISTORY,
    MANIFEST,
    Action,
    Manifest,
    Move,
    Pointer,
    next_move,
    parse_stored,
    version_number,
    why_withdrawn,
)

if TYPE_CHECKING:
    from huggingface_hub import Discussion, RepoFile

_ATTEMPTS = 3
_LONGEST_WAIT = 300.0


class HubRegistry:
    """A model repository, made private (or not) where it is missing.

    With `by_pull_request` a version is only proposed, and a pull request that was closed tells that the model was refused.
    """

    def __init__(self, repository: HubRepository, private: bool, by_pull_request: bool = False) -> None:
        self.name = repository.name
        self._repository = repository
        self._private = private
        self._by_pull_request = by_pull_request

    def check_access(self) -> None:
        self._repository.check_write_access()

    def champion(self) -> Pointer | None:
        return read_state(self._repository).champion

    def versions(self) -> list[str]:
        return read_state(self._repository).versions

    def find(self, digest: str) -> str | None:
        return read_state(self._repository).find(digest)

    def digest(self, version: str) -> str:
        return self._manifest(self._commit(version)).model_digest

    def document(self, version: str, name: str) -> bytes | None:
        commit = self._commit(version)
        wanted = self._manifest(commit).files.get(name)
        if wanted is None:
            return None
        data = self._repository.file(commit, name) or b""
        if hashlib.sha256(data).hexdigest() != wanted:
            raise self._damaged(version, [name])
        return data

    def history(self) -> list[Move]:
        return read_state(self._repository).moves

    def withdrawn(self, digest: str) -> str | None:
        state = read_state(self._repository)
        return why_withdrawn(state.moves, digest) or self._why_refused(state, digest)

    def stage(self, model: Path, digest: str, documents: Mapping[str, bytes]) -> str:
        """The version that holds this model, or the name of a staging branch with every byte of it."""
        state, _ = self._ready()
        return state.find(digest) or upload(self._repository, state, model, digest, documents).branch

    def verify(self, version: str) -> Manifest:
        """Large files by the hash that the Hub tells, small ones by their bytes; on a staging branch only the candidate's."""
        commit = self._commit(version)
        manifest, tree = self._manifest(commit), self._repository.tree(commit)
        known = {*manifest.files, MANIFEST, HISTORY, *TOLERATED}
        bad = {name for name in tree if name not in known and version_number(version)}
        bad |= {name for name, sha256 in manifest.files.items() if self._sha256(commit, name, tree) != sha256}
        if bad:
            raise self._damaged(version, sorted(bad))
        if sha256_json(manifest.model_files()) != manifest.model_digest:
            raise self._damaged(version, [MANIFEST])
        return manifest

    def promote(self, version: str, expected: str | None, reason: str) -> Pointer:
        def act() -> Pointer:
            manifest = self.verify(version)
            state, ours = self._ready()
            return self._promote(state, ours, self._commit(version, state), manifest, expected, reason)

        return self._surely(act, self.digest(version), expected)

    def publish(self, model: Path, digest: str, documents: Mapping[str, bytes], expected: str | None, reason: str) -> Pointer:
        def act() -> Pointer:
            state, ours = self._ready()
            self._check_champion(state, expected, digest)
            if found := state.find(digest):
                return self._promote(state, ours, self._commit(found, state), self.verify(found), expected, reason)
            staged = upload(self._repository, state, model, digest, documents)
            return self._promote(state, ours, staged.commit, staged.manifest, expected, reason)

        return self._surely(act, digest, expected)

    def propose(self, model: Path, digest: str, documents: Mapping[str, bytes], expected: str | None, reason: str) -> str:
        """Open a pull request that would make this model the champion, unless it is open; returns its address.

        Merged, it is a publication; the tag follows with the next `publish` or `promote`.

        Raises:
            StaleChampionError, NotApprovedError, RegistryError, NetworkError: as `publish`; a closed pull request is a refusal.
        """
        state, ours = self._ready()
        self._check_champion(state, expected, digest)
        if why := why_withdrawn(state.moves, digest) or self._why_refused(state, digest):
            raise NotApprovedError(f"this model, {digest[:12]}, was refused ({why}); train another")
        if opened := self._pull_request(state, digest):
            self._unstage(branch for branch in state.staging if branch.endswith(digest[:12]))
            return opened.url
        staged = upload(self._repository, state, model, digest, documents)
        version = state.next_version()
        with self._repository.asking(f"propose {version}"):
            done = self._repository.api.create_commit(
                self._repository.repo_id,
                operations(
                    state, ours, staged.commit, staged.manifest, next_move(state.champion, version, digest, "publish", reason)
                ),
                commit_message=proposal_title(version, digest),
                commit_description=reason,
                parent_commit=state.head,
                create_pr=True,
            )
        self._unstage([staged.branch])
        return str(done.pr_url)

    def _pull_request(self, state: State, digest: str) -> "Discussion | None":
        """The newest one that proposes this model as the next version."""
        if state.head is None:
            return None
        with self._repository.asking("list pull requests"):
            found = self._repository.api.get_repo_discussions(self._repository.repo_id, discussion_type="pull_request")
            return next((each for each in found if each.title == proposal_title(state.next_version(), digest)), None)

    def _why_refused(self, state: State, digest: str) -> str | None:
        found = self._pull_request(state, digest) if self._by_pull_request else None
        return f"its pull request {found.num} was closed" if found and found.status == "closed" else None

    def rollback(self, version: str | None, reason: str) -> Pointer:
        state = read_state(self._repository)
        champion = state.champion
        target = version or (champion.previous if champion else None)
        if champion is None or target is None:
            what = f"{champion.version} replaced no other version" if champion else "nothing was published"
            raise RegistryError(f"{self.name}: {what}, so there is nothing to roll back to; name one of {state.versions}")
        manifest = self.verify(target)

        def act() -> Pointer:
            state, ours = self._ready()
            commit = self._commit(target, state)
            if state.champion is None or state.champion.version != target:
                self._move(state, ours, commit, target, manifest, "rollback", reason)
            return self._settle(target, commit)

        return self._surely(act, manifest.model_digest, champion.version)

    def fetch(self, version: str, target: Path) -> Manifest:
        commit = self._commit(version)
        manifest = self._manifest(commit)
        wanted = manifest.model_files()
        target.mkdir(parents=True)
        self._repository.download(commit, list(wanted), target)
        shutil.rmtree(target / ".cache", ignore_errors=True)  # the client's notes on what it downloaded
        if bad := sorted(name for name in wanted if not (target / name).is_file() or sha256_file(target / name) != wanted[name]):
            raise self._damaged(version, bad)
        return manifest

    def _ready(self) -> tuple[State, list[str]]:
        """The state of a repository that exists, and the files of ours on its main.

        A champion whose tag is missing, since its publication was cut off or its pull request was merged, gets it first: once
        main has moved on, nothing else would tell of that version.

        Raises:
            RegistryError: there are others, which a reader would take for a part of the model.
        """
        state = read_state(self._repository)
        if state.head is None:
            with self._repository.asking("create the repository"):
                self._repository.api.create_repo(self._repository.repo_id, private=self._private, exist_ok=True)
            state = read_state(self._repository)
        if state.head is None:
            raise RegistryError(f"{self.name}: has no branch {MAIN}, though it exists; make it, or choose another push.repo_id")
        if self._tag_champion(state):
            state = read_state(self._repository)
        return state, our_files(self._repository, str(state.head))

    def _promote(
        self, state: State, ours: list[str], commit: str, manifest: Manifest, expected: str | None, reason: str
    ) -> Pointer:
        """Of a version or a staging branch, the commit, which is verified."""
        digest = manifest.model_digest
        version = state.find(digest) or state.next_version()
        self._check_champion(state, expected, digest)
        if state.champion is None or state.champion.version != version:
            if why := why_withdrawn(state.moves, digest):
                raise NotApprovedError(
                    f"{version} is this model, and it was rolled back ({why}); train another, or roll back to {version} by name"
                )
            self._move(state, ours, commit, version, manifest, "publish", reason)
        return self._settle(version, commit)

    def _move(
        self, state: State, ours: list[str], commit: str, version: str, manifest: Manifest, action: Action, reason: str
    ) -> None:
        """One commit on main: the files of `commit`, nothing else of ours, and the line of history.

        Whatever the answer, what main holds afterwards decides whether it happened.

        Raises:
            StaleChampionError: somebody else moved the pointer first.
        """
        move = next_move(state.champion, version, manifest.model_digest, action, reason)
        try:
            with self._repository.asking(f"{action} {version}"):
                self._repository.api.create_commit(
                    self._repository.repo_id,
                    operations(state, ours, commit, manifest, move),
                    commit_message=commit_title(version, action),
                    commit_description=reason,
                    parent_commit=state.head,
                )
        except (NetworkError, RegistryError):
            after = read_state(self._repository)
            self._check_champion(after, move.previous, move.digest)
            if after.champion is None or after.champion.version != version:
                raise

    def _settle(self, version: str, verified: str) -> Pointer:
        """Of the new champion: compare main with the commit that was verified, tag it, remove all staging branches.

        What else was staged was judged against the champion before this one, so nobody may publish it any more.
        """
        state = read_state(self._repository)
        champion = state.champion
        if champion is None or champion.version != version or state.head is None:
            raise StaleChampionError(f"{self.name}: somebody moved the pointer right after {version}; run again to judge anew")
        self._check_main(version, verified, state.head)
        self._tag_champion(state)
        self._unstage(state.staging)
        return champion

    def _unstage(self, branches: Iterable[str]) -> None:
        with self._repository.asking("delete staging branches"):
            for branch in branches:
                self._repository.api.delete_branch(self._repository.repo_id, branch=branch)

    def _tag_champion(self, state: State) -> bool:
        """Unless it has its tag; tells whether there was something to do."""
        if state.champion is None or state.head is None or (version := state.champion.version) in state.tags:
            return False
        with self._repository.asking(f"tag {version}"):
            self._repository.api.create_tag(
                self._repository.repo_id, tag=version, revision=self._publication(version, state.head)
            )
        return True

    def _check_main(self, version: str, verified: str, head: str) -> None:
        """A card may be edited there by hand, nothing else."""
        if verified == head:
            return
        wanted, found = self._repository.tree(verified), self._repository.tree(head)
        names = set(self._manifest(verified).files) - {CARD}
        if bad := sorted(name for name in names if name not in found or found[name].blob_id != wanted[name].blob_id):
            raise RegistryError(
                f"{self.name}: {MAIN} says that it is {version}, but has other {', '.join(bad)}; "
                f"restore them there from the tag {version}"
            )

    def _publication(self, version: str, head: str) -> str:
        """The commit of main that published a version: its head, unless somebody committed since."""
        commits = self._repository.api.list_repo_commits(self._repository.repo_id, revision=head)
        return next((commit.commit_id for commit in commits if commit.title.startswith(commit_title(version, "publish"))), head)

    def _surely(self, act: Callable[[], Pointer], digest: str, expected: str | None) -> Pointer:
        """Wait as long as the Hub asks, and after any other error look what happened: the model may be published all the same.

        Raises:
            StaleChampionError: the error came from another publication.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return act()
            except RateLimitedError as error:
                failure: NetworkError | RegistryError = NetworkError(str(error))
                time.sleep(min(error.seconds, _LONGEST_WAIT) if attempt < _ATTEMPTS else 0)
            except (NetworkError, RegistryError) as error:
                failure = error
                state = read_state(self._repository)
                self._check_champion(state, expected, digest)
                if state.champion is None or state.champion.digest != digest:
                    break
        raise failure

    def _check_champion(self, state: State, expected: str | None, digest: str) -> None:
        """The champion is still the expected version, or has this digest."""
        found = state.champion.version if state.champion else None
        if found != expected and (state.champion is None or state.champion.digest != digest):
            raise StaleChampionError(
                f"{self.name}: the champion is {found or 'none'}, wanted {expected or 'none'}; "
                "somebody published meanwhile, run again to judge anew"
            )

    def _commit(self, revision: str, state: State | None = None) -> str:
        state = state or read_state(self._repository)
        commit = state.commit(revision)
        if commit is None:
            raise RegistryError(f"{self.name}: no version {revision}; there are {state.versions}")
        return commit

    def _manifest(self, commit: str) -> Manifest:
        data = self._repository.file(commit, MANIFEST)
        if data is None:
            raise RegistryError(f"{self.name}: {MANIFEST} is missing at {commit[:12]}; was it deleted there by hand?")
        return parse_stored(Manifest, data, f"{self.name}: {MANIFEST} at {commit[:12]}")

    def _sha256(self, commit: str, name: str, tree: "Mapping[str, RepoFile]") -> str | None:
        if name not in tree:
            return None
        lfs = tree[name].lfs
        return lfs.sha256 if lfs else hashlib.sha256(self._repository.file(commit, name) or b"").hexdigest()

    def _damaged(self, version: str, names: list[str]) -> RegistryError:
        return RegistryError(
            f"{self.name}: {version} is damaged: {', '.join(names)} differ from {MANIFEST}; roll back to another version"
        )
