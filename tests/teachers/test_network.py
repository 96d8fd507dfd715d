"""The provider of models that write no text: what it refuses, and what each kind of model answers (slow)."""

import asyncio
import importlib.util
import json
import math
from pathlib import Path

import pytest

import distillgen
from distillgen.cli.arguments import model_argument
from distillgen.cli.student import _student_and_base
from distillgen.errors import ConfigError, Stopped
from distillgen.inference.endpoint import Services
from distillgen.inference.faults import Rejected, TeacherDown
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.logprobs import unpack
from distillgen.inference.request import Completion, Request
from distillgen.inference.teacher import Teacher
from distillgen.project import Project
from distillgen.runs.directory import read_records
from distillgen.stages.train import Train
from distillgen.teachers._network_models import Answer, means, number, pair_of, ranked, ranked_answers
from distillgen.teachers.network import NetworkTeacher, NetworkTeacherSpec, embedding, read_text
from tests.tiny_llama import make_model
from tests.tiny_models import bert

TEXTS = ["red green blue what colour is this a thing of none"]
LABELS = {"id2label": {"0": "no", "1": "perhaps", "2": "yes"}}
FOLDERS = {
    "a network": {"network.json": {}},
    "a classifier": {"config.json": {"architectures": ["BertForSequenceClassification"], **LABELS}},
    "a scorer": {
        "config.json": {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    },
    "a cross-encoder": {
        "config.json": {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}},
        "config_sentence_transformers.json": {"model_type": "CrossEncoder"},
        "modules.json": [],
    },
    "an embedder": {"config.json": {"architectures": ["BertModel"]}, "modules.json": []},
    "an encoder": {"config.json": {"architectures": ["BertModel"]}},
}
GIVES = {
    "a network": "classes",
    "a classifier": "classes",
    "a scorer": "scores",
    "a cross-encoder": "scores",
    "an embedder": "vectors",
    "an encoder": "vectors",
}


def slow(test):
    there = all(map(importlib.util.find_spec, ("torch", "transformers", "sentence_transformers", "peft")))
    missing = pytest.mark.skipif(not there, reason="needs pip install 'distillgen[train]'")
    return pytest.mark.slow(pytest.mark.filterwarnings("default")(missing(test)))


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr("distillgen.extras.find_spec", lambda name: True)


def written(folder: Path, files: dict) -> str:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return str(folder)


def checked(stage: dict, gives: str, **model):
    entry = {"provider": "network", "model": "owner/name", "gives": gives, **model}
    other = {"provider": "openai", "model": "m", "api_key": "k"}
    stages = [{"source": {"path": "rows.jsonl"}}, stage]
    models = {"m": entry, "o": other, "v": {**other, "server": "vllm", "base_url": "http://localhost:1/v1"}}
    return distillgen.load({"version": 1, "models": models, "stages": stages})


# Without torch


class Lengths:
    """A model of pairs, whose number is the length of the second text."""

    def __init__(self):
        self.batches = []

    def answers(self, texts):
        self.batches.append(len(texts))
        pairs = [pair_of(text) for text in texts]
        return [
            Answer(str(len(pair[1]))) if pair else Rejected(f"no pair: {text}")
            for pair, text in zip(pairs, texts, strict=True)
        ]


def test_a_text_with_a_list_of_texts_is_answered_with_a_list_of_numbers():
    model = Lengths()
    texts = ['["q", ["a", "bb", "ccc"]]', '["q", "dddd"]', "alone", '["q", ["a", 5]]', '["q", []]']
    texts.append('["q", ["e"]]')
    first, pair, *others, last = ranked_answers(model, texts, batch=4)
    assert json.loads(first.text) == [1, 2, 3] and pair.text == "4" and json.loads(last.text) == [1]
    assert [str(other) for other in others] == ["no pair: alone", 'no pair: ["q", 5]', 'no pair: ["q", []]']
    assert model.batches == [4, 4, 1]


