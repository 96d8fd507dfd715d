"""Rows with tool calls load and mask alike in TRL: the calls are learnt, what tools answer is not."""

import importlib.util
import json
import sys
from types import ModuleType

import pytest

import distillgen
from distillgen.flow.stage import CheckContext
from distillgen.objectives.sft import Sft
from distillgen.project import Project
from distillgen.record import Record
from distillgen.rows.shapes import shaper
from tests.conftest import ROOT
from tests.training.test_loaders import needs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TOOLS = [json.loads(line) for line in (ROOT / "data/tools.jsonl").read_text(encoding="utf-8").splitlines()]
TEMPLATE = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>{% endif %}"
    "{% for message in messages %}{% if message.role == 'assistant' %}<assistant>{% generation %}"
    "{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<call>{{ call.function.name }} "
    "{{ call.function.arguments | tojson }}</call>"
    "{% endfor %}</s>{% endgeneration %}"
    "{% elif message.role == 'tool' %}<result>{{ message.name }}: {{ message.content }}</result>"
    "{% else %}<{{ message.role }}>{{ message.content }}</{{ message.role }}>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def call(name, **arguments):
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"{name}-1", "type": "function", "function": function}


def result(name, content):
    return {"role": "tool", "tool_call_id": f"{name}-1", "content": content}


def said(content, *calls):
    return {"role": "assistant", "content": content} | ({"tool_calls": list(calls)} if calls else {})


def asked(content):
    return {"role": "user", "content": content}


ROWS = [  # one call; two in one turn; two steps; a text without calls and tools
    {
        "messages": [
            asked("a"),
            said("", call("weekday", day="2000-01-01")),
            result("weekday", "R1"),
            said("E1"),
        ],
        "tools": TOOLS[:6],
    },
    {
        "messages": [
            asked("b"),
            said("", call("sort_words", words=["x"]), call("count_words", text="y")),
            result("sort_words", "R2"),
            result("count_words", "R3"),
            said("E2"),
        ],
        "tools": TOOLS[5:9],
    },
    {
        "messages": [
            asked("c"),
            said("", call("add_days", start="2000-01-01", days=3)),
            result("add_days", "R4"),
            said("", call("weekday", day="R4")),
            result("weekday", "R5"),
            said("E3"),
        ],
        "tools": TOOLS[3:5],
    },
    {"messages": [asked("d"), said("E4")], "tools": []},
]
LEARNT = [
    '<call>weekday {"day": "2000-01-01"}</call></s>|E1</s>',
    '<call>sort_words {"words": ["x"]}</call><call>count_words {"text": "y"}</call></s>|E2</s>',
    '<call>add_days {"start": "2000-01-01", "days": 3}</call></s>|'
    '<call>weekday {"day": "R4"}</call></s>|E3</s>',
    "E4</s>",
]


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, "<pad>"])}
    bytes_of = Tokenizer(models.BPE(vocabulary, []))
    bytes_of.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_of.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=bytes_of, pad_token="<pad>", eos_token="<pad>")
    made.chat_template = TEMPLATE
    return made


