"""The transformers teacher over a tiny random Llama (slow: needs torch), and the checks without it."""

import asyncio
import importlib.util
import math
import shutil
from dataclasses import replace
from threading import Event

import pytest

from distillgen.algorithms.clauses import clauses_of
from distillgen.errors import ConfigError, Stopped
from distillgen.inference.constraints import SearchOptions
from distillgen.inference.endpoint import Services
from distillgen.inference.faults import TeacherDown
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.request import Request
from distillgen.inference.teacher import Teacher
from distillgen.teachers._search import Query
from distillgen.teachers.transformers import Model, Transformers, TransformersSpec
from tests.tiny_llama import make_adapter, make_model
from tests.tiny_models import t5

PACKAGES = ("torch", "transformers", "peft")
INSTALL = "needs pip install 'distillgen[train]'"


def slow(test):
    missing = pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in PACKAGES), reason=INSTALL
    )
    return pytest.mark.slow(pytest.mark.filterwarnings("default")(missing(test)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def ask(tmp_path):
    """Put requests to a model: ask(folder, request, request, samples=n) gives each its completions."""

    def ask(model, *requests, samples=1, **given):
        async def main():
            ledger = Ledger(tmp_path / "ledger.sqlite3")
            spec = TransformersSpec(provider="transformers", model=str(model), **given)
            teacher = Teacher(Transformers("student", spec, Services(ledger, Budget(), "run", tmp_path)))
            try:
                begun = teacher.begin([(request, samples) for request in requests], stage="s")
                return [await outcome for outcome in begun]
            finally:
                await teacher.close()
                await ledger.close()

        return asyncio.run(main())

    return ask


def chat(text, **sampling):
    return Request(
        "student",
        [{"role": "user", "content": text}],
        sampling={"temperature": 0, "max_tokens": 12} | sampling,
    )


def greedy(folder, text, tokens=12):
    """What transformers itself answers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    given = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, "return_tensors": "pt"}
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], **given)
    with torch.inference_mode():
        return tokenizer.decode(
            model.generate(ids, max_new_tokens=tokens, do_sample=False)[0, ids.shape[1] :],
            skip_special_tokens=True,
        )


@slow
def test_a_batch_of_unequal_prompts_answers_each_as_alone(folder, ask):
    texts = [
        "What?",
        "Who wrote the long book about the whale and the captain?",
        "When did it happen, and where?",
    ]
    answers = ask(folder, *map(chat, texts))
    assert [answer[0].text for answer in answers] == [greedy(folder, text) for text in texts]
    assert all(answer[0].input_tokens > 5 and 0 < answer[0].output_tokens <= 12 for answer in answers)
    assert len({answer[0].text for answer in answers}) > 1


@slow
def test_sampled_and_scored_log_probabilities_agree(folder, ask):
    question = chat(
        "What may be granted?", logprobs=2, max_tokens=2
    )  # to this it says what is cut into the same tokens again
    ((said,),) = ask(folder, question)
    ((given,),) = ask(
        folder, Request("student", question.messages, target=said.text, sampling={"logprobs": 2})
    )
    assert [token for token, _, _ in said.logprobs] == [token for token, _, _ in given.logprobs][
        : len(said.logprobs)
    ]
    assert [value for _, value, _ in said.logprobs] == pytest.approx(
        [value for _, value, _ in given.logprobs][: len(said.logprobs)], abs=1e-3
    )
    assert all(len(pairs) == 2 and pairs[0][1] >= value - 1e-3 for _, value, pairs in said.logprobs)
    other = ask(folder, Request("student", question.messages, target=said.text[::-1]))[0][0]
    assert sum(value for _, value, _ in other.logprobs) < sum(value for _, value, _ in given.logprobs)


@slow
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_text_without_a_context_is_scored_from_its_first_token_as_by_hand(folder, ask, tmp_path, kind):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    path = folder if kind == "llama" else t5(tmp_path / "t5", ["red green blue"])
    target = "Who wrote it?" if kind == "llama" else "green red"
    ((given,),) = ask(path, Request("student", prompt="", target=target))
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = tokenizer(target, add_special_tokens=False)["input_ids"]
    start = tokenizer("")["input_ids"] or [tokenizer.eos_token_id]
    with torch.inference_mode():
        if kind == "llama":
            model = AutoModelForCausalLM.from_pretrained(path)
            logits = model(torch.tensor([start + ids])).logits[0, len(start) - 1 : -1]
        else:
            model = AutoModelForSeq2SeqLM.from_pretrained(path)
            first = [model.config.decoder_start_token_id]
            logits = model(torch.tensor([start]), decoder_input_ids=torch.tensor([first + ids[:-1]])).logits[
                0
            ]
    hand = [float(row[token]) for row, token in zip(logits.log_softmax(-1), ids, strict=True)]
    assert len(hand) > 1 and [value for _, value, _ in given.logprobs] == pytest.approx(hand, abs=1e-4)


@slow
def test_all_tokens_of_a_small_vocabulary_are_alternatives_if_more_are_asked_for(ask, tmp_path):
    folder = t5(tmp_path / "t5", ["red green blue"])
    ((said,),) = ask(folder, Request("student", prompt="red", sampling={"logprobs": 100, "max_tokens": 2}))
    assert all(len(others) < 20 for _, _, others in said.logprobs)
    total = sum(math.exp(value) for _, value in said.logprobs[0][2])
    assert total == pytest.approx(1, abs=5e-3)


@slow
def test_samples_differ_and_stop_reasons_are_reported(folder, ask):
    (samples,) = ask(folder, chat("What is it?", temperature=1.0), samples=4)
    assert len({sample.text for sample in samples}) > 1 and [
        sample.input_tokens > 0 for sample in samples
    ] == [True, False, False, False]
    whole = greedy(folder, "What is it?")
    stop = whole[len(whole) // 2]
    ((cut,),) = ask(folder, chat("What is it?", stop=[stop]))
    assert cut.text == whole.split(stop)[0] and cut.status == "ok"
    ((short,),) = ask(folder, chat("What is it?", max_tokens=2))
    assert short.status == "length" and short.output_tokens == 2


@slow
def test_an_answer_of_word_tokens_ends_at_a_stop_text(tmp_path, ask):
    from distillgen.training.options import Tiny
    from distillgen.training.tiny import write_tiny

    words = write_tiny(tmp_path / "words", Tiny(tokens="words"), None, ["One fine day. Two dull nights."], 0)
    ((whole,),) = ask(words, Request("student", prompt="One", sampling={"temperature": 0, "max_tokens": 12}))
    stop = whole.text[3:5]
    sampling = {"temperature": 0, "max_tokens": 12, "stop": [stop]}
    ((cut,),) = ask(words, Request("student", prompt="One", sampling=sampling))
    assert cut.text == whole.text.split(stop)[0] and cut.status == "ok"
    assert cut.output_tokens < whole.output_tokens


@slow
def test_an_adapter_answers_in_its_own_way_and_is_named_in_the_key(folder, ask, tmp_path):
    adapter = make_adapter(tmp_path / "adapter", folder, 1)
    question = chat("What is it?")
    ((plain,),), ((adapted,),) = ask(folder, question), ask(adapter, question)
    assert plain.text != adapted.text and plain.key != adapted.key


@slow
@pytest.mark.parametrize("kind", ["answers", "scores"])
def test_a_stopped_batch_ends_at_its_next_token(folder, tmp_path, kind):
    target, requests = ("it is so " * 20, 300) if kind == "scores" else (None, 4)

    async def main():
        ledger = Ledger(tmp_path / "ledger.sqlite3")
        spec = TransformersSpec(provider="transformers", model=str(folder), max_concurrency=requests)
        endpoint = Transformers("student", spec, Services(ledger, Budget(), "run", tmp_path))
        teacher = Teacher(endpoint)
        steps = []
        endpoint._model.model.register_forward_hook(lambda *_: steps.append(1))
        asks = [
            (replace(chat(f"What is {i}?", max_tokens=900, temperature=1), target=target), 1)
            for i in range(requests)
        ]
        begun = teacher.begin(asks, stage="s")
        while len(steps) < 5:
            await asyncio.sleep(0.001)
        before = len(steps)
        await teacher.stop(Stopped("interrupted"))
        await teacher.close()  # waits for the batch, however long that takes
        for each in begun:
            with pytest.raises(Stopped):
                await each
        rows = ledger.last_id
        await ledger.close()
        return rows, len(steps) - before

    rows, further = asyncio.run(main())
    assert rows == 0 and further <= 2  # one that is under way, and one that has just begun


@slow
def test_a_folder_that_holds_no_model_ends_the_run_with_its_name(ask, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TeacherDown, match="cannot be loaded"):
        ask(tmp_path, chat("What?"))


@pytest.mark.parametrize("model", ["./nowhere", "/no/where", "a/b/c"])
def test_a_folder_that_is_not_there_is_told_before_anything_is_loaded(model, tmp_path):
    found = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    with pytest.raises(
        ConfigError, match="there is no folder" if found else "needs the extra 'transformers'"
    ):
        TransformersSpec(provider="transformers", model=model).check(tmp_path)


@slow
def test_a_users_turn_is_opened_as_transformers_itself_opens_it(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Model.__new__(Model)
    model.tokenizer = tokenizer
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
    for before in ([], [{"role": "system", "content": "Be brief."}], turns):
        ids = model.tokens(Request("student", before, write="user"))
        options = {"continue_final_message": True, "return_dict": False}
        own = tokenizer.apply_chat_template([*before, {"role": "user", "content": ""}], **options)
        assert ids == own and tokenizer.decode(ids).endswith("<|im_start|>user\n")
        assert ids != model.tokens(Request("student", before or turns))


@slow
def test_a_model_without_chat_template_cannot_open_a_users_turn(folder, ask, tmp_path):
    from transformers import AutoTokenizer

    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(bare)
    ((answer,),) = ask(bare, Request("student", [{"role": "user", "content": "Hello"}], write="user"))
    assert answer.status == "failed" and "no chat template" in answer.error


CLAUSES = [
    {"any": ["granted", "copyright"], "at_least": 1},
    {"any": ["the", "of", "and"], "at_most": 0},
    {"any": ["warranty"], "at_least": 1},
]


def constrained(text, clauses=CLAUSES, max_tokens=10, **search):
    settings = SearchOptions(**search).model_dump(exclude={"setting"})
    constraints = {"clauses": list(clauses), "search": settings}
    return Request("student", prompt=text, sampling={"max_tokens": max_tokens}, constraints=constraints)


def beam_search(model, text, beams, tokens):
    """The texts of transformers' own beam search, the best first, each once."""
    import torch

    ids = torch.tensor([model.tokens(Request("student", prompt=text))])
    sequences = model.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, num_beams=beams, length_penalty=0.4,
        num_return_sequences=beams, do_sample=False, early_stopping="never", eos_token_id=sorted(model.ends),
        pad_token_id=model.pad,
    )[:, 1 if model.seq2seq else ids.shape[1] :].tolist()  # fmt: skip
    ends = [next((i for i, t in enumerate(s) if t in model.ends), len(s)) for s in sequences]
    texts = [
        model.tokenizer.decode(s[:end], skip_special_tokens=True)
        for s, end in zip(sequences, ends, strict=True)
    ]
    return [*dict.fromkeys(texts)]


@slow
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_a_search_without_clauses_is_the_beam_search_of_transformers(folder, tmp_path, kind):
    other = kind == "encoder-decoder"
    place = t5(tmp_path / "t5", ["red green blue yellow", "one two three"]) if other else folder
    model = Model(str(place), None, TransformersSpec(provider="transformers", model=str(place)), Event())
    model.ends |= set() if other else set(range(5, 900, 40))  # so that many texts end
    for text in ("red", "one blue", "What?", "Permission is granted", "Who wrote the long book?"):
        request = constrained(text, (), 7, beam=5, ngram=0, early_stop=0, length_penalty=0.4)
        asked = [Query(request, model.tokens(request), range(5), 0)]
        texts = [completion.text for completion in model.searched(asked)[0] if completion.status == "ok"]
        theirs = beam_search(model, text, 5, 7)
        assert texts[: len(theirs) - 1] == theirs[:-1] and len(theirs) > 1


@slow
def test_constrained_answers_meet_their_clauses_in_any_batch_and_are_asked_once(folder, ask):
    texts = ["What?", "Who wrote the long book about the whale?", "Permission is", "You may", "No", "If the"]
    requests = [*map(constrained, texts)]
    alone = ask(folder, *requests, samples=3, max_concurrency=1)
    assert [[c.text for c in cs] for cs in ask(folder, *requests, samples=3)] == [
        [c.text for c in cs] for cs in alone
    ], "the ledger has them"
    model = Model(str(folder), None, TransformersSpec(provider="transformers", model=str(folder)), Event())
    together = model.searched([Query(r, model.tokens(r), range(3), 0) for r in requests])
    assert [[c.text for c in cs] for cs in together] == [[c.text for c in cs] for cs in alone]
    clauses = clauses_of(requests[0].constraints)
    answers = [c for cs in alone for c in cs if c.status in ("ok", "length")]
    assert len(answers) > 6 and not any(clauses.mistake(c.text) for c in answers)
    free = ask(folder, *(constrained(text, ()) for text in texts), samples=3)
    assert all(clauses.mistake(c.text) for cs in free for c in cs), "few texts meet them by chance"


@slow
def test_a_further_sample_is_the_next_best_and_a_dead_end_a_recorded_failure(folder, ask):
    ((first,),) = ask(folder, constrained("What?"))
    ((same, second, third),) = ask(folder, constrained("What?"), samples=3)
    assert first.text == same.text and len({first.text, second.text, third.text}) == 3
    impossible = [*CLAUSES, {"any": ["zebra crossing elephant"], "at_least": 2}]
    ((failed,),) = ask(folder, constrained("What?", impossible))
    assert failed.status == "failed" and not failed.text
    assert "clause 4, at least 2 of 'zebra crossing elephant'" in failed.error