@pytest.mark.parametrize("gives", ["classes", "scores", "vectors"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_model_that_gives_something_else_is_refused(installed, tmp_path, kind, gives):
    spec = NetworkTeacherSpec(
        provider="network", model=written(tmp_path / "model", FOLDERS[kind]), gives=gives
    )
    if gives == GIVES[kind]:
        spec.check(tmp_path)
        return
    with pytest.raises(ConfigError, match=f"is {kind}, and gives no {gives}; write gives: {GIVES[kind]}"):
        spec.check(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "it holds no model: there is no config.json"),
        ({"adapter_config.json": {"task_type": "CAUSAL_LM"}}, "it holds an adapter that classifies nothing"),
        ({"adapter_config.json": {"task_type": "SEQ_CLS"}}, "without a manifest.json that names its classes"),
        (
            {"modules.json": [], "config_sentence_transformers.json": {"model_type": "SparseEncoder"}},
            "it holds a SparseEncoder, which gives no classes, scores or vectors",
        ),
        (None, "there is no folder '.*'; a name on the Hub is like owner/name"),
    ],
)
def test_a_folder_without_a_model_is_refused(installed, tmp_path, files, message):
    model = str(tmp_path / "nowhere") if files is None else written(tmp_path / "model", files)
    with pytest.raises(ConfigError, match=message):
        NetworkTeacherSpec(provider="network", model=model, gives="classes").check(tmp_path)


SEVERAL = "reads one text, and the prompt has several turns"
TOO_MANY = "model 'o' (openai) records at most 20 alternatives of a token, not logprobs: 40"


def generate(**options):
    prompt = {} if "prompt" in options else {"template": "{{ q }}"}
    return {"generate": {"model": "m", "output": "a", **prompt, **options}}


def evaluate(**options):
    data = {"data": "rows.jsonl", "gold": "q", "metrics": ["exact"]}
    return {"evaluate": {"models": ["m"], "template": "{{ q }}", **data, **options}}


def score(**options):
    return {"score": {"model": "m", "context": "{{ q }}", "target": "{{ q }}", **options}}


EMBED = {"embed": {"model": "m", "template": "{{ q }}"}}


@pytest.mark.parametrize(
    ("gives", "stage", "message"),
    [
        ("vectors", generate(), "model 'm' (network) gives vectors, for which a stage embed asks"),
        ("vectors", evaluate(), "its answer is the similarity of two texts"),
        ("scores", EMBED, "cannot do embeddings"),
        ("classes", score(), "cannot do score"),
        ("scores", generate(logprobs=2), "cannot do logprobs"),
        ("scores", evaluate(logprobs=1), "cannot do logprobs"),
        ("classes", generate(history="q"), SEVERAL),
        ("classes", generate(prompt="system"), SEVERAL),
        ("classes", generate(prompt="shown"), SEVERAL),
        ("classes", generate(logprobs=300), "255"),
        ("classes", generate(model="o", logprobs=40), TOO_MANY),
        ("classes", evaluate(models=["o"], logprobs=40), TOO_MANY),
        ("classes", score(model="v", logprobs=40), TOO_MANY.replace("'o'", "'v'")),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_the_check(installed, project, gives, stage, message):
    project.rows("rows.jsonl", [{"q": "red"}])
    project.write("prompts/system.md", "@system\nBe brief.\n@user\n{{ q }}\n")
    project.write("prompts/shown.md", "---\nfew_shot: {examples: [{q: a, answer: b}]}\n---\n{{ q }}\n")
    with pytest.raises(ConfigError) as error:
        checked(stage, gives)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("gives", "stage"),
    [
        ("vectors", generate(template="{{ [q, q] | json }}")),
        ("vectors", generate(template='["{{ q }}", "red"]')),
        ("vectors", EMBED),
        ("classes", EMBED),
        ("classes", generate(logprobs=40)),
        ("scores", generate()),
    ],
)
def test_what_a_model_can_do_passes_the_check(installed, project, gives, stage):
    project.rows("rows.jsonl", [{"q": "red"}])
    assert checked(stage, gives)


@pytest.mark.parametrize("text", ["red", '["red"]', '["red", 2]', '["a", "b", "c"]', '{"a": "b"}', "[red"])
def test_what_is_no_list_of_two_texts_is_no_pair(text):
    assert pair_of(text) is None and pair_of(' ["red", "blue"]') == ["red", "blue"]


def test_a_file_is_no_model(installed, tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"x")
    with pytest.raises(ConfigError, match="'model.pkl' is a file; give a folder"):
        NetworkTeacherSpec(provider="network", model="model.pkl", gives="classes").check(tmp_path)


def test_what_is_not_finite_is_no_answer():
    nan = math.nan
    assert isinstance(ranked({"a": nan, "b": nan}), Rejected) and isinstance(number(math.inf), Rejected)
    assert isinstance(embedding([0.5, nan]), Rejected) and embedding([0.5]).embedding == [0.5]
    assert ranked({"a": -2.0, "b": -0.2}) == ("b", [("b", -0.2), ("a", -2.0)])


def test_half_a_character_is_replaced_as_no_tokenizer_takes_it():
    assert read_text(Request("m", prompt="\ud83d red")) == "? red"


def test_40_classes_of_a_script_are_recorded_and_300_are_too_many(project):
    def script(request, sample):
        n = int(request.messages[0]["content"])
        return Completion("c0", logprobs=[["c0", -0.5, [[f"c{i}", -0.5 - i] for i in range(n)]]])

    project.rows("rows.jsonl", [{"n": 40}, {"n": 255}, {"n": 256}])
    ask = {"model": "m", "template": "{{ n }}", "output": "a", "logprobs": 40}
    pipeline = {
        "version": 1,
        "models": {"m": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "rows.jsonl"}}, {"generate": ask}],
    }
    run = distillgen.run(pipeline, out="out", teachers={"m": script})
    records = [record for record in read_records(run.directory / "stages/02-generate.jsonl")]
    assert ["256 alternatives of a token; give at most 255" in str(r.dropped) for r in records] == [
        False,
        False,
        True,
    ]
    ledger = Ledger(run.ledger, read_only=True)
    keys = [bytes.fromhex(record.made[0]["key"]) for record in records[:2]]
    counts = [len(unpack(signals)[0][0][2]) for _, _, signals in ledger.find(keys).values()]
    ledger.close_now()
    assert sorted(counts) == [40, 255]