def masked(project, tokenizer, path, name):
    """The tokens and the tokens to learn of each row of a file, as TRL prepares them."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads))
    config = SFTConfig(
        str(project.path / name),
        assistant_only_loss=True,
        max_length=8192,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    data = Dataset.from_json(str(path), cache_dir=str(project.path / "cache" / name))
    trainer = SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer)
    return [(row["input_ids"], [label != -100 for label in row["labels"]]) for row in trainer.train_dataset]


def learnt(tokenizer, ids, mask):
    """The texts of the runs of tokens that the student learns, with a bar between two."""
    pieces, before = [], 0
    for token, on in zip(ids, mask, strict=True):
        if on:
            pieces = [*pieces, [token]] if not before else [*pieces[:-1], [*pieces[-1], token]]
        before = on
    return "|".join(tokenizer.decode(piece) for piece in pieces)


def exported(project, *shape):
    project.rows("rows.jsonl", ROWS)
    stages = [{"source": {"path": "rows.jsonl"}}]
    distillgen.run({"version": 1, "models": {}, "stages": stages}, out="raw")
    project.cli("export", "raw", *shape, "--no-id", "--out", "rows_out.jsonl")
    return project.path / "rows_out.jsonl"


def test_calls_and_answers_are_learnt_and_results_are_not(project, tokenizer):
    rows = masked(project, tokenizer, exported(project, "--shape", "messages"), "shaped")
    assert [learnt(tokenizer, ids, mask) for ids, mask in rows] == LEARNT
    texts = [tokenizer.decode(ids) for ids, _ in rows]
    assert "<result>sort_words: R2</result><result>count_words: R3</result>" in texts[1]
    assert [text.count('"type": "function"') for text in texts] == [6, 4, 2, 0], "each row has its own tools"
    assert all("null" not in text.replace('"default": null', "") for text in texts), (
        "no row has another's arguments"
    )


def test_calls_as_text_would_teach_other_tokens(project, tokenizer):
    rows = masked(project, tokenizer, exported(project), "raw")
    assert learnt(tokenizer, *rows[0]) != LEARNT[0] and '\\"day\\"' in learnt(tokenizer, *rows[0])


def test_the_objective_sft_gives_trl_the_same_rows(project, tokenizer):
    objective = Sft(loss="assistant")
    fields = frozenset(ROWS[0])
    objective.check(CheckContext(fields, {}, Project(project.path)))
    own = project.rows("own.jsonl", [objective.row(Record.read(row, ""), {}) for row in ROWS])
    shaped = exported(project, "--shape", "messages")
    assert masked(project, tokenizer, own, "own") == masked(project, tokenizer, shaped, "shaped")


def shaped(name):
    """The rows in a shape."""
    return [shaper(name, {}, list(row)).row(row) for row in ROWS]


@needs("axolotl")
def test_axolotl_learns_the_same_tokens(tokenizer):
    from axolotl.prompt_strategies.chat_template import ChatTemplatePrompter, ChatTemplateStrategy

    template = TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    prompter = ChatTemplatePrompter(tokenizer, template.replace("</s>", "<pad>"), field_messages="messages")
    options = {"train_on_inputs": False, "sequence_len": 8192, "roles_to_train": ["assistant"]}
    strategy = ChatTemplateStrategy(prompter, tokenizer, train_on_eos="turn", **options)
    for row, expected in zip(shaped("messages"), LEARNT, strict=True):
        tokens = strategy.tokenize_prompt(row)
        mask = [label != -100 for label in tokens["labels"]]
        assert learnt(tokenizer, tokens["input_ids"], mask) == expected.replace("</s>", "<pad>")


@needs("llamafactory")
def test_llama_factory_takes_calls_results_and_tools(monkeypatch):
    if importlib.util.find_spec("torchaudio") is None:  # imported at once, used for sound only
        monkeypatch.setitem(sys.modules, "torchaudio", ModuleType("torchaudio"))
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.formatter import FunctionFormatter
    from llamafactory.data.parser import DatasetAttr

    attributes = DatasetAttr("file", "calls", formatting="sharegpt", messages="conversations", tools="tools")
    convert, write = (
        get_dataset_converter("sharegpt", attributes, None),
        FunctionFormatter(slots=["{{content}}"], tool_format="qwen"),
    )
    rows = [convert(row) for row in shaped("sharegpt")]
    turns = [row["_prompt"] + row["_response"] for row in rows]
    one, answer = ["user", "function", "observation"], ["assistant"]
    assert [[turn["role"] for turn in row] for row in turns] == [
        one + answer,
        one + answer,
        [*one, "function", "observation", *answer],
        ["user", *answer],
    ]
    (calls,) = write.apply(content=turns[1][1]["content"])
    assert [json.loads(text)["name"] for text in calls.split("\n") if text[0] == "{"] == [
        "sort_words",
        "count_words",
    ]
    assert len(json.loads(rows[1]["_tools"])) == 4


@needs("swift")
def test_ms_swift_takes_calls_and_results():
    from swift.dataset.preprocessor.core import MessagesPreprocessor

    rows = [MessagesPreprocessor().preprocess(row) for row in shaped("messages")]
    assert [turn["role"] for turn in rows[1]["messages"]] == [
        "user",
        *["tool_call"] * 2,
        *["tool"] * 2,
        "assistant",
    ]
    assert rows[1]["messages"][1]["content"] == {"name": "sort_words", "arguments": {"words": ["x"]}}
