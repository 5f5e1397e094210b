"""Compare the accepted rows with those of the last published version, before hours go into training on them.

    python -m tasks.drift

Writes data/profile.json, which is published with the model, and, unless drift.severity is critical and something drifted,
data/reports/drift.json.
"""

import sys

from tasks import data_profile
from tasks.data_profile import Profile
from tasks.errors import DataError, RegistryError
from tasks.params import Params
from tasks.paths import Workspace
from tasks.process import stage_main
from tasks.records import DriftReport, ValidationReport
from tasks.registry import PROFILE, Registry, open_registry
from tasks.sections import Drift


def drift(section: Drift, registry: Registry, workspace: Workspace) -> DriftReport:
    """Run the stage.

    Returns:
        The record, written. Without an earlier version there is nothing to compare, and nothing drifted.

    Raises:
        DataError: a feature drifted, and `severity` is critical.
        StageInputError: validate has not finished.
        RegistryError: the profile of the earlier version is damaged.
    """
    workspace.record("drift").unlink(missing_ok=True)
    accepted = ValidationReport.read(workspace.record("validate")).accepted_sha256
    now = data_profile.profile(workspace.accepted, accepted).write(workspace.profile)
    reference = _reference(registry, accepted)
    version, before = reference or (None, None)
    features = data_profile.drift(before, now, section.max_distance.model_dump()) if before else []
    report = DriftReport(accepted_sha256=accepted, reference=version, features=features)
    if section.severity == "critical" and any(feature.drifted for feature in features):
        raise DataError(
            f"{report.summary()}\nmend the data; or, if they are as they should be, raise drift.max_distance or set "
            "drift.severity=warning for this run: what it publishes is what the next ones are compared with. Data of another "
            "model need another push.name and push.path (or push.repo_id)"
        )
    return report.write(workspace.record("drift"))


def current_reference(workspace: Workspace, params: Params) -> str | None:
    """The version that the stage would compare with now; reads a few small files."""
    accepted = ValidationReport.read(workspace.record("validate")).accepted_sha256
    reference = _reference(open_registry(params.push, workspace), accepted)
    return reference[0] if reference else None


def _reference(registry: Registry, accepted_sha256: str) -> tuple[str, Profile] | None:
    """The champion; or, where it was made of these very rows, the version before it: publishing them changes no answer."""
    champion = registry.champion()
    versions = registry.versions()
    for version in reversed(versions[: versions.index(champion.version) + 1] if champion else []):
        document = registry.document(version, PROFILE)
        if document is None or registry.withdrawn(registry.digest(version)) is not None:
            continue
        found = _parse(document, version, registry)
        if found.accepted_sha256 != accepted_sha256:
            return version, found
    return None


def _parse(document: bytes, version: str, registry: Registry) -> Profile:
    try:
        return Profile.model_validate_json(document)
    except ValueError as error:
        raise RegistryError(
            f"{registry.name}: {PROFILE} of {version} is no profile ({str(error).splitlines()[0]}); restore it from a backup"
        ) from None


def _run(workspace: Workspace, params: Params) -> DriftReport:
    return drift(params.drift, open_registry(params.push, workspace), workspace)


def main() -> int:
    """Entry point of the stage."""
    return stage_main(__doc__, _run)


if __name__ == "__main__":
    sys.exit(main())
