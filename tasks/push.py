"""Publish the candidate, if the gate passed exactly these bytes. Not a DVC stage: `dvc repro` never publishes.

python -m tasks.push
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tasks.decision_text import markdown
from tasks.errors import NotApprovedError, RegistryError, StageInputError, StaleChampionError
from tasks.evaluation_records import EvalReport, GateDecision
from tasks.files import sha256_json
from tasks.hub_repository import token_of_environment
from tasks.model_card import CardFacts, model_card
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.records import BaseModelRecord, DriftReport, PreparedDataset, PushReceipt, TrainedModel, ValidationReport
from tasks.refusals import why_refused
from tasks.registry import (
    CARD,
    DECISION,
    LOCK,
    PARAMS,
    PROFILE,
    TRAINING,
    Pointer,
    Registry,
    open_registry,
    publishable_files,
)
from tasks.sensitive import find_secret

_ROWS_SEARCHED = 1000
# Files of the model that hold names and paths of the machine that made it; a vocabulary is full of chance finds.
_SMALL_FILES = (
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def push(
    registry: Registry, workspace: Workspace, params: Params, approval: str | None = None, override: bool = False
) -> PushReceipt:
    """Publish data/model as a new version and make it the champion; or find that it is the champion already.

    Safe to repeat after a kill at any point.

    Args:
        approval: who approves and why; the registry keeps it.
        override: publish what the gate did not pass; the approval stands as its reason in decision, card and receipt.

    Raises:
        NotApprovedError: the gate did not pass, passed another model, this one was rolled back or refused, it waits for
            approval, or it could not even be compared, so that there is nothing to override.
        StaleChampionError: the champion is neither the one that the candidate was judged against nor the candidate.
        RegistryError: a file may not be published, the disk is full, or the registry is damaged.
        StageInputError: a record that the model card needs is missing or belongs to another model.
    """
    decision = GateDecision.read(workspace.record("gate"))
    if override and decision.verdict != "PASS":
        decision = _overridden(decision, approval)
    _check_approved(decision, workspace)
    champion = registry.champion()
    _check_champion(decision, champion, registry)
    digest, reason = decision.candidate_digest, approval or decision.summary()
    if champion is not None and champion.digest == digest:
        pointer = registry.promote(champion.version, decision.champion_version, reason)
        return _receipt(workspace, registry, decision, pointer.version, pointer.previous)
    if why := why_refused(workspace, digest, params.push):
        raise NotApprovedError(f"the candidate {digest[:12]} was refused ({why}); train another")
    if params.push.require_approval and not approval:
        raise NotApprovedError(
            f"push.require_approval: the candidate {digest[:12]} passed the gate and waits for "
            f"`refit approve {digest[:12]} --reason …`"
        )
    documents = _documents(decision, workspace, params)
    _check_secrets(documents, workspace.candidate)
    if params.push.pull_request:
        address = registry.propose(workspace.candidate, digest, documents, decision.champion_version, reason)
        return _receipt(workspace, registry, decision, None, decision.champion_version, pull_request=address)
    pointer = registry.publish(workspace.candidate, digest, documents, decision.champion_version, reason)
    return _receipt(workspace, registry, decision, pointer.version, pointer.previous, published=True)


def _receipt(
    workspace: Workspace,
    registry: Registry,
    decision: GateDecision,
    version: str | None,
    previous: str | None,
    published: bool = False,
    pull_request: str | None = None,
) -> PushReceipt:
    path = workspace.record("push")
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a push that was killed while writing its record
        leftover.unlink(missing_ok=True)
    return PushReceipt(
        registry=registry.name,
        version=version,
        digest=decision.candidate_digest,
        previous_version=previous,
        published=published,
        pull_request=pull_request,
        override=decision.override,
    ).write(path)


def _documents(decision: GateDecision, workspace: Workspace, params: Params) -> dict[str, bytes]:
    """What is published beside the model; the same bytes whenever the same candidate is pushed again."""
    record = json.dumps(decision.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    files = {TRAINING: workspace.record("train"), PROFILE: workspace.profile, LOCK: workspace.lock, PARAMS: workspace.params}
    return {
        CARD: model_card(_facts(decision, workspace, params)).encode("utf-8", "replace"),
        DECISION: record.encode("utf-8", "replace"),
        **{name: path.read_bytes() for name, path in files.items() if path.is_file()},
    }


def _check_secrets(documents: Mapping[str, bytes], model: Path) -> None:
    """Nothing that looks like a key leaves: what a person wrote into parameters or paths ends up in these files."""
    texts = {name: data.decode("utf-8", "replace") for name, data in documents.items()}
    texts |= {name: (model / name).read_text("utf-8", "replace") for name in _SMALL_FILES if (model / name).is_file()}
    token = token_of_environment()
    if found := sorted(name for name, text in texts.items() if find_secret(text) or (token and token in text)):
        raise RegistryError(
            f"{', '.join(found)}: what looks like a key, token or password stands there, so nothing was published; "
            "take it out of params.yaml, the paths in it or the data's system prompt, and run again"
        )


def _overridden(decision: GateDecision, reason: str | None) -> GateDecision:
    if not reason:
        raise NotApprovedError("an override needs a reason: who publishes what the gate did not pass, and why")
    if any(rule.rule == "integrity" and rule.verdict == "FAIL" for rule in decision.rules):
        raise NotApprovedError(
            "the models were not scored on the same items, so nothing is known that could be overridden; run `refit run`\n"
            + "\n".join(decision.reasons())
        )
    return decision.model_copy(update={"override": reason})


def _check_approved(decision: GateDecision, workspace: Workspace) -> None:
    record = workspace.relative(workspace.record("gate"))
    if decision.verdict != "PASS" and decision.override is None:
        reasons = "\n".join(decision.reasons())
        raise NotApprovedError(
            f"{record}: the verdict is {decision.verdict}, wanted PASS; nothing was published\n{reasons}".rstrip()
        )
    digest = sha256_json(publishable_files(workspace.candidate))
    if digest != decision.candidate_digest:
        raise NotApprovedError(
            f"{workspace.relative(workspace.candidate)}: has digest {digest[:12]}, "
            f"but {record} passed {decision.candidate_digest[:12]}; "
            "the model changed after the gate: run `refit run` to judge this one"
        )


def _check_champion(decision: GateDecision, champion: Pointer | None, registry: Registry) -> None:
    found = (champion.version, champion.digest) if champion else (None, None)
    if found != (decision.champion_version, decision.champion_digest) and found[1] != decision.candidate_digest:
        raise StaleChampionError(
            f"{registry.name}: the champion is {found[0] or 'none'}, "
            f"but the candidate was judged against {decision.champion_version or 'none'}; run `refit run` to judge it anew"
        )


def _facts(decision: GateDecision, workspace: Workspace, params: Params) -> CardFacts:
    base = BaseModelRecord.read(workspace.record("base"))
    validation = ValidationReport.read(workspace.record("validate"))
    compared = DriftReport.read(workspace.record("drift"))
    prepared = PreparedDataset.read(workspace.record("prepare"))
    trained = TrainedModel.read(workspace.record("train"))
    evaluated = EvalReport.read(workspace.record("evaluate@candidate"))
    chain = {
        "evaluate-candidate": evaluated.model_digest == decision.candidate_digest,
        "train": trained.digest == decision.candidate_digest,
        "base": base.digest == decision.base_digest == trained.base_digest,
        "prepare": trained.train_sha256 in prepared.files.values(),
        "validate": validation.accepted_sha256 == prepared.accepted_sha256,
        "drift": compared.accepted_sha256 == prepared.accepted_sha256,
    }
    if wrong := [name for name, fits in chain.items() if not fits]:
        raise StageInputError(
            f"data/reports: {', '.join(f'{name}.json' for name in wrong)} do not belong to the model "
            f"{decision.candidate_digest[:12]} that the gate passed, "
            "and its card would tell another model's story; run `refit run` to make them agree"
        )
    return CardFacts(
        name=params.push.name,
        repo_id=params.push.repo_id if params.push.registry == "hub" else None,
        license=params.push.license,
        base_section=params.base,
        base=base,
        validation=validation,
        prepared=prepared,
        train_section=params.train,
        trained=trained,
        evaluated=evaluated,
        decision=decision,
        decision_markdown=markdown(decision),
        system_prompt=system_prompt(workspace.prepared / "train.parquet"),
        max_new_tokens=params.evaluate.max_new_tokens,
    )


def system_prompt(split: Path) -> str | None:
    """The most frequent system message among the first rows of a split; None if most have none."""
    if not split.is_file():
        return None
    import pyarrow.parquet as pq

    with pq.ParquetFile(split) as table:
        first = next(table.iter_batches(_ROWS_SEARCHED, columns=["messages"]), None)
    rows = first.column("messages").to_pylist() if first else []
    prompts = Counter(next((message["content"] for message in row if message["role"] == "system"), None) for row in rows)
    return prompts.most_common(1)[0][0] if prompts else None


def main() -> int:
    """Entry point of `python -m tasks.push`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--approve", metavar="REASON", help="who approves it and why; the registry keeps it")
    parser.add_argument("--override", action="store_true", help="publish what the gate did not pass, for the reason of --approve")

    def run(workspace: Workspace, params: Params) -> PushReceipt:
        given = parser.parse_args()
        return push(open_registry(params.push, workspace), workspace, params, given.approve, given.override)

    return stage_main(__doc__, run, parser)


if __name__ == "__main__":
    sys.exit(main())
