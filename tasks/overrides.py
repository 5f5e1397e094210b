"""`section.key=value` settings, written into params.yaml."""

import io
import re
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import ParamsError
from tasks.files import parse_yaml, write_atomic
from tasks.params import Params, parse_params, read_yaml

_FREE = ("train.sft", "validate.columns", "evaluate.scorers", "gate.learned", "gate.smoke")
"""Mappings in which any key may be set."""
_SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def override(path: Path, settings: list[str]) -> list[str]:
    """Write `section.key=value` settings into params.yaml, keeping its comments, after checking the result as a whole.

    The file itself changes, as with `dvc exp run --set-param`, so that what DVC records is what was run. Values are YAML.

    Returns:
        One line for each value that changed: `train.learning_rate: 0.001 -> 0.002`.

    Raises:
        ParamsError: a setting has no `=`, names no existing key, or the result has faults; the file is then untouched.
    """
    if not settings:
        return []
    changes, _ = _apply(path, settings)
    _write_values(path, [(key, new) for key, old, new in changes if old != new])
    return [f"{key}: {old!r} -> {new!r}" for key, old, new in changes if old != new]


def overridden(path: Path, settings: list[str]) -> Params:
    """What params.yaml would be with these settings; the file itself stays as it is.

    Raises:
        ParamsError: as `override`.
    """
    return _apply(path, settings)[1]


def _apply(path: Path, settings: list[str]) -> tuple[list[tuple[str, Any, Any]], Params]:
    tree = read_yaml(path)
    changes = [_set(tree, setting) for setting in settings]
    return changes, parse_params(tree, f"{path.name} with {' '.join(settings)}".removesuffix(" with "))


def _set(tree: dict[str, Any], setting: str) -> tuple[str, Any, Any]:
    key, equals, text = setting.partition("=")
    if not equals:
        raise ParamsError(f"--set {setting}: wanted section.key=value")
    section, leaf = _find(tree, key)
    if section is None:
        raise ParamsError(f"--set {setting}: params.yaml has no key {key}")
    old, section[leaf] = section.get(leaf), _parse_value(text, setting)
    return key, old, section[leaf]


def _find(tree: Any, key: str) -> tuple[Any, str]:
    """The mapping that holds the last part of a dotted key, None if there is none, and that part."""
    *parents, leaf = key.split(".")
    for name in parents:
        tree = tree.get(name) if isinstance(tree, dict) else None
    known = isinstance(tree, dict) and (leaf in tree or ".".join(parents) in _FREE)
    return (tree if known else None), leaf


def _parse_value(text: str, setting: str) -> Any:
    if _SCIENTIFIC.fullmatch(text):
        return float(text)  # YAML 1.1 takes 1e-3 for text
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        raise ParamsError(f"--set {setting}: {text!r} is not a YAML value") from None


def _write_values(path: Path, changes: list[tuple[str, Any]]) -> None:
    if not changes:
        return
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 10_000
    tree = editor.load(path.read_text(encoding="utf-8"))
    for key, value in changes:
        section, leaf = _find(tree, key)
        # As PyYAML writes it, which reads the file: YAML 1.2 has no quotes around 'no', and 1e-9 without a point.
        section[leaf] = editor.load(yaml.safe_dump(value, default_flow_style=True, allow_unicode=True))
    text = io.StringIO()
    editor.dump(tree, text)
    write_atomic(path, text.getvalue().encode())
