"""Which template a base model gets; what it marks is in tests/integration, with a real tokenizer."""

import json
from pathlib import Path

import pytest

from tasks.chat_template import read_template, set_template, trl_templates
from tasks.errors import BaseModelError, InputError
from tasks.files import sha256_file
from tasks.sections import TemplateFile
from tasks.template_preview import template_of


def test_one_of_trls_is_found_by_its_name_without_trl() -> None:
    assert len(trl_templates()) > 20
    assert "<|im_start|>" in read_template("qwen3")
    assert "{% generation %}" in read_template("qwen3_training").replace("{%-", "{%").replace("-%}", "%}")
    assert template_of("qwen3") == read_template("qwen3")


def test_a_name_that_trl_does_not_have_is_told_with_those_it_has() -> None:
    with pytest.raises(BaseModelError, match=r"base\.chat_template qwen_3: TRL has no such template; it has .*qwen3"):
        read_template("qwen_3")
    with pytest.raises(InputError, match=r"--template qwen_3: neither a file nor one of TRL's"):
        template_of("qwen_3")


def test_a_file_is_read_if_it_is_the_one_that_was_written_down(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{{ messages }}")
    assert read_template(TemplateFile(file=str(path), sha256=sha256_file(path))) == "{{ messages }}" == template_of(str(path))
    with pytest.raises(BaseModelError, match=r"sha256 .*, wanted 0{64}; if you trust this file"):
        read_template(TemplateFile(file=str(path), sha256="0" * 64))
    with pytest.raises(BaseModelError, match="no such file"):
        read_template(TemplateFile(file=str(tmp_path / "none"), sha256="0" * 64))


def test_the_models_own_template_is_gone(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old", "eos_token": "é"}))
    set_template(tmp_path, "new")
    assert (tmp_path / "chat_template.jinja").read_text() == "new"
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {"eos_token": "é"}
