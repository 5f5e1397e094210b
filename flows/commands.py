"""What each command of `refit` does; each takes its parsed arguments and returns the exit code."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from importlib import import_module
from typing import Any

from tasks.decision_text import explain as explained
from tasks.errors import DataError, InputError, NetworkError, ParamsError
from tasks.evaluation_records import GateDecision
from tasks.hub_repository import token_of_environment
from tasks.overrides import overridden, override
from tasks.params import Params, load_params
from tasks.paths import Workspace
from tasks.registry import Registry, open_registry

EXIT_CODES = {"Published": 0, "Unchanged": 0, "Rejected": 3, "Inconclusive": 4, "AwaitingApproval": 5, "NotPublished": 6}


def run(arguments: argparse.Namespace) -> int:
    from flows.status import read_status
    from tasks.lease import lease

    workspace = Workspace.find(arguments.workspace)
    with lease(workspace, "refit run", _tell):
        for change in override(workspace.params, arguments.settings):
            _tell(f"params.yaml: {change}")
        params = load_params(workspace.params)
        # Without the token only the flow, which may find it in a Secret block, can ask the Hub what it has.
        known = params.push.registry == "local" or bool(token_of_environment())
        status = read_status(workspace, params) if known else None
    if status and status.settled and arguments.force is None:
        assert status.decision is not None
        if status.published:
            last = f"the champion is {status.champion}"
        else:
            last = f"the last decision was {status.decision.verdict}{', the candidate was refused' if status.withdrawn else ''}"
        return _finish(arguments, "Unchanged", f"nothing changed since the last run; {last}")

    asked = {"force": arguments.force, "dry_run": arguments.dry_run, "reason": arguments.reason}
    return _finish(arguments, *_run_flow("retrain", workspace=str(workspace.root), **asked))


def _run_flow(flow: str, **parameters: Any) -> tuple[str, str]:
    """The name and message of the state in which a flow of this project ends."""
    _silence_prefect()
    from flows.console import run_in_process

    return run_in_process(lambda: getattr(import_module(f"flows.{flow}"), flow), **parameters)


def _silence_prefect() -> None:
    """Before it is imported: no telemetry."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def serve(arguments: argparse.Namespace) -> int:
    workspace = Workspace.find(arguments.workspace)
    _silence_prefect()
    from flows.serve import serve

    cron = None if arguments.cron == "none" else arguments.cron
    serve(workspace, cron, arguments.timezone, arguments.collision_strategy, arguments.quiet_seconds, arguments.min_new_rows)
    return 0


def approve(arguments: argparse.Namespace) -> int:
    workspace = Workspace.find(arguments.workspace)
    state = _run_flow(
        "promote",
        candidate=arguments.candidate,
        reason=arguments.reason,
        override=arguments.override,
        workspace=str(workspace.root),
    )
    return _finish(arguments, *state)


def reject(arguments: argparse.Namespace) -> int:
    from tasks.refusals import refuse, waiting

    workspace = Workspace.find(arguments.workspace)
    decision = waiting(workspace, arguments.candidate)
    refuse(workspace, decision, arguments.reason)
    digest = decision.candidate_digest
    _show(arguments, {"candidate": digest, "reason": arguments.reason}, f"refused {digest[:12]}: nothing publishes it any more")
    return 0


def _finish(arguments: argparse.Namespace, name: str, message: str) -> int:
    _show(arguments, {"state": name, "message": message}, f"{name}: {message}")
    return EXIT_CODES[name]


