"""The model card: README.md of a published version. Pure: facts in, Markdown out.

Values that come from data or parameters are shown as code, so that nothing in them is read as Markdown, HTML or YAML.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tasks.evaluation_records import EvalReport, GateDecision, limited
from tasks.markdown import block, code, table
from tasks.records import BaseModelRecord, PreparedDataset, TrainedModel, ValidationReport
from tasks.sections import FolderBase, HubBase, WheelBase
from tasks.training_section import Train


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything that a card says. `decision_markdown` is trusted, `system_prompt` is None if the data have none, `repo_id` if
    it is not published to the Hub, `license` if nobody said which.
    """

    name: str
    repo_id: str | None
    license: str | None
    base_section: WheelBase | HubBase | FolderBase
    base: BaseModelRecord
    validation: ValidationReport
    prepared: PreparedDataset
    train_section: Train
    trained: TrainedModel
    evaluated: EvalReport
    decision: GateDecision
    decision_markdown: str
    system_prompt: str | None
    max_new_tokens: int


def model_card(facts: CardFacts) -> str:
    """The card with its YAML metadata."""
    metadata = yaml.safe_dump(_metadata(facts), sort_keys=False, width=1000)
    sections = (
        _introduction(facts),
        "## Use\n\n" + block(_usage(facts), "python"),
        "## Gate\n\n" + facts.decision_markdown.strip(),
        _limits(facts),
        _base(facts),
        _data(facts),
        _training(facts),
    )
    return f"---\n{metadata}---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(facts: CardFacts) -> dict[str, Any]:
    """The Hub accepts as `base_model` only its own repositories, so that other sources stand in the text alone."""
    library = "transformers" if facts.train_section.merge else "peft"
    metadata: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation", "tags": ["refit", "sft"]}
    if facts.license is not None:
        metadata |= {"license": facts.license}
    if isinstance(facts.base_section, HubBase):
        metadata |= {"base_model": facts.base_section.repo_id}
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"type": suite, "name": f"{suite} suite: {task}"},
            "metrics": [
                {"type": metric.metric, "name": f"{metric.metric} (n={metric.n})", "value": round(metric.value, 4)}
                for metric in facts.evaluated.metrics
                if (metric.suite, metric.task) == (suite, task)
            ],
        }
        for suite, task in dict.fromkeys((metric.suite, metric.task) for metric in facts.evaluated.metrics)
    ]
    return metadata | {"model-index": [{"name": facts.name, "results": results}]}


def _introduction(facts: CardFacts) -> str:
    former = " and the model published before" if facts.decision.champion_version else ""
    return (
        f"# {code(facts.name)}\n\n"
        f"{code(facts.base.source)} after supervised fine-tuning on {facts.prepared.splits['train'].rows} conversations, "
        f"published by Refit after its gate compared it with the base model{former}. "
        f"{_license(facts)}\n\n"
        f"Digest of the model files: {code(facts.trained.digest)}. `manifest.json` has the sha256 of each file, "
        "`decision.json` the whole decision, `training.json` how it was trained, `dvc.lock` and `params.yaml` what from, "
        "`data_profile.json` what the data looked like."
    )


def _license(facts: CardFacts) -> str:
    if facts.license is None:
        return "Nobody has said under which license; those of the base model and of the data hold."
    return f"License: {code(facts.license)}, as far as those of the base model and of the data allow it."


def _usage(facts: CardFacts) -> str:
    messages = [{"role": "user", "content": "Your question"}]
    if facts.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": facts.system_prompt})
    listed = "".join(f"    {_literal(message)},\n" for message in messages)
    name = f'"{facts.repo_id}"  # revision="v1" is the first version' if facts.repo_id else '"."  # the folder of this file'
    package, kind = (
        ("transformers", "AutoModelForCausalLM") if facts.train_section.merge else ("peft", "AutoPeftModelForCausalLM")
    )
    imports = sorted((f"from {package} import {kind}", "from transformers import AutoTokenizer"))
    return (
        "\n".join(imports) + f"\n\nname = {name}\n"
        "tokenizer = AutoTokenizer.from_pretrained(name)\n"
        f'model = {kind}.from_pretrained(name, dtype="auto")\n\n'
        f"messages = [\n{listed}]\n"
        'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")\n'
        f"output = model.generate(**inputs, max_new_tokens={facts.max_new_tokens}, do_sample=False)\n"
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))'
    )


def _limits(facts: CardFacts) -> str:
    conversations = facts.prepared.splits["test"].rows
    others = sum(task.n_items for task in facts.evaluated.tasks)
    return (
        f"## Limits\n\nJudged on {conversations} conversations held out of its data and on {others} items of other eval suites, "
        f"with at most {facts.max_new_tokens} new tokens a reply and without sampling{limited(facts.evaluated.tasks)}; nothing "
        "is known of other subjects, languages, lengths or ways of decoding. What its replies say may be wrong: the gate's table "
        "says how far they were tested."
    )


def _base(facts: CardFacts) -> str:
    rows = {"source": facts.base.source, "sha256 of the source's weights": facts.base_section.sha256, "digest": facts.base.digest}
    return "## Base model\n\n" + table(("", "value"), [*rows.items(), ("parameters", facts.base.n_parameters)])


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in dropped.items())


def _data(facts: CardFacts) -> str:
    report, prepared = facts.validation, facts.prepared
    splits = [
        (name, split.rows, split.messages, split.tokens, split.supervised_tokens) for name, split in prepared.splits.items()
    ]
    text = (
        f"## Data\n\nVersion (sha256 of the accepted rows): {code(report.accepted_sha256)}. "
        f"{report.n_raw} raw rows: {report.n_accepted} accepted, {report.n_quarantined} quarantined; "
        f"of the accepted rows {sum(prepared.dropped.values())} were dropped ({_reasons(prepared.dropped)}).\n\n"
        + table(("split", "rows", "messages", "tokens", "supervised tokens"), splits)
    )
    return text + ("\n\n" + table(("quarantined for", "rows"), report.reasons.items()) if report.reasons else "")


def _training(facts: CardFacts) -> str:
    trained = facts.trained
    numbers: Mapping[str, Any] = {
        "started from": trained.start_version or "the base model",
        "steps": trained.steps if trained.best_step is None else f"{trained.steps}, taken at step {trained.best_step}",
        "rows a step": trained.per_device_train_batch_size * trained.gradient_accumulation_steps * trained.n_processes,
        "trained parameters": f"{trained.n_trainable} of {trained.n_parameters}",
        "precision": trained.dtype,
        "loss on the eval split": f"{trained.eval_loss_before:.4f} before, {trained.eval_loss_after:.4f} after",
        "sha256 of the training split": trained.train_sha256,
    }
    machine = trained.environment
    environment = {
        "commit": machine.git_commit or "none",
        "python": machine.python,
        "platform": machine.platform,
        "device": machine.device,
    }
    parameters = yaml.safe_dump(facts.train_section.model_dump(mode="json"), sort_keys=False)
    return (
        f"## Training\n\n{table(('', 'value'), numbers.items())}\n\nParameters:\n\n{block(parameters.rstrip(), 'yaml')}\n\n"
        f"Environment:\n\n{table(('', 'version'), (environment | machine.packages).items())}"
    )


def _literal(message: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_string(key)}: {_string(value)}" for key, value in message.items()) + "}"


def _string(text: str) -> str:
    """A Python literal, in double quotes where that needs no escape."""
    literal = repr(text)
    return literal if '"' in literal else f'"{literal[1:-1]}"'
