"""Dialogues of several lengths load in TRL, LLaMA-Factory, axolotl and ms-swift, and mask alike.

The last three are tested where they are installed. They need few of their requirements, and the extra train:
`pip install --no-deps llamafactory axolotl addict ms-swift modelscope modelscope_hub pillow cryptography`.
"""

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.recipes.harness import teach

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CHAT = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<assistant>{% generation %}{{ m.content }}</s>"
    "{% endgeneration %}"
    "{% else %}<{{ m.role }}>{{ m.content }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
EXCHANGES = (1, 2, 4)


def needs(name):
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"needs pip install --no-deps {name}")


@pytest.fixture
def rows(project, monkeypatch):
    """The file that a run exports: dialogues of 1, 2 and 4 exchanges, the middle one with a system turn."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(project.path / "hf"))

    def script(request, sample):
        number = sum(turn["role"] != "system" for turn in request.messages)
        return f"{'question' if request.write == 'user' else 'answer'} {number}"

    project.rows("rows.jsonl", [{"n": n, "system": "Be brief." if n == 2 else ""} for n in EXCHANGES])
    begin = {"name": "begin", "when": "{{ system }}", "template": "@system\n{{ system }}"}
    turns = [
        {"generate": {**options, "model": "teacher", "history": "messages"}}
        for options in (
            {**begin, "write": "user", "output": "first"},
            {
                "name": "say",
                "when": "{{ round < n and not (first and round == 0) }}",
                "write": "user",
                "output": "said",
            },
            {"name": "reply", "when": "{{ round < n }}", "output": "reply"},
        )
    ]
    turns[0]["generate"]["when"] = "{{ system and round == 0 }}"
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {"rounds": {"n": 4, "repeat": True, "carry": ["messages"], "stages": turns}},
        {"filter": [{"where": {"true": "{{ round == 3 }}"}}]},
        {"format": {"keep": ["messages"]}},
    ]
    models = {"teacher": {"provider": "scripted", "model": "echo"}}
    teach({"version": 1, "models": models, "stages": stages}, {"teacher": script})
    project.cli("export", "run", "--shape", "messages", "--no-id", "--out", "out.jsonl")
    messages = [row["messages"] for row in project.read("out.jsonl")]
    assert [sum(turn["role"] == "user" for turn in turns) for turns in messages] == list(EXCHANGES)
    assert [turns[0]["role"] for turns in messages] == ["user", "system", "user"]
    return project.path / "out.jsonl"


@pytest.fixture(scope="module")
def tokenizer():
    """One token a byte, so that the tokens to learn are the texts to learn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "</s>": 1} | {
        byte: i + 2 for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    of_bytes = Tokenizer(models.BPE(vocabulary, []))
    of_bytes.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    of_bytes.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_bytes, pad_token="<pad>", eos_token="</s>")
    tokenizer.chat_template = CHAT
    return tokenizer


def answers(messages):
    return "|".join(turn["content"] + "</s>" for turn in messages if turn["role"] == "assistant")


def learnt(tokenizer, ids, labels):
    """The texts of the runs of tokens with a label, with a bar between two."""
    text, before = "", -100
    for token, label in zip(ids, labels, strict=True):
        if label != -100:
            text += ("|" if before == -100 and text else "") + tokenizer.decode([token])
        before = label
    return text


def data_set(path, folder):
    from datasets import Dataset

    return Dataset.from_json(str(path), cache_dir=str(folder / "cache"))


def test_trl_learns_every_answer_and_nothing_else(project, rows, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads))
    cpu = {"report_to": [], "use_cpu": True, "bf16": False}
    data = data_set(rows, project.path)

    def texts(**options):
        config = SFTConfig(str(project.path / "out"), max_length=4096, **options, **cpu)
        trainer = SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer)
        return [learnt(tokenizer, row["input_ids"], row["labels"]) for row in trainer.train_dataset]

    expected = [answers(messages) for messages in data["messages"]]
    assert texts(assistant_only_loss=True) == expected
    assert texts(assistant_only_loss=False) != expected, "the control learns the user's turns, too"


@needs("axolotl")
def test_axolotl_learns_the_same_tokens(project, rows, tokenizer):
    from axolotl.prompt_strategies.chat_template import ChatTemplatePrompter, ChatTemplateStrategy

    prompter = ChatTemplatePrompter(tokenizer, CHAT, field_messages="messages")
    options = {"train_on_inputs": False, "sequence_len": 4096, "roles_to_train": ["assistant"]}
    strategy = ChatTemplateStrategy(prompter, tokenizer, train_on_eos="turn", **options)
    for row in data_set(rows, project.path):
        tokens = strategy.tokenize_prompt(row)
        assert learnt(tokenizer, tokens["input_ids"], tokens["labels"]) == answers(row["messages"])


@needs("llamafactory")
def test_llama_factory_takes_every_turn(project, rows, monkeypatch):
    if importlib.util.find_spec("torchaudio") is None:  # imported at once, used for sound only
        monkeypatch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.parser import DatasetAttr

    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    attributes = DatasetAttr("file", "dialogues", formatting="sharegpt")
    for name, value in {"messages": "messages", "system_tag": "system", **tags}.items():
        setattr(attributes, name, value)
    convert = get_dataset_converter("sharegpt", attributes, None)
    for row in data_set(rows, project.path):
        aligned, turns = convert(row), row["messages"]
        system = turns[0]["content"] if turns[0]["role"] == "system" else ""
        assert aligned["_system"] == system
        assert aligned["_prompt"] + aligned["_response"] == turns[bool(system) :]
    broken = {"messages": [*turns, turns[-1]]}
    assert convert(broken)["_prompt"] == [], "the control: two answers in a row are left out"


@needs("swift")
def test_ms_swift_takes_every_turn(project, rows):
    from swift.dataset.preprocessor.core import AutoPreprocessor

    data = data_set(rows, project.path)
    loaded = AutoPreprocessor()(data, load_from_cache_file=False)
    assert [
        [{"role": turn["role"], "content": turn["content"]} for turn in messages]
        for messages in loaded["messages"]
    ] == data["messages"]
