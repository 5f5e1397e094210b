"""What the documents say exists: commands, make targets, modules, sections, stages, links."""

import re
import shlex
from pathlib import Path

import pytest

from flows import cli, commands
from tasks.files import parse_yaml
from tasks.repro import STAGES
from tasks.row_rules import GUIDELINE_RULES, RULES
from tasks.validate import UNREADABLE

REPO = Path(__file__).parents[2]
PAGES = [REPO / "README.md", REPO / "deployments" / "README.md", REPO / "data" / "README.md"]
README, _, DATA = (page.read_text() for page in PAGES)


def shell_lines() -> list[str]:
    blocks = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)]
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.split("#")[0].strip()]


def test_the_pages_have_commands() -> None:
    assert len(shell_lines()) >= 6


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("refit ")])
def test_refit_commands_parse(line: str) -> None:
    words = shlex.split(line)
    assert cli._parser().parse_args(words[1:]).command


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    target = line.split()[1]
    assert re.search(rf"^{target}:", (REPO / "Makefile").read_text(), re.MULTILINE)


def test_readme_names_every_module_stage_and_section() -> None:
    modules = [path.name for folder in ("tasks", "flows") for path in (REPO / folder).glob("*.py") if path.name != "__init__.py"]
    assert len(modules) > 20
    stages = {stage.partition("@")[0] for stage in STAGES} | {"push", "record"}
    sections = parse_yaml((REPO / "params.yaml").read_text())
    missing = [name for name in modules if name not in README]
    missing += [stage for stage in stages if not re.search(rf"\b{stage}\b", README)]
    missing += [f"{section}:" for section in ("train", "base", "gate", "push", "guidelines") if f"`{section}:`" not in README]
    assert not missing
    assert set(sections) == {
        "base",
        "validate",
        "guidelines",
        "drift",
        "prepare",
        "train",
        "evaluate",
        "gate",
        "push",
        "record",
        "notify",
        "retention",
        "timeouts",
    }


def test_the_page_on_data_explains_every_code_of_the_quarantine() -> None:
    codes = {reason for reason, _ in (*RULES, *GUIDELINE_RULES)} | {"not_json", "chat_template", "too_long", UNREADABLE}
    assert codes == {
        code for row in re.findall(r"^\| (`[a-z_`, ]+`) \| [a-z]", DATA, re.MULTILINE) for code in re.findall(r"\w+", row)
    }


def test_readme_exit_codes_are_those_of_the_program() -> None:
    for state, code in commands.EXIT_CODES.items():
        words = re.sub("(?<=[a-z])(?=[A-Z])", " ", state).lower()
        assert re.search(rf"\b{code} [^,.]*{words}", README), state


def test_guidelines_page_and_policy_file_say_the_same() -> None:
    topics = parse_yaml((REPO / "data" / "raw" / "policy.yaml").read_text())["topics"]
    page = (REPO / "data" / "raw" / "GUIDELINES.md").read_text()
    rows = [
        f"| {name} | {topic['category']} | {topic['policy']} | {'; '.join(topic['must_say'])} |" for name, topic in topics.items()
    ]
    assert len(rows) >= 40
    assert [row for row in rows if row not in page] == []
    assert page.count("\n| ") == len(rows) + 1