def test_every_student_of_a_training_has_an_entry(tmp_path):
    losses = {"losses": [{"cross_entropy": {"of": "tutor"}}], "teachers": {"tutor": {"peer": {"mlp": [4]}}}}
    network = {"objective": "distil", "student": {"mlp": [4]}, "inputs": ["x"], "label": "y", **losses}
    pair = {"objective": "embedder", "fields": ["a", "b"], "score": "s"}
    entries = {
        "train": network,
        "near": {**pair, "student": "minilm"},
        "small": {**pair, "student": "tiny"},
        "rank": {**pair, "objective": "cross_encoder", "student": "minilm"},
        "grade": {"objective": "classifier", "task": "score", "student": "minilm"},
    }
    models = {
        name: (spec.gives, spec.model.replace(str(tmp_path), "."))
        for stage, options in entries.items()
        for name, spec in Train.model_validate({"name": stage, **options})
        .makes(tmp_path, Project(tmp_path))
        .items()
    }
    assert models == {
        "student": ("classes", "./student"),
        "student-tutor": ("classes", "./student/peers/tutor"),
        "student-near": ("vectors", "./student-near"),
        "base-near": ("vectors", "minilm"),
        "student-small": ("vectors", "./student-small"),
        "base-small": ("vectors", "./student-small/base"),
        "student-rank": ("scores", "./student-rank"),
        "student-grade": ("scores", "./student-grade"),
    }


def test_a_loop_that_begins_with_weights_that_give_something_else_is_refused(installed, project):
    project.rows("rows.jsonl", [{"q": "red", "label": "a"}])
    written(
        project.path / "encoder",
        FOLDERS["an encoder"] | {"config.json": {"model_type": "bert", "architectures": ["BertModel"]}},
    )
    train = {"objective": "classifier", "student": "previous", "fields": ["q"], "held_out": 0}
    ask = {"model": "student", "template": "{{ q }}", "output": "a"}
    rounds = {"n": 2, "start": "encoder", "stages": [{"generate": ask}, {"train": train}]}
    stages = [{"source": {"path": "rows.jsonl"}}, {"rounds": rounds}]
    message = "start: 'student' in the first round: the model 'encoder' is an encoder, and gives no classes"
    with pytest.raises(ConfigError, match=message):
        distillgen.load({"version": 1, "stages": stages})
    train |= {"objective": "embedder", "fields": ["q", "q"], "loss": "ranking"}
    rounds["stages"][0] = {"embed": {"model": "student", "template": "{{ q }}"}}
    assert distillgen.load({"version": 1, "stages": stages})
    rounds["start"] = "near"
    entry = {"provider": "network", "model": "encoder", "gives": "vectors"}
    loaded = distillgen.load({"version": 1, "models": {"near": entry}, "stages": stages})
    assert loaded.bound_stages[-1].stages[-1].first == "encoder"


