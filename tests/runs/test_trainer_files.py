"""The files by which trainers read an export.

LLaMA-Factory 0.9.5 and ms-swift 4.6 have loaded them by hand, and the schema of Axolotl 0.19 has taken them:
these are too heavy for tests.
"""

import importlib.machinery
import json
import sys
import types

import pytest
import yaml

from distillgen.errors import ConfigError
from distillgen.runs.export import export
from distillgen.runs.export_rows import ExportOptions
from tests.pipeline.test_mistakes import here
from tests.runs.test_tool_shapes import TALK, TOOLS

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ROWS = {
    "messages": {"messages": TURNS},
    "tools": {"messages": TALK, "tools": TOOLS},
    "sharegpt": {"messages": TURNS},
    "alpaca": {"question": "q", "answer": "a"},
    "prompt_completion": {"prompt": "q", "completion": "a"},
    "dpo": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "kto": {"prompt": "q", "completion": "a", "label": True},
}


def written(project, shape, trainer, name, row=None, **options):
    rows = [(row or ROWS[shape]) | {"number": i} for i in range(20)]
    project.rows("rows.jsonl", rows)
    exported = export(
        "rows.jsonl", project.path / "out", ExportOptions(shape=shape, trainers=[trainer], **options)
    )
    assert name in exported.files
    return (project.path / "out" / name).read_text()


@pytest.mark.parametrize(
    "shape, described",
    [
        ("sharegpt", {"formatting": "sharegpt", "columns": {"messages": "conversations"}}),
        ("alpaca", {"columns": {"prompt": "instruction", "query": "input", "response": "output"}}),
        ("prompt_completion", {"columns": {"prompt": "prompt", "response": "completion"}}),
        (
            "dpo",
            {"ranking": True, "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}},
        ),
        ("kto", {"columns": {"prompt": "prompt", "response": "completion", "kto_tag": "label"}}),
    ],
)
def test_llama_factory_has_a_data_set(project, shape, described):
    info = json.loads(written(project, shape, "llamafactory", "dataset_info.json"))
    assert info == {"out": {"file_name": "train-00000-of-00001.jsonl", **described}}
    assert (project.path / "out/train-00000-of-00001.jsonl").exists()


def test_llama_factory_has_a_data_set_for_each_split_and_the_roles_of_messages(project):
    shares = {"train": 0.5, "test": 0.5}
    text = written(project, "messages", "llamafactory", "dataset_info.json", splits=shares, format="parquet")
    info = json.loads(text)
    assert {name: value["file_name"] for name, value in info.items()} == {
        "out_train": "train-00000-of-00001.parquet",
        "out_test": "test-00000-of-00001.parquet",
    }
    assert info["out_test"]["tags"]["role_tag"] == "role" and info["out_test"]["columns"] == {
        "messages": "messages"
    }


def test_llama_factory_reads_tool_calls_as_sharegpt_has_them(project):
    row = ROWS["tools"]
    info = json.loads(written(project, "sharegpt", "llamafactory", "dataset_info.json", row))
    assert info["out"]["columns"] == {"messages": "conversations", "tools": "tools"}


@pytest.mark.parametrize(
    "shape, kind, more",
    [
        ("messages", {"type": "chat_template", "field_messages": "messages"}, {}),
        ("tools", {"type": "chat_template", "field_messages": "messages"}, {}),
        (
            "sharegpt",
            {
                "type": "chat_template",
                "field_messages": "conversations",
                "message_property_mappings": {"role": "from", "content": "value"},
            },
            {},
        ),
        ("alpaca", {"type": "alpaca"}, {}),
        (
            "dpo",
            {
                "type": "chat_template.default",
                "field_messages": "prompt",
                "field_chosen": "chosen",
                "field_rejected": "rejected",
            },
            {"rl": "dpo"},
        ),
        ("kto", {"type": "chatml.ultra"}, {"rl": "kto", "remove_unused_columns": False}),
    ],
)
def test_axolotl_has_every_shard(project, shape, kind, more):
    text = written(project, shape, "axolotl", "axolotl.yaml", shard_rows=10)
    options = yaml.safe_load(text)
    names = ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]
    assert options["datasets"] == [
        {"path": name, "ds_type": "json", "split": "train", **kind} for name in names
    ]
    assert more.items() <= options.items() and ("rl" in options) == ("rl" in more)
    assert text.startswith("# In this folder: axolotl train axolotl.yaml\nbase_model: ")


