"""Ask base, champion and candidate the same thing, under the conditions of the evaluation: greedy, same template, same dtype."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.chat import load_tokenizer
from tasks.environment import pick_device, pick_dtype
from tasks.errors import StageInputError
from tasks.evaluation_sections import Evaluate
from tasks.model_folder import is_model, load_model
from tasks.paths import ROLES, Workspace


def answers(section: Evaluate, messages: list[dict[str, str]], workspace: Workspace) -> Iterator[tuple[str, str]]:
    """The reply of each model that is there, as (role, text), one after the other.

    Args:
        messages: role and content, the last one of the user.

    Raises:
        StageInputError: no stage has made a model yet.
    """
    folders = {role: workspace.model(role) for role in ROLES}
    present = {role: folder for role, folder in folders.items() if is_model(folder)}
    if not present:
        raise StageInputError(f"{workspace.data}: no model to ask; run `refit run`")
    for role, folder in present.items():
        yield role, _reply(folder, workspace.base, section, messages)


def _reply(folder: Path, base: Path, section: Evaluate, messages: list[dict[str, str]]) -> str:
    import torch

    device = pick_device()
    tokenizer: Any = load_tokenizer(folder)
    model = load_model(folder, base, pick_dtype(section.dtype)).to(device).eval()
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt").to(device)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=section.max_new_tokens, do_sample=False)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
