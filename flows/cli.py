"""The command `refit`. Prefect is imported only when there is something to run."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import get_args

from flows import commands
from flows.settings import Stage
from tasks.errors import PipelineError
from tasks.process import format_error

CRON = "0 3 * * *"
_EPILOG = """exit codes: 0 published or unchanged, 1 failure, 2 bad input (parameters, data, usage), 3 rejected by the gate,
4 inconclusive (too few items to tell), 5 awaiting approval (`refit approve`), 6 not published (a person refused it)"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        code = command(arguments)
        sys.stdout.flush()
        return code
    except PipelineError as error:
        print(format_error(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("refit: interrupted; run again to go on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read it, as in `refit versions | head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--workspace", type=Path, help="folder with params.yaml, dvc.yaml and data/ (default: found from here)")
    common.add_argument("--json", action="store_true", help="print one JSON object on standard output; logs go to standard error")

    parser = argparse.ArgumentParser(prog="refit", description="Retrain, judge and publish a fine-tuned model.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"refit {metadata.version('refit')}")
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = subcommands.add_parser(
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
    run.add_argument("--dry-run", action="store_true", help="judge, and publish nothing")
    run.add_argument("--force", choices=get_args(Stage), metavar="STAGE", help="run this stage even if nothing changed")
    run.add_argument("--reason", default="", help="why this run; it is shown with its parameters")
    run.set_defaults(command=commands.run)

    serve = subcommands.add_parser(
        "serve", parents=[common], help="server, dashboard, schedule and watch of the data, until stopped"
    )
    serve.add_argument("--cron", default=CRON, help=f"when to retrain, or `none` (default: {CRON})")
    serve.add_argument("--timezone", default="UTC", help="of --cron, such as Europe/Berlin (default: UTC)")
    serve.add_argument(
        "--collision-strategy",
        default="ENQUEUE",
        choices=["ENQUEUE", "CANCEL_NEW"],
        help="of a run that comes while another one works: it waits, or is cancelled (default: ENQUEUE)",
    )
    serve.add_argument(
        "--quiet-seconds", type=float, default=30, help="without a change, before new data start a run (default: 30)"
    )
    serve.add_argument("--min-new-rows", type=int, default=0, help="fewer new rows wait for others (default: 0)")
    serve.set_defaults(command=commands.serve)

    deploy = subcommands.add_parser(
        "deploy", parents=[common], help="register deployments, work pool and automation with a team's Prefect server"
    )
    deploy.add_argument("--file", type=Path, help="default: deployments/prefect.yaml of the workspace")
    deploy.set_defaults(command=commands.deploy)

    approve = subcommands.add_parser(
        "approve", parents=[common], help="publish the candidate that waits for approval", epilog=_EPILOG
    )
    approve.add_argument("candidate", help="first characters (8 or more) of its digest")
    approve.add_argument("--reason", required=True, help="who approves it and why; the registry keeps it")
    approve.add_argument(
        "--override", action="store_true", help="publish it though the gate did not pass it; decision, card and history say so"
    )
    approve.set_defaults(command=commands.approve)

    reject = subcommands.add_parser("reject", parents=[common], help="refuse the candidate that waits for approval, for good")
    reject.add_argument("candidate", help="first characters (8 or more) of its digest")
    reject.add_argument("--reason", required=True, help="who refuses it and why")
    reject.set_defaults(command=commands.reject)

    versions = subcommands.add_parser("versions", parents=[common], help="the published versions, oldest first")
    versions.set_defaults(command=commands.versions)

    show = subcommands.add_parser("show", parents=[common], help="one version: its place in the history, training and decision")
    show.add_argument("version", help="such as v3")
    show.set_defaults(command=commands.show_version)

    rollback = subcommands.add_parser(
        "rollback", parents=[common], help="make an earlier version the champion again", epilog=_EPILOG
    )
    rollback.add_argument("version", nargs="?", help="such as v3 (default: the one that the champion replaced)")
    rollback.add_argument("--reason", required=True, help="who does it and why; the registry keeps it")
    rollback.set_defaults(command=commands.rollback)

    reproduce = subcommands.add_parser(
        "reproduce", parents=[common], help="lay out code, parameters and data of a version, and say what would differ"
    )
    reproduce.add_argument("version", help="such as v3")
    reproduce.add_argument("--into", type=Path, metavar="FOLDER", help="new folder (default: beside the workspace, NAME-vN)")
    reproduce.set_defaults(command=commands.reproduce)

    doctor = subcommands.add_parser("doctor", parents=[common], help="what would stop a run, all of it at once; changes nothing")
    doctor.set_defaults(command=commands.doctor)

    clean = subcommands.add_parser("clean", parents=[common], help="remove now what `retention` of params.yaml gives up")
    clean.set_defaults(command=commands.clean)

    status = subcommands.add_parser(
        "status", parents=[common], help="what is up to date, the last decision, the champion, the last runs and the next one"
    )
    status.set_defaults(command=commands.status)

    data = subcommands.add_parser("data", help="the conversations").add_subparsers(required=True, metavar="COMMAND")
    check = data.add_parser("check", parents=[common], help="judge files by the row rules; nothing is written", epilog=_EPILOG)
    check.add_argument("paths", nargs="+", type=Path, metavar="FILE", help="file, or folder of files")
    check.set_defaults(command=commands.check)

    add = data.add_parser("add", parents=[common], help="bring files into the raw data and record the version", epilog=_EPILOG)
    add.add_argument("paths", nargs="+", type=Path, metavar="FILE", help="file of conversations")
    add.set_defaults(command=commands.add)
    diff = data.add_parser("diff", parents=[common], help="what changed in rows between two versions", epilog=_EPILOG)
    diff.add_argument("old", metavar="A", help="file, folder, or git revision of the raw data")
    diff.add_argument("new", metavar="B", nargs="?", help="likewise (default: the raw data as they stand)")
    diff.set_defaults(command=commands.diff)

    template = subcommands.add_parser("template", help="the chat template").add_subparsers(required=True, metavar="COMMAND")
    preview = template.add_parser(
        "show", parents=[common], help="a conversation as the model reads it, with what the loss counts on marked"
    )
    preview.add_argument("--template", metavar="NAME|FILE", help="another one to try (default: the one of data/base)")
    preview.add_argument("--row", type=int, metavar="N", help="row of the train split (default: a short conversation)")
    preview.set_defaults(command=commands.show_template)

    compare = subcommands.add_parser("compare", parents=[common], help="ask base, champion and candidate the same thing")
    compare.add_argument("prompt", help="what a user would write")
    compare.add_argument("--system", metavar="TEXT", help="the system prompt (default: the most frequent of the training data)")
    compare.set_defaults(command=commands.compare)

    gate = subcommands.add_parser("gate", help="the gate's decision").add_subparsers(required=True, metavar="COMMAND")
    explained = gate.add_parser("explain", parents=[common], help="each rule with its value, bound, threshold and reason")
    explained.set_defaults(command=commands.explain)
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
    replayed.set_defaults(command=commands.replay)
    return parser


if __name__ == "__main__":
    sys.exit(main())