@pytest.mark.parametrize(
    "shape, command, more",
    [
        ("messages", "sft", {}),
        ("tools", "sft", {}),
        (
            "dpo",
            "rlhf",
            {
                "rlhf_type": "dpo",
                "columns": {"prompt": "query", "chosen": "response", "rejected": "rejected_response"},
            },
        ),
        ("kto", "rlhf", {"rlhf_type": "kto"}),
    ],
)
def test_swift_has_the_files_and_the_columns(project, shape, command, more):
    shares = {"train": 0.5, "test": 0.5}
    text = written(project, shape, "swift", "swift.yaml", splits=shares)
    options = yaml.safe_load(text)
    assert options["dataset"] == ["train-00000-of-00001.jsonl"]
    assert options["val_dataset"] == ["test-00000-of-00001.jsonl"]
    assert more.items() <= options.items() and f"swift {command} swift.yaml" in text


@pytest.mark.parametrize(
    "shape, row, trainer, options, says",
    [
        ("tools", None, "llamafactory", {}, "tool calls as ShareGPT has them; give --shape sharegpt"),
        ("tools", None, "swift", {"format": "parquet"}, "the arguments of all others; give --format jsonl"),
        ("messages", None, "llamafactory", {"shard_rows": 5}, "one file for each data set"),
        ("sharegpt", ROWS["tools"], "axolotl", {}, "give --shape tools"),
        ("sharegpt", ROWS["tools"], "swift", {}, "give --shape tools"),
        ("sharegpt", ROWS["tools"], "unsloth", {}, "give --shape tools"),
        ("prompt_completion", None, "axolotl", {}, "no type for prompt_completion"),
        (
            "dpo",
            {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": TURNS[1:]},
            "llamafactory",
            {},
            "'prompt' is a dialogue; make a text, such as --shape dpo:prompt='{{ … }}'",
        ),
        ("preference", {"chosen": "a", "rejected": "b"}, "axolotl", {}, "the pairs have no 'prompt'"),
        ("messages", None, "axolotl", {"format": "csv"}, "jsonl and parquet here, not csv"),
        ("labelled", {"text": "a", "label": 1}, "swift", {}, "trainers read a shape; give --shape tools"),
        ("messages", None, "axolotle", {}, "no trainer 'axolotle'; did you mean 'axolotl'?"),
    ],
)
def test_rows_that_a_trainer_cannot_read_are_refused_with_the_remedy(
    project, shape, row, trainer, options, says
):
    with pytest.raises(ConfigError) as refusal:
        written(project, shape, trainer, "", row, **options)
    assert says in str(refusal.value) and not (project.path / "out").exists()


def test_a_file_has_no_place_for_the_files_of_trainers(project, capfd):
    project.rows("rows.jsonl", [ROWS["alpaca"]])
    args = ("export", "rows.jsonl", "--shape", "alpaca", "--for", "axolotl,swift")
    code, _, err = here(capfd, *args, "-o", "a.jsonl")
    assert code == 2 and "give --out a folder" in err
    assert here(capfd, *args, "-o", "a")[0] == 0
    assert {"axolotl.yaml", "swift.yaml"} <= {path.name for path in (project.path / "a").iterdir()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", ROWS)
def test_the_code_for_unsloth_trains_with_trl(project, monkeypatch, shape):
    """Unsloth itself needs a GPU: here its model class gives a tiny model on the processor."""
    pytest.importorskip("trl", reason="trl is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import transformers
    import trl

    from tests.tiny_llama import make_model

    code = written(project, shape, "unsloth", "unsloth_train.py")
    path = str(make_model(project.path / "model"))

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(name, **options):
            assert options == {"max_seq_length": 2048, "load_in_4bit": True}
            model = transformers.AutoModelForCausalLM.from_pretrained(path)
            return model, transformers.AutoTokenizer.from_pretrained(path)

        @staticmethod
        def get_peft_model(model, **options):
            return model

    unsloth = types.ModuleType("unsloth")
    unsloth.__spec__ = importlib.machinery.ModuleSpec("unsloth", None)
    unsloth.FastLanguageModel = FastLanguageModel
    monkeypatch.setitem(sys.modules, "unsloth", unsloth)
    for kind in ("SFT", "DPO", "KTO"):
        config = getattr(trl, f"{kind}Config")

        def short(config=config, **options):
            return config(**options, max_steps=1, use_cpu=True, bf16=False, report_to=[])

        monkeypatch.setattr(trl, f"{kind}Config", short)
    monkeypatch.chdir(project.path / "out")
    variables: dict = {}
    exec(compile(code, "unsloth_train.py", "exec"), variables)
    assert variables["trainer"].state.global_step == 1
    assert (project.path / "out/student/config.json").exists()