@pytest.mark.parametrize(
    ("gives", "names"),
    [("classes", ["student"]), ("vectors", ["student", "base"]), (None, ["student", "base"])],
)
def test_the_command_evaluate_asks_a_student_by_what_it_gives(tmp_path, monkeypatch, gives, names):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/student").mkdir(parents=True)
    manifest = {"base": "owner/name", **({"gives": gives} if gives else {})}
    (tmp_path / "run/student/manifest.json").write_text(json.dumps(manifest))
    entry = {"provider": "network", "gives": gives} if gives else {"provider": "transformers"}
    models = _student_and_base(tmp_path / "run")
    assert [*models] == names and models["student"] == {**entry, "model": "run/student"}
    assert model_argument("m=run/student") == ("m", models["student"])
    assert model_argument("m=owner/name")[1] == {"provider": "transformers", "model": "owner/name"}


# With torch


@pytest.fixture
def ask(tmp_path):
    """Put texts to a model, as chat turns or to be embedded; gives the completions of each."""

    def ask(model, gives, *texts, embed=False, samples=1, manifest=None, **sampling):
        async def main():
            ledger = Ledger(tmp_path / "ledger.sqlite3")
            spec = NetworkTeacherSpec(provider="network", model=str(model), gives=gives)
            spec.check(tmp_path)
            endpoint = NetworkTeacher("n", spec, Services(ledger, Budget(), "run", tmp_path))
            teacher = Teacher(endpoint)
            requests = [
                Request(teacher.model, embed=text)
                if embed
                else Request(teacher.model, [{"role": "user", "content": text}], sampling=sampling)
                for text in texts
            ]
            try:
                begun = teacher.begin([(request, samples) for request in requests], stage="s")
                return [await outcome for outcome in begun]
            finally:
                await teacher.close()
                await ledger.close()

        return asyncio.run(main())

    return ask


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("bert"), TEXTS)


def classifier(encoder: Path, folder: Path, classes: list[str]) -> Path:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(1)
    names = dict(enumerate(classes))
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder, id2label=names, label2id={name: i for i, name in names.items()}
    )
    with torch.no_grad():
        model.classifier.weight.mul_(40)
        read = AutoTokenizer.from_pretrained(encoder)(
            ["red", "blue thing", "what"], padding=True, return_tensors="pt"
        )
        model.classifier.bias.copy_(
            -model.eval()(**read).logits.mean(0)
        )  # so that the likeliest class differs
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)
    return folder


def logits_of(folder: Path, *texts):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    read = AutoTokenizer.from_pretrained(folder)(*texts, return_tensors="pt")
    with torch.no_grad():
        return model(**read).logits[0].tolist()


def log_softmax(values):
    total = math.log(sum(math.exp(value) for value in values))
    return [value - total for value in values]


