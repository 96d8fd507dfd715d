"""The files by which trainers read an export: LLaMA-Factory, Axolotl, ms-swift and Unsloth.

They follow the documented formats: data/README.md of LLaMA-Factory 0.9.5, the dataset formats of Axolotl 0.19
(docs.axolotl.ai), the custom datasets of ms-swift 4.6 (swift.readthedocs.io), and the notebooks of Unsloth
2026.10.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distillgen.errors import ConfigError, did_you_mean
from distillgen.runs.templates import template

BASE_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
FORMATS = {"jsonl": "json", "parquet": "parquet"}
"""The formats that all four trainers read, as `load_dataset` names them."""
_CHATS, _PAIRS, _LABELS = (
    ("messages", "tools", "sharegpt"),
    ("dpo", "preference"),
    ("kto", "unpaired_preference"),
)
_TAGS = {"role": "role", "content": "content", "user": "user", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class ExportedRows:
    """What a trainer must know of an export."""

    name: str
    format: str
    shape: str
    files: Mapping[str, Sequence[str]]
    """The names of the files by split; the first split is trained on."""
    columns: Sequence[str]
    dialogues: frozenset[str]
    """The columns that hold chat turns."""

    @property
    def train(self) -> Sequence[str]:
        """The files that are trained on."""
        return next(iter(self.files.values()))

    @property
    def test(self) -> Sequence[str]:
        """The files that are not trained on."""
        return [name for names in list(self.files.values())[1:] for name in names]

    def refuse(self, trainer: str, why: str, remedy: str) -> ConfigError:
        """Return an error that says why a trainer cannot read the rows."""
        return ConfigError(f"--for {trainer}: {why}; {remedy}")

    def need_texts(self, trainer: str) -> None:
        """Raise ConfigError if a prompt or an answer is a dialogue."""
        for column in ("prompt", "completion", "chosen", "rejected"):
            if column in self.columns and column in self.dialogues:
                remedy = f"make a text, such as --shape {self.shape}:{column}='{{{{ … }}}}'"
                raise self.refuse(trainer, f"it reads texts here, and '{column}' is a dialogue", remedy)

    def need_prompt(self, trainer: str) -> None:
        """Raise ConfigError if pairs have no column `prompt`."""
        if "prompt" not in self.columns:
            raise self.refuse(trainer, "the pairs have no 'prompt'", "give --shape dpo:prompt=…")


def check_trainers(names: Sequence[str], shape: str | None, export_format: str, one_file: bool) -> None:
    """Raise ConfigError for an unknown trainer, or for rows that no trainer reads."""
    for name in names:
        if name not in TRAINERS:
            raise ConfigError(f"--for: there is no trainer '{name}'{did_you_mean(name, TRAINERS)}")
    if names and shape not in (*_CHATS, *_PAIRS, *_LABELS, "alpaca", "prompt_completion"):
        shapes = "tools, messages, sharegpt, alpaca, prompt_completion, dpo or kto"
        raise ConfigError(f"--for: trainers read a shape; give --shape {shapes}")
    if names and export_format not in FORMATS:
        raise ConfigError(f"--for: trainers read jsonl and parquet here, not {export_format}")
    if names and one_file:
        raise ConfigError("--for writes files beside the rows; give --out a folder")


def trainer_files(names: Sequence[str], rows: ExportedRows) -> dict[str, str]:
    """Return the files of these trainers, each with its text.

    Raise ConfigError if a trainer cannot read the rows.
    """
    if names and "tools" in rows.columns and rows.shape != "sharegpt" and rows.format == "parquet":
        why = "in Parquet each tool call has the arguments of all others"
        raise rows.refuse(names[0], why, "give --format jsonl")
    return {TRAINERS[name][0]: TRAINERS[name][1](rows) for name in names}


def _llamafactory(rows: ExportedRows) -> str:
    """Return `dataset_info.json`, with a data set for each split."""
    name, several = re.sub(r"\W+", "_", rows.name), len(rows.files) > 1
    if any(len(names) > 1 for names in rows.files.values()):
        raise rows.refuse("llamafactory", "it reads one file for each data set", "leave out --shard-rows")
    described: dict[str, Any]
    if rows.shape in _CHATS:
        if rows.shape != "sharegpt" and "tools" in rows.columns:
            raise rows.refuse(
                "llamafactory", "it reads tool calls as ShareGPT has them", "give --shape sharegpt"
            )
        column = "conversations" if rows.shape == "sharegpt" else "messages"
        described = {"formatting": "sharegpt", "columns": {"messages": column}}
        described["columns"] |= {"tools": "tools"} if "tools" in rows.columns else {}
        if rows.shape == "messages":
            described["tags"] = {f"{name}_tag": value for name, value in _TAGS.items()}
    else:
        rows.need_texts("llamafactory")
        columns = {"prompt": "prompt", "response": "completion"}
        if rows.shape == "alpaca":
            columns = {"prompt": "instruction", "query": "input", "response": "output"}
        elif rows.shape in _PAIRS:
            rows.need_prompt("llamafactory")
            columns = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
        elif rows.shape in _LABELS:
            columns["kto_tag"] = "label"
        described = {**({"ranking": True} if rows.shape in _PAIRS else {}), "columns": columns}
    data_sets = {
        f"{name}_{split}" if several else name: {"file_name": file, **described}
        for split, (file,) in rows.files.items()
    }
    return json.dumps(data_sets, indent=2) + "\n"


def _axolotl(rows: ExportedRows) -> str:
    """Return `axolotl.yaml`."""
    more: dict[str, Any] = {}
    kind: dict[str, Any]
    if rows.shape in _CHATS:
        kind = {"type": "chat_template", "field_messages": "messages"}
        if rows.shape == "sharegpt":
            if "tools" in rows.columns:
                raise rows.refuse("axolotl", "it reads tool calls as OpenAI has them", "give --shape tools")
            kind |= {"field_messages": "conversations"}
            kind |= {"message_property_mappings": {"role": "from", "content": "value"}}
    elif rows.shape == "alpaca":
        kind = {"type": "alpaca"}
    elif rows.shape in _PAIRS:
        rows.need_prompt("axolotl")
        kind = {"type": "chat_template.default", "field_messages": "prompt"}
        kind |= {"field_chosen": "chosen", "field_rejected": "rejected"}
        more = {"rl": "dpo"}
    elif rows.shape in _LABELS:
        rows.need_texts("axolotl")
        kind = {"type": "chatml.ultra"}
        more = {"rl": "kto", "remove_unused_columns": False}
    else:
        raise rows.refuse("axolotl", f"it has no type for {rows.shape}", "give --shape messages or alpaca")

    def data_sets(names: Sequence[str]) -> list[dict[str, Any]]:
        split = {"ds_type": FORMATS[rows.format], "split": "train"}
        return [{"path": name, **split, **kind} for name in names]

    tests = {"test_datasets": data_sets(rows.test)} if rows.test and not more else {}
    options = {
        "base_model": BASE_MODEL,
        **more,
        "datasets": data_sets(rows.train),
        **tests,
        "output_dir": "student",
        "sequence_len": 2048,
        "adapter": "lora",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_target_linear": True,
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "num_epochs": 1,
        "learning_rate": 0.0002,
    }
    return _commented("axolotl train axolotl.yaml", options)


def _swift(rows: ExportedRows) -> str:
    """Return `swift.yaml`."""
    command, more = "sft", {}
    if rows.shape == "sharegpt" and "tools" in rows.columns:
        raise rows.refuse("swift", "it reads tool calls as OpenAI has them", "give --shape tools")
    if rows.shape in (*_PAIRS, *_LABELS, "prompt_completion"):
        rows.need_texts("swift")
    if rows.shape in _PAIRS:
        rows.need_prompt("swift")
        columns = {"prompt": "query", "chosen": "response", "rejected": "rejected_response"}
        command, more = "rlhf", {"rlhf_type": "dpo", "columns": columns}
    elif rows.shape in _LABELS:
        command, more = "rlhf", {"rlhf_type": "kto"}
    options = {
        "model": BASE_MODEL,
        "use_hf": True,
        **more,
        "dataset": list(rows.train),
        **({"val_dataset": rows.test} if rows.test else {}),
        "output_dir": "student",
        "tuner_type": "lora",
        "max_length": 2048,
        "num_train_epochs": 1,
        "learning_rate": 0.0001,
    }
    return _commented(f"swift {command} swift.yaml", options)


def _unsloth(rows: ExportedRows) -> str:
    """Return `unsloth_train.py`."""
    if rows.shape in _PAIRS:
        rows.need_prompt("unsloth")
    kind = "DPO" if rows.shape in _PAIRS else "KTO" if rows.shape in _LABELS else "SFT"
    if rows.shape == "sharegpt" and "tools" in rows.columns:
        raise rows.refuse("unsloth", "it reads tool calls as OpenAI has them", "give --shape tools")
    answers = ["chosen", "rejected"] if kind == "DPO" else ["completion"]
    page = template(Path(__file__).with_name("unsloth_train.py.jinja"), str, autoescape=False)
    files, reader = json.dumps(list(rows.train)), FORMATS[rows.format]
    return page.render(
        rows=rows, kind=kind, files=files, reader=reader, base=BASE_MODEL, answers=json.dumps(answers)
    )


def _commented(command: str, options: Mapping[str, Any]) -> str:
    """Return options as YAML, with the command that reads it."""
    page = yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True)
    first, _, rest = page.partition("\n")
    return f"# In this folder: {command}\n{first} # the model to train\n{rest}"


TRAINERS: Mapping[str, tuple[str, Callable[[ExportedRows], str]]] = {
    "llamafactory": ("dataset_info.json", _llamafactory),
    "axolotl": ("axolotl.yaml", _axolotl),
    "swift": ("swift.yaml", _swift),
    "unsloth": ("unsloth_train.py", _unsloth),
}
"""The file of each trainer, and the function that writes it."""
