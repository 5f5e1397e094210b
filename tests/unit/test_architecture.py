"""The shape of the project: who may import whom, what dvc.yaml must say, what loads when, what may not be written down."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.files import parse_yaml
from tasks.params import Params
from tasks.paths import ROLES, Workspace

ROOT = Path(__file__).parents[2]

# Layers of tasks/, lowest first. A module may import those of its own layer and of lower ones, but for stages: none imports
# another, so that each can be run, replaced and understood alone.
COMMON = {
    "errors",
    "text_faults",
    "lease",
    "files",
    "paths",
    "sections",
    "training_section",
    "publishing_sections",
    "evaluation_sections",
    "params",
    "overrides",
    "records",
    "evaluation_records",
    "process",
    "dvc_repo",
    "guidelines",
    "chat",
    "template_analysis",
    "environment",
}
PURE = {
    "accepted",
    "base_source",
    "chat_template",
    "template_preview",
    "model_folder",
    "checkpoints",
    "fit",
    "reply_scores",
    "sft_config",
    "sft_setup",
    "sft_trainer",
    "training_checks",
    "warm_start",
    "comparison",
    "contamination",
    "compare",
    "conversations",
    "data_check",
    "data_profile",
    "data_watch",
    "data_source",
    "data_versions",
    "dataset_card",
    "decision_log",
    "decision_text",
    "dedupe",
    "eval_tasks",
    "expectations",
    "fast_tokenizer",
    "figures",
    "formats",
    "integrity",
    "item_scores",
    "judge",
    "language",
    "local_registry",
    "hub_repository",
    "hub_state",
    "hub_staging",
    "hub_registry",
    "markdown",
    "model_card",
    "ngrams",
    "normalisation",
    "parallel",
    "pictures",
    "preflight",
    "progress",
    "quarantine",
    "readers",
    "refusals",
    "registry",
    "repro",
    "reproduce",
    "retention",
    "row_diff",
    "row_rules",
    "scorer_files",
    "scorers",
    "screening",
    "sensitive",
    "slices",
    "statistics",
    "tables",
    "target_suite",
    "tool_calls",
    "versions",
}
STAGES = {"suites", "base", "validate", "drift", "prepare", "train", "champion", "evaluate", "gate", "report", "push", "record"}
LAYERS = {f"tasks.{name}": rank for rank, layer in enumerate((COMMON, PURE, STAGES)) for name in layer}

# What subclasses TRL's trainer must load it; nobody else does so at module level.
SUBCLASSES = "tasks.sft_trainer"
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "safetensors",
    "gguf",
    "great_expectations",
    "huggingface_hub",
    "lm_eval",
    "dvc",
    "pyarrow",
    "pandas",
    "numpy",
    "ijson",
    "phonenumbers",
    "stdnum",
    "py3langid",
    "rensa",
    "fastokens",
    "scipy",
}

# The stages of dvc.yaml in order, with their places in a workspace. `push` is not one: `dvc repro` must never publish.
HERE = Workspace(Path())
OUTPUTS = {
    "suites": {HERE.suites.parent},
    "base": {HERE.base},
    "validate": {HERE.accepted, HERE.quarantine, HERE.data_docs},
    "drift": {HERE.profile},
    "prepare": {HERE.prepared},
    "train": {HERE.candidate},
    "champion": {HERE.champion, HERE.best},
    **{f"evaluate@{role}": {HERE.scores(role)} for role in ROLES},
    "gate": set(),
    "report": {HERE.report},
}

# Modules that need not stand in a stage's deps, though it imports them. They carry what DVC sees by itself, and their change
# would retrain every model for nothing: `params` and `sections` what is under `params:`, `paths` the deps and outs, `errors` and
# `process` words and exit codes. A change of `records` is loud: an old record that no longer fits stops the next stage with a
# StageInputError. So does one of `files` that changes what a digest means: the next stage finds another one than the record says.
# The registry's modules are none of `train`'s either, which reads a model there only if it starts from the champion: its record
# says from which, with its digest.
NO_DEPENDENCY = {
    f"tasks.{name}"
    for name in (
        *("errors", "files", "params", "paths", "process", "records", "evaluation_records"),
        *("sections", "training_section", "publishing_sections", "evaluation_sections"),
    )
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def module_paths(package: str) -> dict[str, Path]:
    return {module_name(path): path for path in sorted((ROOT / package).rglob("*.py"))}


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Full names in import statements; of `from a import b` both a and a.b, since b may be a module."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import; write the full name"
            names |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported, without `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from outside_functions(child)


@cache
def imports_of(path: Path) -> set[str]:
    return imported(ast.walk(syntax(path)))


def ours(names: set[str]) -> set[str]:
    known = module_paths("tasks") | module_paths("flows")
    return {name for name in names if name in known} - {"tasks", "flows"}


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@cache
def closure(module: str) -> frozenset[str]:
    """`module` and every module of tasks/ that it imports, directly or through another, also inside functions."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += ours(imports_of(module_paths("tasks")[name]))
    return frozenset(seen)


