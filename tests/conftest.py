"""What integration, e2e and fault tests share: a tiny random model, and workspaces under tmp that are clones in small."""

import gc
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.files import sha256_file
from tasks.paths import Workspace

# The tiny model is slower on two threads than on one, and tests share the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
REPO = Path(__file__).parents[1]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What a tiny random model can pass: its loss falls, and nothing else is asked of it.
LENIENT_GATE = {
    "gate.learned": {"reply_loss": {"min_gain": 0.1, "floor": 100.0}},  # of a loss: at most
    "gate.min_target_items": 5,
    "gate.min_general_items": 5,
    "gate.kept.margin": 1.0,
    "gate.kept.task_margin": 1.0,
    "gate.champion.margin": 1.0,
    "gate.best.margin": 1.0,
    "gate.slices.margin": 1.0,
    "gate.smoke": {"stops": 0.0, "nonempty": 0.0, "no_repetition": 0.0},
    "gate.bootstrap_draws": 1000,
}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported here stays: the garbage collector need not walk through it again and again (a tenth of the unit tier)."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `build_tiny_base`."""
    return build_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


def build_tiny_base(folder: Path) -> Path:
    """A Llama of about 0.2 million random parameters with a byte-level tokenizer and ChatML, as a local base model."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    raw.train([str(path) for path in sorted((REPO / "data" / "raw").glob("*.jsonl"))], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def free_port() -> int:
    """Of the loopback interface; nobody listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def edit_params(workspace: Workspace, settings: dict[str, Any]) -> None:
    """Set `section.key` values in a workspace's params.yaml, without any check."""
    tree = yaml.safe_load(workspace.params.read_text())
    for key, value in settings.items():
        *parents, leaf = key.split(".")
        node = tree
        for name in parents:
            node = node[name]
        node[leaf] = value
    workspace.params.write_text(yaml.safe_dump(tree, sort_keys=False))


def folder_base(folder: Path) -> dict[str, Any]:
    """The section `base` for a model in a folder."""
    sha256 = sha256_file(folder / "model.safetensors")
    return {"source": "folder", "path": str(folder), "sha256": sha256, "chat_template": None}


def git(folder: Path, *words: str) -> str:
    """Run git there, under a name of the tests'; returns what it printed."""
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


MakeWorkspace = Callable[..., Workspace]


def build_workspace(root: Path, base: Path, **settings: Any) -> Workspace:
    """Fill `root`: the project's code, stages and policy, three raw files, a small general suite, the base model of `base`."""
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("tasks", "flows"):
        shutil.copytree(REPO / folder, root / folder, ignore=ignore)
    shutil.copytree(REPO / "deployments" / "accelerate", root / "deployments" / "accelerate")
    for file in ("params.yaml", "dvc.yaml", ".dvcignore"):
        shutil.copyfile(REPO / file, root / file)
    (root / "data" / "raw").mkdir(parents=True)
    for file in ("policy.yaml", "GUIDELINES.md", "orders.jsonl", "delivery.jsonl"):
        shutil.copyfile(REPO / "data" / "raw" / file, root / "data" / "raw" / file)
    shutil.copytree(REPO / "data" / "eval", root / "data" / "eval")
    for items in (root / "data" / "eval").glob("*.jsonl"):
        items.write_text("".join(items.read_text().splitlines(keepends=True)[:8]))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=root, check=True)
    shutil.copyfile(REPO / ".dvc" / "config", root / ".dvc" / "config")
    with (root / ".dvc" / "config").open("a") as config:
        config.write("    no_scm = true\n")
    workspace = Workspace(root)
    small = {
        "base": folder_base(base),
        "validate.min_accepted": 20,
        "validate.max_length": 1024,
        "train.method": "full",
        "train.learning_rate": 0.01,
        "train.max_steps": 6,
        "train.eval_steps": 3,
        "evaluate.max_new_tokens": 8,
    }
    edit_params(workspace, small | LENIENT_GATE | settings)
    return workspace


@pytest.fixture
def make_workspace(tmp_path: Path, tiny_base: Path) -> MakeWorkspace:
    """Builds `tmp_path/NAME` as `build_workspace` does, with the tiny model."""

    def make(name: str = "workspace", **settings: Any) -> Workspace:
        return build_workspace(tmp_path / name, tiny_base, **settings)

    return make


def set_prefect_home(patch: pytest.MonkeyPatch, home: Path) -> Path:
    for name, value in {"PREFECT_HOME": str(home), "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}.items():
        patch.setenv(name, value)
    return home


@pytest.fixture
def prefect_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prefect's home under tmp and its network calls off, for this process and its children."""
    return set_prefect_home(monkeypatch, tmp_path / "prefect")