@slow
class TestAnswers:
    def test_a_classifier_answers_its_likeliest_class_with_the_log_probabilities_of_the_classes(
        self, encoder, ask, tmp_path
    ):
        folder = classifier(encoder, tmp_path / "c", ["no", "perhaps", "yes"])
        texts = ["red", "what colour is this", "blue a thing of none", '["red", "blue"]']
        answers = ask(folder, "classes", *texts, samples=2, logprobs=2)
        assert len({answer.text for (answer, _) in answers}) > 1
        for text, (answer, second) in zip(texts, answers, strict=True):
            pair = json.loads(text) if text.startswith("[") else [text]
            values = dict(zip(["no", "perhaps", "yes"], log_softmax(logits_of(folder, *pair)), strict=True))
            ((token, value, others),) = answer.logprobs
            assert answer.text == token == max(values, key=values.get) and second.text == token
            assert value == pytest.approx(values[token], abs=1e-5)
            assert [name for name, _ in others] == sorted(values, key=values.get)[:0:-1]
            assert [logprob for _, logprob in others] == pytest.approx(
                sorted(values.values())[:0:-1], rel=2e-3
            )
        (answer,) = ask(folder, "classes", "red")[0]
        assert answer.text in ("no", "perhaps", "yes") and not answer.logprobs

    def test_all_of_40_classes_are_recorded_and_their_probabilities_add_up_to_1(self, encoder, ask, tmp_path):
        names = [f"class {i}" for i in range(40)]
        folder = classifier(encoder, tmp_path / "c", names)
        (answer,) = ask(folder, "classes", "red", logprobs=200)[0]
        ((token, _, others),) = answer.logprobs
        assert {name for name, _ in others} == {*names} and others[0][0] == token
        assert sum(math.exp(value) for _, value in others) == pytest.approx(1, abs=1e-3)

    def test_a_scorer_answers_its_number_and_a_text_that_is_too_long_is_cut(self, encoder, ask, tmp_path):
        folder = classifier(encoder, tmp_path / "s", ["score"])
        (answer,), (cut,) = ask(folder, "scores", "red blue", "red " * 200)
        assert float(answer.text) == pytest.approx(logits_of(folder, "red blue")[0], rel=1e-4)
        assert math.isfinite(float(cut.text))

    def test_an_adapter_answers_with_the_classes_of_its_manifest(self, encoder, ask, tmp_path):
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
        adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules="all-linear"))
        adapted.save_pretrained(tmp_path / "a")
        AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path / "a")
        (tmp_path / "a/manifest.json").write_text(json.dumps({"classes": ["left", "right"]}))
        read = AutoTokenizer.from_pretrained(encoder)("red", return_tensors="pt")
        with torch.no_grad():
            logits = adapted.eval()(**read).logits[0].tolist()
        ((answer,),) = ask(tmp_path / "a", "classes", "red", logprobs=2)
        assert answer.text == ["left", "right"][logits[1] > logits[0]]
        assert answer.logprobs[0][1] == pytest.approx(max(log_softmax(logits)), abs=1e-5)

    def test_the_vector_of_an_encoder_and_of_a_classifier_is_the_mean_of_its_last_states(
        self, encoder, ask, tmp_path
    ):
        import torch
        from transformers import AutoModel, AutoTokenizer

        model, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
        texts = ["red", "what colour is this a thing"]  # of unequal length: padding does not count
        folder = classifier(encoder, tmp_path / "c", ["a", "b"])
        for asked_folder, gives in ((encoder, "vectors"), (folder, "classes")):
            vectors = ask(asked_folder, gives, *texts, embed=True)
            for text, (answer,) in zip(texts, vectors, strict=True):
                with torch.no_grad():
                    states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
                assert answer.embedding == pytest.approx(states.mean(0).tolist(), abs=1e-5)

    def test_an_embedder_embeds_and_answers_the_cosine_of_two_texts(self, encoder, ask, tmp_path):
        import numpy
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(encoder), device="cpu")
        model.save_pretrained(str(tmp_path / "e"))
        one, other = model.encode(["red", "blue thing"])
        (first,), (second,) = ask(tmp_path / "e", "vectors", "red", "blue thing", embed=True)
        assert first.embedding == pytest.approx(one, abs=1e-5)
        assert second.embedding == pytest.approx(other, abs=1e-5)
        (near,), (same,), (none,) = ask(
            tmp_path / "e", "vectors", '["red", "blue thing"]', '["red", "red"]', "red"
        )
        cosine = one @ other / numpy.linalg.norm(one) / numpy.linalg.norm(other)
        assert float(near.text) == pytest.approx(cosine, abs=1e-5) and float(same.text) == 1
        assert none.status == "failed" and "a JSON list of two texts" in none.error
        (ranking,), (mixed,) = ask(
            tmp_path / "e", "vectors", '["red", ["blue thing", "red"]]', '["red", ["red", 1]]'
        )
        assert json.loads(ranking.text) == pytest.approx([cosine, 1], abs=1e-5)
        assert mixed.status == "failed" and "a JSON list of two texts" in mixed.error

    @pytest.mark.parametrize("similarity", ["dot", "euclidean"])
    def test_an_embedder_answers_the_similarity_that_its_folder_names(
        self, encoder, ask, tmp_path, similarity
    ):
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(encoder), device="cpu", similarity_fn_name=similarity)
        model.save_pretrained(str(tmp_path / "e"))
        one, other = model.encode(["red", "blue thing"])
        expected = {"dot": one @ other, "euclidean": -math.dist(one, other)}[similarity]
        ((answer,),) = ask(tmp_path / "e", "vectors", '["red", "blue thing"]')
        assert float(answer.text) == pytest.approx(expected, rel=1e-4)

    def test_a_cross_encoder_answers_the_score_of_two_texts(self, encoder, ask, tmp_path):
        import torch
        from sentence_transformers.cross_encoder import CrossEncoder

        model = CrossEncoder(str(encoder), num_labels=1, device="cpu", activation_fn=torch.nn.Identity())
        model.save_pretrained(str(tmp_path / "x"))
        expected = float(model.predict([("red", "blue")], show_progress_bar=False)[0])
        (answer,), (none,) = ask(tmp_path / "x", "scores", '["red", "blue"]', "red")
        assert float(answer.text) == pytest.approx(expected, abs=1e-5)
        assert none.status == "failed" and "a cross-encoder reads a JSON list" in none.error

    def test_other_weights_have_other_keys_and_another_manifest_has_not(self, encoder, ask, tmp_path):
        folder = classifier(encoder, tmp_path / "c", ["a", "b"])
        ((first,),) = ask(folder, "classes", "red")
        (folder / "manifest.json").write_text('{"seconds": 2}')
        ((again,),) = ask(folder, "classes", "red")
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense/model.safetensors").write_bytes(b"other weights")
        ((other,),) = ask(folder, "classes", "red")
        assert first.key == again.key != other.key

    def test_a_hub_model_that_gives_something_else_ends_the_run(self, encoder, tmp_path):
        """What is on the Hub is known only when it is loaded."""

        async def main():
            ledger = Ledger(tmp_path / "ledger.sqlite3")
            spec = NetworkTeacherSpec(provider="network", model=str(encoder), gives="classes")
            teacher = Teacher(NetworkTeacher("n", spec, Services(ledger, Budget(), "run", tmp_path)))
            begun = teacher.begin([(Request("m", prompt="red"), 1)], stage="s")
            try:
                with pytest.raises(TeacherDown, match="is an encoder, and gives no classes"):
                    await begun[0]
            finally:
                await teacher.close()
                await ledger.close()

        asyncio.run(main())

    def test_vectors_and_answers_have_batches_of_their_own(self, encoder, tmp_path):
        folder = str(classifier(encoder, tmp_path / "c", ["a", "b"]))

        async def main():
            ledger = Ledger(tmp_path / "ledger.sqlite3")
            spec = NetworkTeacherSpec(provider="network", model=folder, gives="classes")
            endpoint = NetworkTeacher("n", spec, Services(ledger, Budget(), "run", tmp_path))
            requests = [Request("m", embed="red"), Request("m", prompt="red")]
            (vector,), (answer,) = await asyncio.gather(*(endpoint.answer(r, [0], 0) for r in requests))
            await endpoint.close()
            await ledger.close()
            return vector, answer

        vector, answer = asyncio.run(main())
        assert len(vector.embedding) == 64 and not vector.text
        assert answer.text in ("a", "b") and not answer.embedding

    def test_a_decoder_that_classifies_reads_unequal_texts_as_it_reads_each_alone(self, ask, tmp_path):
        import torch
        from transformers import AutoTokenizer, LlamaForSequenceClassification

        base, folder = make_model(tmp_path / "base"), tmp_path / "d"
        torch.manual_seed(4)
        model = LlamaForSequenceClassification.from_pretrained(base, num_labels=2)
        model.config.pad_token_id = None  # as models on the Hub often have it
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        texts = ["What?", "Who wrote the long book about the whale?"]
        together = ask(folder, "classes", *texts, logprobs=2)
        for text, (answer,) in zip(texts, together, strict=True):
            values = log_softmax(logits_of(folder, text))
            assert answer.logprobs[0][1] == pytest.approx(max(values), abs=1e-4)

    def test_a_text_without_tokens_has_a_vector_of_zeros(self):
        import torch

        states, mask = torch.ones(2, 3, 4), torch.tensor([[1, 1, 0], [0, 0, 0]])
        assert means(states, mask) == [[1.0] * 4, [0.0] * 4]

    def test_after_a_stop_no_batch_begins(self, encoder, tmp_path):
        async def main():
            ledger = Ledger(tmp_path / "ledger.sqlite3")
            spec = NetworkTeacherSpec(provider="network", model=str(encoder), gives="vectors")
            endpoint = NetworkTeacher("n", spec, Services(ledger, Budget(), "run", tmp_path))
            endpoint.stop(Stopped("interrupted"))
            with pytest.raises(Stopped):
                await endpoint.answer(Request("m", embed="red"), [0], 0)
            assert "_model" not in endpoint.__dict__, "the model was loaded for nothing"
            await endpoint.close()
            await ledger.close()

        asyncio.run(main())