# (a) Who may import whom.


def test_every_module_has_its_layer() -> None:
    found = set(module_paths("tasks")) - {"tasks"}
    new, gone = sorted(found - set(LAYERS)), sorted(set(LAYERS) - found)
    assert not new, f"{new}: add to COMMON, PURE or STAGES at the top of {Path(__file__).name}, the lowest that fits"
    assert not gone, f"{gone}: no such modules any more; remove them from the layers in {Path(__file__).name}"


def test_imports_point_downwards_and_no_stage_imports_another() -> None:
    faults = []
    for module, path in module_paths("tasks").items():
        for other in ours(imports_of(path)) - {module}:
            if LAYERS.get(other, 0) > LAYERS.get(module, 0):
                faults.append(f"{module} imports {other} of a higher layer; move what they share down")
            if {module, other} <= {f"tasks.{stage}" for stage in STAGES}:
                faults.append(f"stage {module} imports stage {other}; move what they share into a module of PURE")
    assert not faults, "\n".join(faults)


def test_tasks_know_nothing_of_flows() -> None:
    for module, path in module_paths("tasks").items():
        assert not tops(imports_of(path)) & {"flows", "prefect", "deployments", "tests"}, f"{module}: tasks/ runs without Prefect"
        assert not path.read_text(encoding="utf-8").count("sys.path"), module


def test_no_module_is_longer_than_a_sitting() -> None:
    long = {
        module: len(path.read_text().splitlines())
        for package in ("tasks", "flows")
        for module, path in module_paths(package).items()
    }
    assert {module: lines for module, lines in long.items() if lines > 360} == {}, "split it: the limit is about 300 lines"