def status(arguments: argparse.Namespace) -> int:
    """Prefect is asked, and imported, only where a server is known."""
    from flows.server_status import api_of, read_server_status
    from flows.status import read_status
    from tasks.repro import STAGES

    workspace = Workspace.find(arguments.workspace)
    params = load_params(workspace.params)
    status = read_status(workspace, params)
    verdict = status.decision.verdict if status.decision else None
    waits = status.waits if params.push.require_approval else None
    waiting = f"; candidate {waits[:12]} waits: `refit approve {waits[:12]} --reason WHY`" if waits else ""
    api = api_of(workspace)
    server, silent = None, "none known: set PREFECT_API_URL, or `refit serve`"
    try:
        server = read_server_status(api, params.push.name) if api else None
    except NetworkError as error:
        silent = str(error)
    lines = [f"{stage:<20} {'to run' if stage in status.stale else 'up to date'}" for stage in STAGES]
    lines.append(f"{'last decision':<20} {verdict or 'none yet'}{waiting}")
    lines.append(f"{'champion':<20} {status.champion or 'none yet'}{' (this candidate)' if status.published else ''}")
    lines.append(f"{'data':<20} {'some wait that no run has seen' if status.data_wait else 'as the last run saw them'}")
    lines.append(f"{'server':<20} {server.api if server else silent}")
    if server:
        lines.append(f"{'next run':<20} {server.next or 'none planned'}")
        lines += [f"{'run':<20} {run.line()}" for run in server.runs]
    value = {
        "stale": status.stale,
        "decision": verdict,
        "waits_for_approval": waits,
        "champion": status.champion,
        "candidate_is_champion": status.published,
        "data_wait": status.data_wait,
        "server": asdict(server) if server else None,
    }
    _show(arguments, value, "\n".join(lines))
    return 0


def deploy(arguments: argparse.Namespace) -> int:
    workspace = Workspace.find(arguments.workspace)
    _silence_prefect()
    from flows.deploy import deploy

    names = deploy(workspace, arguments.file or workspace.root / "deployments" / "prefect.yaml")
    _show(arguments, {"deployments": names}, f"deployed: {', '.join(names)}")
    return 0


def clean(arguments: argparse.Namespace) -> int:
    from tasks.lease import lease
    from tasks.retention import clean

    workspace = Workspace.find(arguments.workspace)
    with lease(workspace, "refit clean", _tell):
        said = clean(workspace, load_params(workspace.params))
    _show(arguments, {"removed": said}, "\n".join(said) or "nothing to remove; `retention` of params.yaml says what may go")
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def doctor(arguments: argparse.Namespace) -> int:
    """Checks are printed as they are done."""
    from tasks.preflight import examine

    workspace = Workspace.find(arguments.workspace)
    found = []
    for check in examine(workspace, load_params(workspace.params)):
        found.append(check)
        if not arguments.json:
            print(check.line(), flush=True)
    if arguments.json:
        _show(arguments, {"checks": [asdict(check) for check in found]}, "")
    return InputError.exit_code if any(check.fault for check in found) else 0


def _registry(arguments: argparse.Namespace) -> tuple[Registry, Workspace, Params]:
    workspace = Workspace.find(arguments.workspace)
    params = load_params(workspace.params)
    return open_registry(params.push, workspace), workspace, params


def versions(arguments: argparse.Namespace) -> int:
    from tasks.versions import list_versions

    registry, _, _ = _registry(arguments)
    found = list_versions(registry)
    lines = "\n".join(version.line() for version in found) or f"{registry.name}: no version yet; `refit run` publishes the first"
    _show(arguments, {"registry": registry.name, "versions": [asdict(version) for version in found]}, lines)
    return 0


def show_version(arguments: argparse.Namespace) -> int:
    from tasks.versions import show

    registry, _, _ = _registry(arguments)
    found = show(registry, arguments.version)
    _show(arguments, found.as_json(), "\n".join(found.lines()))
    return 0


def rollback(arguments: argparse.Namespace) -> int:
    registry, _, _ = _registry(arguments)
    pointer = registry.rollback(arguments.version, arguments.reason)
    _show(
        arguments, pointer.model_dump(mode="json"), f"{registry.name}: the champion is {pointer.version} ({pointer.digest[:12]})"
    )
    return 0


