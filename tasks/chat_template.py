"""The chat template of a base model: its own, one of those that TRL brings, or a file."""

import json
from importlib.util import find_spec
from pathlib import Path

from tasks.errors import BaseModelError
from tasks.files import sha256_file
from tasks.sections import TemplateFile


def trl_templates() -> dict[str, Path]:
    """The templates of the installed TRL by name; TRL itself is not imported."""
    found = find_spec("trl")
    folder = Path(found.origin).parent / "chat_templates" if found and found.origin else Path()
    return {path.stem: path for path in sorted(folder.glob("*.jinja"))}


def read_template(chosen: str | TemplateFile) -> str:
    """The Jinja text.

    Raises:
        BaseModelError: TRL has none of this name, the file is missing, or is not the one of `sha256`.
    """
    if isinstance(chosen, str):
        known = trl_templates()
        if chosen not in known:
            raise BaseModelError(f"base.chat_template {chosen}: TRL has no such template; it has {', '.join(known)}")
        return known[chosen].read_text(encoding="utf-8")
    path = Path(chosen.file)
    if not path.is_file():
        raise BaseModelError(f"base.chat_template.file {path}: no such file (relative paths start at the workspace)")
    if (found := sha256_file(path)) != chosen.sha256:
        raise BaseModelError(
            f"base.chat_template.sha256: {path} has sha256 {found}, wanted {chosen.sha256}; if you trust this file, write its "
            "hash into params.yaml"
        )
    return path.read_text(encoding="utf-8")


def set_template(folder: Path, template: str) -> None:
    """Give the tokenizer in a model folder this template in the place of its own."""
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    config = folder / "tokenizer_config.json"
    if config.is_file():
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings.pop("chat_template", None)
        config.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