def network(folder: Path, inputs: dict, student: dict, root: Path, nodes=(), classes="ab"):
    """A network with random weights that differ between rows, in a folder."""
    import torch

    from distillgen.networks.network import Network
    from distillgen.networks.spec import NetworkSpec

    torch.manual_seed(2)
    project = Project(root)
    made = Network(NetworkSpec.of(student, project), inputs, classes, project)
    with torch.no_grad():
        for head in made.heads.values():
            head.weight.mul_(9)
    made.save(folder)
    return made.eval()


BODY = """from distillgen.networks.body import Body

class Twice(Body):
    size: int

    def module(self, sizes, networks):
        import torch
        layer = torch.nn.Linear(sizes.numbers, self.size)
        layer.width = self.size
        return layer
"""


@slow
class TestNetworks:
    def test_a_network_answers_the_class_of_its_reading_and_its_features(self, ask, tmp_path):
        import torch

        student = {
            "mlp": [5],
            "heads": ["one", "two"],
            "read": {"one": 0.3, "two": {"share": 0.7, "temperature": 2}},
        }
        made = network(tmp_path / "n", {"x": (2,)}, student, tmp_path)
        rows = [[1.0, 2.0], [-3.0, 0.5], [0.0, 9.0]]
        with torch.no_grad():
            out = made({"input.x": torch.tensor(rows), "row": torch.arange(3)})
            shares = made.probabilities(out).tolist()
        answers = ask(tmp_path / "n", "classes", *map(json.dumps, rows), logprobs=40)
        for (answer,), (a, b) in zip(answers, shares, strict=True):
            ((token, value, classes),) = answer.logprobs
            assert answer.text == token == ("a" if a > b else "b")
            assert value == pytest.approx(math.log(max(a, b)), abs=1e-5) and len(classes) == 2
        vectors = ask(tmp_path / "n", "classes", *map(json.dumps, rows), embed=True)
        assert [v.embedding for (v,) in vectors] == [
            pytest.approx(f, abs=1e-5) for f in out.features.tolist()
        ]

    def test_a_row_that_lacks_an_input_fails_alone(self, ask, tmp_path):
        network(tmp_path / "n", {"x": (2,), "y": (1,)}, {"mlp": [5]}, tmp_path)
        texts = ['{"x": [1, 2], "y": [3]}', "red", '{"x": [1, 2]}', '{"x": [1, 2, 3], "y": [3]}']
        (right,), *wrong = ask(tmp_path / "n", "classes", *texts)
        assert right.text in ("a", "b")
        reasons = ["is not JSON of x, y", "lacks the input 'y'", "'x' has not the shape"]
        assert [w.status for (w,) in wrong] == ["failed"] * 3
        assert all(reason in w.error for reason, (w,) in zip(reasons, wrong, strict=True))

    def test_an_edited_body_of_the_project_is_another_model(self, ask, tmp_path):
        (tmp_path / "bodies").mkdir()
        (tmp_path / "bodies/twice.py").write_text(f'"""twice: two layers."""\n{BODY}')
        network(tmp_path / "n", {"x": (2,)}, {"twice": 3}, tmp_path)
        ((first,),) = ask(tmp_path / "n", "classes", "[1, 2]")
        ((again,),) = ask(tmp_path / "n", "classes", "[1, 2]")
        with (tmp_path / "bodies/twice.py").open("a") as file:
            file.write("# edited\n")
        ((other,),) = ask(tmp_path / "n", "classes", "[1, 2]")
        assert first.key == again.key != other.key

    def test_a_network_over_a_graph_is_asked_by_the_id_of_a_node(self, ask, tmp_path):
        import torch

        made = network(tmp_path / "n", {"x": (2,)}, {"mlp": [5]}, tmp_path)
        batch = {"input.x": torch.tensor([[1.0, 2.0], [-3.0, 0.5]]), "row": torch.arange(2)}
        made.remember(["one", "two"], batch)
        made.save(tmp_path / "n")
        (one,), (two,), (none,) = ask(tmp_path / "n", "classes", "one", "two", "three", logprobs=2)
        shares = made.probabilities(made({"node": torch.arange(2)})).log().max(-1).values.tolist()
        assert [one.logprobs[0][1], two.logprobs[0][1]] == pytest.approx(shares, abs=1e-5)
        assert none.status == "failed" and "was trained on no node 'three'" in none.error