def test_what_is_imported_is_declared() -> None:
    """Each library is a dependency of ours, not only of somebody else's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=!~\[; ]", line)[0].lower().replace("-", "_") for line in project["dependencies"]}
    distributions = {"yaml": "pyyaml", "ruamel": "ruamel.yaml", "stdnum": "python_stdnum"}
    for package in ("tasks", "flows"):
        for module, path in module_paths(package).items():
            others = tops(imports_of(path)) - set(sys.stdlib_module_names) - {"tasks", "flows", "__future__"}
            missing = {distributions.get(name, name) for name in others} - declared
            assert not missing, f"{module} imports {sorted(missing)}; add to dependencies in pyproject.toml"


# (b) dvc.yaml says what the code does.


def expand(name: str, entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """One entry of dvc.yaml as the stages that it stands for; `foreach` over a list or a mapping, `matrix` of one variable."""
    if "foreach" in entry:
        items = entry["foreach"]
        variables = {
            str(item): {"key": str(item), "item": str(items[item] if isinstance(items, dict) else item)} for item in items
        }
        body = entry["do"]
    elif "matrix" in entry:
        ((variable, values),) = entry["matrix"].items()
        variables = {str(value): {f"item.{variable}": str(value)} for value in values}
        body = {key: value for key, value in entry.items() if key != "matrix"}
    else:
        return {name: entry}
    stages = {}
    for key, replacements in variables.items():
        text = yaml.safe_dump(body)
        for variable, value in replacements.items():
            text = text.replace(f"${{{variable}}}", value)
        assert "${" not in text, f"{name}: a placeholder that this test does not know"
        stages[f"{name}@{key}"] = parse_yaml(text)
    return stages


@cache
def parameters() -> Any:
    return parse_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"))


def parameter(key: str) -> str:
    """A value of params.yaml, which DVC puts in place of `${section.name}`."""
    section, _, name = key.partition(".")
    return str(parameters()[section][name])


@pytest.fixture(scope="module")
def pipeline() -> dict[str, dict[str, Any]]:
    text = re.sub(r"\$\{(\w+\.\w+)\}", lambda found: parameter(found[1]), (ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    tree = parse_yaml(text)
    assert isinstance(tree, dict), "dvc.yaml is empty"
    return {name: stage for entry, body in tree["stages"].items() for name, stage in expand(entry, body).items()}


def listed(stage: dict[str, Any], *keys: str) -> set[Path]:
    """Paths under these keys of a stage; an entry is a string or a mapping with its options."""
    entries = [entry for key in keys for entry in stage.get(key, [])]
    return {Path(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries}


def module_of(stage: str) -> str:
    return f"tasks.{stage.partition('@')[0]}"


def within(path: Path, folders: set[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def test_the_stages_stand_in_order_and_push_is_none(pipeline: dict[str, dict[str, Any]]) -> None:
    assert list(pipeline) == list(OUTPUTS)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_stage_runs_its_module(pipeline: dict[str, dict[str, Any]], name: str) -> None:
    stage, _, role = name.partition("@")
    command = pipeline[name]["cmd"].split()
    assert command[:3] == ["python", "-m", f"tasks.{stage}"]
    assert command[3:] in ([role], [f"--role={role}"], ["--role", role]) if role else command[3:] == []
    assert "wdir" not in pipeline[name]


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_stage_depends_on_all_code_that_it_runs(pipeline: dict[str, dict[str, Any]], name: str) -> None:
    deps = listed(pipeline[name], "deps")
    if pipeline[name].get("always_changed"):
        return  # DVC runs it whatever its code was
    registry = closure("tasks.registry") - {"tasks.model_folder"} if name == "train" else set()
    modules = closure(module_of(name)) - NO_DEPENDENCY - registry
    wanted = {module_paths("tasks")[module].relative_to(ROOT) for module in modules}
    assert not (missing := sorted(map(str, wanted - deps))), f"dvc.yaml: add to deps of {name}: {missing}"
    code = {path for path in deps if path.parts[0] in {"tasks", "flows"} and path.suffix == ".py"}
    assert not (surplus := sorted(map(str, code - wanted))), f"dvc.yaml: {name} does not import, or must not depend on, {surplus}"


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_stage_declares_the_parameters_that_it_reads(pipeline: dict[str, dict[str, Any]], name: str) -> None:
    """Holds NO_DEPENDENCY up: `params` may be left out of deps only if the sections are under `params:`."""
    sections = {field: info.alias or field for field, info in Params.model_fields.items()}
    read = {
        sections[node.attr]
        for node in ast.walk(syntax(module_paths("tasks")[module_of(name)]))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "params"
        and node.attr in sections
    }
    assert read, f"{name} reads no section as params.SECTION; this test looks for that"
    entries = pipeline[name].get("params", [])
    assert all(isinstance(entry, str) for entry in entries), "only params.yaml holds parameters"
    declared = {entry.partition(".")[0] for entry in entries}
    assert declared == read, f"dvc.yaml: params of {name}"
    for entry in entries:
        node = parameters()
        for key in entry.split("."):
            assert key in node, f"dvc.yaml: params of {name}: {entry} is not in params.yaml"
            node = node[key]


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_stage_puts_out_what_the_workspace_says(pipeline: dict[str, dict[str, Any]], name: str) -> None:
    stage = pipeline[name]
    made = listed(stage, "outs", "metrics", "plots")
    wanted = OUTPUTS[name] | {HERE.record(name)}
    uncovered = sorted(str(path) for path in wanted if not within(path, made))
    assert not uncovered, f"dvc.yaml: {name} has no out for {uncovered}"
    unknown = [path for path in made if not (within(path, wanted | {HERE.plots}) or any(w.is_relative_to(path) for w in wanted))]
    assert not unknown, f"dvc.yaml: {name} has outs that tasks/paths.py does not know: {unknown}"
    assert HERE.record(name) in listed(stage, "metrics"), "a record is DVC's metric"
    assert not within(HERE.checkpoints, made), "DVC would delete the checkpoints before each run"


def test_no_two_stages_write_one_place_and_none_overlap(pipeline: dict[str, dict[str, Any]]) -> None:
    made = [(name, path) for name, stage in pipeline.items() for path in listed(stage, "outs", "metrics", "plots")]
    clashes = [
        (a, b) for i, a in enumerate(made) for b in made[i + 1 :] if a[1].is_relative_to(b[1]) or b[1].is_relative_to(a[1])
    ]
    assert not clashes


def test_what_a_stage_needs_is_made_before_it_or_lies_in_the_repository(pipeline: dict[str, dict[str, Any]]) -> None:
    made: set[Path] = set()
    for name, stage in pipeline.items():
        for path in listed(stage, "deps"):
            assert within(path, made) or any(m.is_relative_to(path) for m in made) or (ROOT / path).exists(), f"{name}: {path}"
        made |= listed(stage, "outs", "metrics", "plots")


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_stage_declares_the_places_that_it_touches(pipeline: dict[str, dict[str, Any]], name: str) -> None:
    """As workspace.PLACE or workspace.record("STAGE") in its module; of a stage for one role only the places of all roles."""
    if pipeline[name].get("always_changed"):
        return  # nothing that it reads decides whether it runs
    places = {"base", "accepted", "quarantine", "data_docs", "prepared", "candidate", "champion", "plots"}
    touched: set[Path] = set()
    for node in ast.walk(syntax(module_paths("tasks")[module_of(name)])):
        match node:
            case ast.Attribute(value=ast.Name(id="workspace"), attr=place) if place in places:
                touched.add(getattr(HERE, place))
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="workspace"), attr="record"), args=[ast.Constant(value=str(stage))]
            ):
                touched.add(HERE.record(stage))
    declared = listed(pipeline[name], "deps", "outs", "metrics", "plots")
    if name.startswith("evaluate@"):  # an adapter is scored on its base, which it names: another base is another adapter
        touched.discard(HERE.base)
    unknown = sorted(str(p) for p in touched if not within(p, declared) and not any(d.is_relative_to(p) for d in declared))
    assert not unknown, f"dvc.yaml: {name} reads or writes {unknown}, which is none of its deps and outs"


def test_clean_removes_what_the_stages_make(pipeline: dict[str, dict[str, Any]]) -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    match = re.search(r"^GENERATED := (.*)$", text, re.M)
    assert match
    removed = {Path(word) for word in match[1].split()}
    made = {path for stage in pipeline.values() for path in listed(stage, "outs", "metrics", "plots")}
    assert not {path for path in made if not within(path, removed)}, "add to GENERATED in the Makefile"
    kept = [HERE.params, HERE.data / "raw", HERE.data / "eval", HERE.data / "registry"]
    assert not [path for path in kept if within(path, removed)]


# (c) What loads when.


def test_the_one_module_of_subclasses_is_imported_inside_functions_only() -> None:
    for module, path in (module_paths("tasks") | module_paths("flows")).items():
        assert SUBCLASSES not in imported(outside_functions(syntax(path))), f"{module}: import {SUBCLASSES} where it trains"


def test_flows_import_nothing_heavier_than_prefect() -> None:
    """Read from the source, since Prefect itself takes seconds; tests/integration/test_imports.py loads them for real."""
    for module, path in module_paths("flows").items():
        names = tops(imported(outside_functions(syntax(path))))
        assert not names & HEAVY, f"{module}: import {sorted(names & HEAVY)} inside the function that uses it"


def test_ruff_bans_what_this_file_bans() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["flake8-tidy-imports"]
    assert set(ruff["banned-module-level-imports"]) == HEAVY | {"prefect"}


# (d) What may not be written down.

# Put together here, so that this file does not contain them.
FORBIDDEN = (
    *("/" + folder + "/" for folder in ("work", "root")),
    *(".".join(host) for host in (("pypi", "org"), ("pythonhosted", "org"), ("download.pytorch", "org"))),
    *("--" + option for option in ("index-url", "extra-index-url", "find-links", "trusted-host")),
)
# Tells that an option of this name is not taken for a package.
EXCEPTIONS = {("tests/unit/test_params.py", "--" + "index-url")}


def test_no_tracked_file_names_this_machine_or_a_package_index() -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    read, faults = 0, []
    for name in filter(None, names):
        path = ROOT / name
        if not path.is_file():
            continue  # removed, not yet committed
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue
        read += 1
        text = content.decode("utf-8", "replace")
        faults += [f"{name}: {word}" for word in FORBIDDEN if word in text and (name, word) not in EXCEPTIONS]
    assert read > 40
    assert not faults, "\n".join(faults)
