"""The command `refit`. Prefect is imported only when there is something to run."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from tasks.decision_text import explain
from tasks.errors import DataError, ParamsError, PipelineError
from tasks.overrides import overridden, override
from tasks.params import Params, load_params
from tasks.paths import Workspace
from tasks.process import format_error
from tasks.records import GateDecision
from tasks.registry import Registry, open_registry

EXIT_CODES = {"Published": 0, "Unchanged": 0, "Rejected": 3, "Inconclusive": 4, "AwaitingApproval": 5}
CRON = "0 3 * * *"
_EPILOG = """exit codes: 0 published or unchanged, 1 failure, 2 bad input (parameters, data, usage), 3 rejected by the gate,
4 inconclusive (too few items to tell), 5 awaiting approval (`refit approve`)"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except PipelineError as error:
        print(format_error(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("refit: interrupted; run again to go on where it stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--workspace", type=Path, help="folder with params.yaml, dvc.yaml and data/ (default: found from here)")
    common.add_argument("--json", action="store_true", help="print one JSON object on standard output; logs go to standard error")

    parser = argparse.ArgumentParser(prog="refit", description="Retrain, judge and publish a fine-tuned model.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"refit {metadata.version('refit')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", parents=[common], help="run the pipeline; stages whose inputs did not change are skipped", epilog=_EPILOG
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.key=value",
        dest="settings",
        help="write a value into params.yaml first",
    )
    run.set_defaults(command=_run)

    serve = commands.add_parser(
        "serve", parents=[common], help="server, dashboard, schedule and watch of the data, until stopped"
    )
    serve.add_argument("--cron", default=CRON, help=f"when to retrain, or `none` (default: {CRON})")
    serve.add_argument("--timezone", default="UTC", help="of --cron, such as Europe/Berlin (default: UTC)")
    serve.add_argument(
        "--quiet-seconds", type=float, default=30, help="without a change, before new data start a run (default: 30)"
    )
    serve.add_argument("--min-new-rows", type=int, default=0, help="fewer new rows wait for others (default: 0)")
    serve.set_defaults(command=_serve)

    approve = commands.add_parser(
        "approve", parents=[common], help="publish the candidate that waits for approval", epilog=_EPILOG
    )
    approve.add_argument("candidate", help="first characters (8 or more) of its digest")
    approve.add_argument("--reason", required=True, help="who approves it and why; the registry keeps it")
    approve.set_defaults(command=_approve)

    versions = commands.add_parser("versions", parents=[common], help="the published versions, oldest first")
    versions.set_defaults(command=_versions)

    show = commands.add_parser("show", parents=[common], help="one version: its place in the history, training and decision")
    show.add_argument("version", help="such as v3")
    show.set_defaults(command=_show_version)

    rollback = commands.add_parser(
        "rollback", parents=[common], help="make an earlier version the champion again", epilog=_EPILOG
    )
    rollback.add_argument("version", nargs="?", help="such as v3 (default: the one that the champion replaced)")
    rollback.add_argument("--reason", required=True, help="who does it and why; the registry keeps it")
    rollback.set_defaults(command=_rollback)

    reproduce = commands.add_parser(
        "reproduce", parents=[common], help="lay out code, parameters and data of a version, and say what would differ"
    )
    reproduce.add_argument("version", help="such as v3")
    reproduce.add_argument("--into", type=Path, metavar="FOLDER", help="new folder (default: beside the workspace, NAME-vN)")
    reproduce.set_defaults(command=_reproduce)

    status = commands.add_parser("status", parents=[common], help="what is up to date, the last decision, the champion")
    status.set_defaults(command=_status)

    data = commands.add_parser("data", help="the conversations").add_subparsers(required=True, metavar="COMMAND")
    check = data.add_parser("check", parents=[common], help="judge files by the row rules; nothing is written", epilog=_EPILOG)
    check.add_argument("paths", nargs="+", type=Path, metavar="FILE", help="file, or folder of files")
    check.set_defaults(command=_check)

    add = data.add_parser("add", parents=[common], help="bring files into the raw data and record the version", epilog=_EPILOG)
    add.add_argument("paths", nargs="+", type=Path, metavar="FILE", help="file of conversations")
    add.set_defaults(command=_add)
    diff = data.add_parser("diff", parents=[common], help="what changed in rows between two versions", epilog=_EPILOG)
    diff.add_argument("old", metavar="A", help="file, folder, or git revision of the raw data")
    diff.add_argument("new", metavar="B", nargs="?", help="likewise (default: the raw data as they stand)")
    diff.set_defaults(command=_diff)

    gate = commands.add_parser("gate", help="the gate's decision").add_subparsers(required=True, metavar="COMMAND")
    explained = gate.add_parser("explain", parents=[common], help="each rule with its value, bound, threshold and reason")
    explained.set_defaults(command=_explain)
    replayed = gate.add_parser(
        "replay", parents=[common], help="decide again from the stored scores, with other thresholds; changes nothing"
    )
    replayed.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="gate.key=value",
        dest="settings",
        help="a value to try, of the section gate",
    )
    replayed.set_defaults(command=_replay)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from flows.status import read_status

    workspace = Workspace.find(arguments.workspace)
    for change in override(workspace.params, arguments.settings):
        print(f"params.yaml: {change}", file=sys.stderr)
    params = load_params(workspace.params)
    # Without the token only the flow, which may find it in a Secret block, can ask the Hub what it has.
    known = params.push.registry == "local" or bool(os.environ.get("HF_TOKEN"))
    if known and (status := read_status(workspace, params)).settled:
        assert status.decision is not None
        last = f"the champion is {status.champion}" if status.published else f"the last decision was {status.decision.verdict}"
        return _finish(arguments, "Unchanged", f"nothing changed since the last run; {last}")

    return _finish(arguments, *_run_flow("retrain", workspace=str(workspace.root)))


def _run_flow(flow: str, **parameters: Any) -> tuple[str, str]:
    """The name and message of the state in which a flow of this project ends."""
    _silence_prefect()
    from flows.console import run_in_process

    return run_in_process(lambda: getattr(import_module(f"flows.{flow}"), flow), **parameters)


def _silence_prefect() -> None:
    """Before it is imported: no telemetry."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def _serve(arguments: argparse.Namespace) -> int:
    workspace = Workspace.find(arguments.workspace)
    _silence_prefect()
    from flows.serve import serve

    cron = None if arguments.cron == "none" else arguments.cron
    serve(workspace, cron, arguments.timezone, arguments.quiet_seconds, arguments.min_new_rows)
    return 0


def _approve(arguments: argparse.Namespace) -> int:
    workspace = Workspace.find(arguments.workspace)
    state = _run_flow("promote", candidate=arguments.candidate, reason=arguments.reason, workspace=str(workspace.root))
    return _finish(arguments, *state)


def _finish(arguments: argparse.Namespace, name: str, message: str) -> int:
    _show(arguments, {"state": name, "message": message}, f"{name}: {message}")
    return EXIT_CODES[name]


def _status(arguments: argparse.Namespace) -> int:
    from flows.status import read_status
    from tasks.repro import STAGES

    workspace = Workspace.find(arguments.workspace)
    status = read_status(workspace, load_params(workspace.params))
    verdict = status.decision.verdict if status.decision else None
    lines = [f"{stage:<20} {'to run' if stage in status.stale else 'up to date'}" for stage in STAGES]
    lines.append(f"{'last decision':<20} {verdict or 'none yet'}")
    lines.append(f"{'champion':<20} {status.champion or 'none yet'}{' (this candidate)' if status.published else ''}")
    value = {"stale": status.stale, "decision": verdict, "champion": status.champion, "candidate_is_champion": status.published}
    _show(arguments, value, "\n".join(lines))
    return 0


def _registry(arguments: argparse.Namespace) -> tuple[Registry, Workspace, Params]:
    workspace = Workspace.find(arguments.workspace)
    params = load_params(workspace.params)
    return open_registry(params.push, workspace), workspace, params


def _versions(arguments: argparse.Namespace) -> int:
    from tasks.versions import list_versions

    registry, _, _ = _registry(arguments)
    found = list_versions(registry)
    lines = "\n".join(version.line() for version in found) or f"{registry.name}: no version yet; `refit run` publishes the first"
    _show(arguments, {"registry": registry.name, "versions": [asdict(version) for version in found]}, lines)
    return 0


def _show_version(arguments: argparse.Namespace) -> int:
    from tasks.versions import show

    registry, _, _ = _registry(arguments)
    found = show(registry, arguments.version)
    _show(arguments, found.as_json(), "\n".join(found.lines()))
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    registry, _, _ = _registry(arguments)
    pointer = registry.rollback(arguments.version, arguments.reason)
    _show(
        arguments, pointer.model_dump(mode="json"), f"{registry.name}: the champion is {pointer.version} ({pointer.digest[:12]})"
    )
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from tasks.reproduce import reproduce

    registry, workspace, params = _registry(arguments)
    folder = arguments.into or workspace.root.parent / f"{params.push.name}-{arguments.version}"
    found = reproduce(registry, arguments.version, folder, workspace)
    _show(arguments, {**asdict(found), "folder": str(found.folder)}, "\n".join(found.lines()))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from tasks.data_check import check_files

    workspace = Workspace.find(arguments.workspace)
    found = list(check_files(arguments.paths, load_params(workspace.params), workspace))
    lines = [line for file in found for line in file.lines()]
    if not (workspace.base / "tokenizer.json").is_file():
        lines.append("tokens were not counted, control tokens not looked for: the base model was not fetched yet (`refit run`)")
    _show(arguments, {"files": [asdict(file) for file in found]}, "\n".join(lines))
    return 0 if all(file.good for file in found) else DataError.exit_code


def _add(arguments: argparse.Namespace) -> int:
    from tasks.data_check import check_files
    from tasks.data_versions import bring, plan_arrivals, record_version

    workspace = Workspace.find(arguments.workspace)
    params = load_params(workspace.params)
    folder = workspace.root / params.validation.raw
    arrivals = plan_arrivals(arguments.paths, folder)
    checks = list(check_files(arguments.paths, params, workspace))
    if errors := [check.error for check in checks if check.error]:
        raise DataError("\n".join([*errors, "nothing was added"]))
    bring(arrivals)
    after = record_version(workspace, folder)
    lines = [line for check in checks for line in check.lines()]
    lines += [f"{workspace.relative(a.target)}: {'was there already' if a.known else 'added'}" for a in arrivals]
    added, known = ([workspace.relative(a.target) for a in arrivals if a.known is is_known] for is_known in (False, True))
    value = {"files": [asdict(check) for check in checks], "added": added, "known": known, "then": after}
    _show(arguments, value, "\n".join([*lines, after]))
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from tasks.data_versions import read_version
    from tasks.row_diff import compare

    workspace = Workspace.find(arguments.workspace)
    section = load_params(workspace.params).validation
    difference = compare(*(read_version(name, section, workspace) for name in (arguments.old, arguments.new)))
    _show(arguments, difference.as_json(), "\n".join(difference.lines()))
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    workspace = Workspace.find(arguments.workspace)
    decision = GateDecision.read(workspace.record("gate"))
    _show(arguments, decision.model_dump(mode="json"), explain(decision))
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    from tasks.gate import replay

    workspace = Workspace.find(arguments.workspace)
    if others := [setting for setting in arguments.settings if not setting.startswith("gate.")]:
        raise ParamsError(f"--set {others[0]}: is not of the section gate, so the stored scores do not tell what it would change")
    decision = replay(overridden(workspace.params, arguments.settings).gate, workspace)
    _show(arguments, decision.model_dump(mode="json"), explain(decision))
    return {"PASS": 0, "FAIL": EXIT_CODES["Rejected"], "INCONCLUSIVE": EXIT_CODES["Inconclusive"]}[decision.verdict]


def _show(arguments: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False) if arguments.json else text)


if __name__ == "__main__":
    sys.exit(main())
