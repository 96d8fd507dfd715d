"""`datasets` loads a corpus and TRL trains on it."""

import pytest

import distillgen


def corpus(project):
    project.rows("data/seeds.jsonl", [{"topic": f"topic {i}"} for i in range(8)])
    made = {
        "version": 1,
        "models": {"t": {"provider": "scripted", "model": "echo"}},
        "stages": [
            {"source": {"path": "data/seeds.jsonl"}},
            {"generate": {"model": "t", "template": "Tell of {{ topic }}", "output": "answer"}},
            {"format": {"messages": [{"user": "{{ topic }}"}, {"assistant": "{{ answer }}"}]}},
        ],
    }
    return distillgen.run(made, out="runs/p")


def test_datasets_loads_it(project, monkeypatch):
    import datasets

    monkeypatch.setenv("HF_HOME", str(project.path / "hf"))
    run = corpus(project)
    assert run.corpus.column_names == ["topic", "answer", "messages", "meta"] and run.corpus.num_rows == 8
    card = datasets.load_dataset(str(run.directory), split="train", cache_dir=str(project.path / "cache"))
    assert card.num_rows == 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trl_trains_on_it(project, monkeypatch):
    """Two steps of SFT on the messages, with a model of a few thousand random weights."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    run = corpus(project)
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [turn["content"] for row in run.corpus for turn in row["messages"]]
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>", "</s>"]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} </s>\n{% endfor %}"
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    config = SFTConfig(
        str(project.path / "out"),
        max_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    trainer = SFTTrainer(model, config, train_dataset=run.corpus, processing_class=tokenizer)
    result = trainer.train()
    assert result.global_step == 2 and 0 < result.training_loss < 20