def reproduce(arguments: argparse.Namespace) -> int:
    from tasks.reproduce import reproduce

    registry, workspace, params = _registry(arguments)
    folder = arguments.into or workspace.root.parent / f"{params.push.name}-{arguments.version}"
    found = reproduce(registry, arguments.version, folder, workspace)
    _show(arguments, {**asdict(found), "folder": str(found.folder)}, "\n".join(found.lines()))
    return 0


def show_template(arguments: argparse.Namespace) -> int:
    """What the loss counts on is green on a terminal, and between `>>>` and `<<<` elsewhere."""
    from tasks.chat import load_tokenizer
    from tasks.template_preview import DEMONSTRATION, marked, row_of, template_of

    workspace = Workspace.find(arguments.workspace)
    tokenizer = load_tokenizer(workspace.base)
    if arguments.template is not None:
        tokenizer.chat_template = template_of(arguments.template)
    split, row = workspace.prepared / "train.parquet", arguments.row
    messages, tools = (DEMONSTRATION, []) if row is None else row_of(split, row)
    last_only = load_params(workspace.params).train.completion_only_loss
    pieces = list(marked(tokenizer, messages, tools, last_only))
    before, after = ("\x1b[32m", "\x1b[0m") if sys.stdout.isatty() else (">>>", "<<<")
    text = "".join(f"{before}{piece}{after}" if supervised else piece for piece, supervised in pieces)
    _show(arguments, {"pieces": [{"text": piece, "supervised": supervised} for piece, supervised in pieces]}, text)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Answers are printed as they come."""
    from tasks.compare import answers
    from tasks.push import system_prompt

    workspace = Workspace.find(arguments.workspace)
    params = load_params(workspace.params)
    system = arguments.system or system_prompt(workspace.prepared / "train.parquet")
    messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": arguments.prompt}]
    found = {}
    for role, text in answers(params.evaluate, messages, workspace):
        found[role] = text
        if not arguments.json:
            print(f"{role}:\n{text}\n", flush=True)
    if arguments.json:
        _show(arguments, {"messages": messages, "answers": found}, "")
    return 0


def check(arguments: argparse.Namespace) -> int:
    from tasks.data_check import check_files

    workspace = Workspace.find(arguments.workspace)
    found = list(check_files(arguments.paths, load_params(workspace.params), workspace))
    lines = [line for file in found for line in file.lines()]
    if not (workspace.base / "tokenizer.json").is_file():
        lines.append("tokens were not counted, control tokens not looked for: the base model was not fetched yet (`refit run`)")
    _show(arguments, {"files": [asdict(file) for file in found]}, "\n".join(lines))
    return 0 if all(file.good for file in found) else DataError.exit_code


def add(arguments: argparse.Namespace) -> int:
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


def diff(arguments: argparse.Namespace) -> int:
    from tasks.data_versions import read_version
    from tasks.row_diff import compare

    workspace = Workspace.find(arguments.workspace)
    section = load_params(workspace.params).validation
    difference = compare(*(read_version(name, section, workspace) for name in (arguments.old, arguments.new)))
    _show(arguments, difference.as_json(), "\n".join(difference.lines()))
    return 0


def explain(arguments: argparse.Namespace) -> int:
    workspace = Workspace.find(arguments.workspace)
    decision = GateDecision.read(workspace.record("gate"))
    _show(arguments, decision.model_dump(mode="json"), explained(decision))
    return 0


def replay(arguments: argparse.Namespace) -> int:
    from tasks.gate import replay

    workspace = Workspace.find(arguments.workspace)
    if others := [setting for setting in arguments.settings if not setting.startswith("gate.")]:
        raise ParamsError(f"--set {others[0]}: is not of the section gate, so the stored scores do not tell what it would change")
    decision = replay(overridden(workspace.params, arguments.settings).gate, workspace)
    _show(arguments, decision.model_dump(mode="json"), explained(decision))
    return {"PASS": 0, "FAIL": EXIT_CODES["Rejected"], "INCONCLUSIVE": EXIT_CODES["Inconclusive"]}[decision.verdict]


def _show(arguments: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False) if arguments.json else text)
