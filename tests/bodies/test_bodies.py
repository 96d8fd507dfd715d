"""Each body learns what can be learnt from its inputs, and comes back from its folder to the bit."""

import random
import subprocess
import sys

import pytest

from distillgen.errors import ConfigError
from distillgen.project import Project
from tests.training.lessons import accuracy, prepared, row

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

WORDS = {"a": ["sun", "beach", "sand"], "b": ["snow", "ice", "sledge"], "c": ["leaf", "wind", "rain"]}
LABELS = [("cross_entropy", {})]
NETS = """
from torch import nn

class Wide(nn.Module):
    def __init__(self, width, neurons):
        super().__init__()
        self.width, self.layer = neurons, nn.Linear(width, neurons)

    def forward(self, array):
        return self.layer(array.flatten(1)).relu()

def wide(sizes, neurons=8):
    return Wide(sizes.numbers, neurons)

def nothing(sizes):
    return nn.Linear(3, 3)
"""


def text(i: int, chance: random.Random, *, shuffled: bool = False) -> dict:
    """A text of two words of its class among words that say nothing."""
    name = "abc"[i % 3]
    words = [*chance.choices(WORDS[chance.choice("abc") if shuffled else name], k=2), "the", "of"]
    return {"id": str(i), "input.x": " ".join(chance.sample(words, 4)), "label": [name]}


def texts(count: int = 60, **options) -> list[dict]:
    chance = random.Random(0)
    return [text(i, chance, **options) for i in range(count)]


def saved(loop, tmp_path, name: str = "student"):
    """The loop's student from its folder; what it says equals what the loop's student says, to the bit."""
    from distillgen.networks.network import load

    loop.save_model(str(tmp_path / name))
    network, batch = load(tmp_path / name, Project(tmp_path)), loop.train_dataset.all_rows()
    student = loop.model.networks["student"].eval()
    assert torch.equal(network.probabilities(network(batch)), student.probabilities(student(batch)))
    return network


def trained(rows, tmp_path, student, steps: int = 60, **options):
    options = {"max_steps": steps, "learning_rate": 0.02, **options}
    loop = prepared(rows, LABELS, tmp_path, student=student, **options)
    loop.train()
    return loop


def test_a_bag_learns_words_and_nothing_from_words_of_any_class(tmp_path):
    loop = trained(texts(), tmp_path, {"bag": [8, 8], "buckets": 64, "dropout": 0.1})
    assert accuracy(loop) == 1.0
    network = saved(loop, tmp_path)
    batch = network.batch([network.values(words) for words in ("snow ICE", "ice, snow!", "", "zebra")])
    said = network(batch).classes["class"]
    assert torch.equal(said[0], said[1]), "case and order of the words do not count"
    assert network.classes[said[0].argmax()] == "b" and said.isfinite().all()
    new = texts(120)[60:]
    control = trained(texts(shuffled=True), tmp_path, {"bag": [8, 8], "buckets": 64})
    batch = network.batch([{"x": r["input.x"]} for r in new])
    truth = torch.tensor(["abc".index(r["label"][0]) for r in new])
    student = control.model.networks["student"].eval()
    right = [
        float((one(batch).classes["class"].argmax(-1) == truth).float().mean()) for one in (network, student)
    ]
    assert right[0] == 1.0 and right[1] < 0.7


def test_the_bucket_of_a_word_never_changes():
    """By hand: the CRC-32 of "0 snow" is 1673458597, that of "1 snow" 2833391616."""
    from distillgen.bodies._bag import WordBag

    bag = WordBag(1000, [2], 0.0)
    assert (bag._bucket("0 snow"), bag._bucket("1 snow")) == (597, 616)


def test_a_module_of_the_project_is_a_body(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    rows = [row(i) for i in range(60)]
    student = {"module": "nets.py:wide", "with": {"neurons": 12}}
    loop = trained(rows, tmp_path, student, steps=100)
    assert accuracy(loop) == 1.0 and saved(loop, tmp_path).width == 12


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"module": "nets.py:wid"}, "no function 'wid'; did you mean 'wide'?"),
        ({"module": "net.py:wide"}, "there is no script 'net.py' inside the project"),
        ({"module": "nets.py:wide", "with": {"neuron": 3}}, "unexpected keyword argument 'neuron'"),
        ({"module": "nets.py:nothing"}, "must return a torch module with an attribute `width`"),
        ({"module": "nets.py"}, "function"),
        ({"bag": [8]}, "student body 'bag' reads texts, and 'x' holds numbers"),
        ({"bag": [0]}, "greater than 0"),
    ],
)
def test_a_body_that_cannot_be_built_is_refused(tmp_path, student, message):
    (tmp_path / "nets.py").write_text(NETS)
    with pytest.raises(ConfigError) as error:
        prepared([row(i) for i in range(6)], LABELS, tmp_path, student=student)
    assert message in str(error.value)


def test_numbers_are_not_read_from_texts(tmp_path):
    with pytest.raises(ConfigError, match="'mlp' reads numbers, and 'x' holds texts"):
        prepared(texts(6), LABELS, tmp_path, student={"mlp": [4]})


def communities(count: int = 90, *, shuffled: bool = False) -> list[dict]:
    """Nodes of three classes with noisy points and 6 neighbours, nearly all of their own class."""
    chance, rows = random.Random(1), []
    for i in range(count):
        noise = [chance.gauss(0, 1.5) for _ in range(3)]
        point = [value + (place == i % 3) for place, value in enumerate(noise)]
        same = [j for j in range(count) if j % 3 == i % 3 and j != i]
        near = chance.sample(range(count) if shuffled else same, min(6, len(same)))
        rows.append(
            {
                "id": str(i),
                "input.x": point,
                "label": ["abc"[i % 3]],
                "node": f"n{i}",
                "neighbours": [f"n{j}" for j in near],
            }
        )
    return rows


def half(rows: list[dict]) -> dict:
    """Every third pair of rows has its label; the others are held out."""
    return {
        "train": [r for i, r in enumerate(rows) if i % 9 < 3],
        "held_out": [r for i, r in enumerate(rows) if i % 9 >= 3],
    }


def held_out_accuracy(loop) -> float:
    network, batch = loop.model.networks["student"].eval(), loop.train_dataset.all_rows()
    unlabelled = batch["label"] < 0
    truth = torch.tensor([int(i) % 3 for i in loop.train_dataset.ids])
    right = network(batch).classes["class"].argmax(-1) == truth
    return float(right[unlabelled].float().mean())


GRAPH = {"transductive": True, "per_device_train_batch_size": "all"}


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_a_graph_student_learns_from_edges_and_not_from_strangers(tmp_path, kind):
    student = {"graph": kind, "sizes": [16, 16], "dropout": 0.2}
    loop = trained(half(communities()), tmp_path, student, steps=50, **GRAPH)
    strangers = trained(half(communities(shuffled=True)), tmp_path, student, steps=50, **GRAPH)
    assert held_out_accuracy(loop) > 0.9 and held_out_accuracy(strangers) < 0.75


def test_a_convolution_is_the_normalised_sum_by_hand():
    """A path 0 - 1 - 2: degrees with loops 2, 3, 2."""
    from distillgen.bodies._graph import Gcn, Sage

    edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    x, one = torch.tensor([[1.0], [2.0], [4.0]]), torch.nn.Parameter(torch.ones(1, 1))
    gcn = Gcn(1, 1)
    gcn.linear.weight, gcn.linear.bias = one, torch.nn.Parameter(torch.tensor([0.5]))
    root = 6**0.5
    expected = [1 / 2 + 2 / root + 0.5, 1 / root + 2 / 3 + 4 / root + 0.5, 2 / root + 4 / 2 + 0.5]
    assert torch.allclose(gcn(x, edges).flatten(), torch.tensor(expected), atol=1e-6)
    sage = Sage(1, 1)
    sage.linear.weight = torch.nn.Parameter(torch.tensor([[1.0, 10.0]]))
    sage.linear.bias = torch.nn.Parameter(torch.zeros(1))
    assert sage(x, edges).flatten().tolist() == [21.0, 27.0, 24.0]
    alone = sage(x, torch.empty(2, 0, dtype=torch.long))
    assert alone.flatten().tolist() == [1.0, 2.0, 4.0]


def test_a_graph_student_is_asked_by_the_id_of_any_node(tmp_path):
    """Also about nodes that it did not learn from; what it says of each, it says of the whole graph."""
    student, rows = {"graph": "gcn", "sizes": [16, 16]}, half(communities())
    loop = trained(rows, tmp_path, student, steps=50, per_device_train_batch_size="all")
    network = saved_graph(loop, tmp_path)
    everyone = [r for part in rows.values() for r in part]
    batch = network.batch([network.values(f" {r['node']}\n") for r in everyone])
    said = network.probabilities(network(batch)).argmax(-1)
    truth = torch.tensor(["abc".index(r["label"][0]) for r in everyone])
    assert float((said == truth).float().mean()) > 0.9
    for text in ("n99", "[1, 2, 3]", ""):
        with pytest.raises(ValueError, match="no node"):
            network.values(text)


def saved_graph(loop, tmp_path):
    from distillgen.networks.network import load

    loop.save_model(str(tmp_path / "student"))
    network, student = load(tmp_path / "student", Project(tmp_path)), loop.model.networks["student"]
    assert all(torch.equal(said, student.table.classes[name]) for name, said in network.table.classes.items())
    assert torch.equal(network.table.features, student.table.features)
    assert list(network.nodes) == list(student.nodes)
    return network


def test_a_reading_of_a_graph_is_chosen_on_validation_nodes(tmp_path):
    rows = half(communities())
    rows = {**rows, "validation": rows["held_out"][:20], "held_out": rows["held_out"][20:]}
    heads = {"heads": ["gold", "idle"], "read": {"gold": [0.0, 1.0], "idle": 0.5}}
    loop = prepared(
        rows,
        [("cross_entropy", {"head": "gold"})],
        tmp_path,
        student={"graph": "gcn", **heads},
        max_steps=50,
        **GRAPH,
    )
    loop.train()
    assert saved_graph(loop, tmp_path).read["gold"].share == 1.0
    assert len(loop.train_dataset) == 90 and int((loop.train_dataset.columns["label"] >= 0).sum()) == 30


def test_a_smaller_batch_is_the_induced_subgraph(tmp_path):
    rows = communities(9)
    links = {0: [1, 2], 3: [0], 4: [8], 5: [5]}
    rows = [{**r, "neighbours": [f"n{j}" for j in links.get(i, [])]} for i, r in enumerate(rows)]
    loop = prepared(rows, LABELS, tmp_path, student={"graph": "gcn"})
    pairs = loop.train_dataset.__getitems__([3, 0, 5, 1])["edges"].T.tolist()
    assert sorted(map(tuple, pairs)) == [(0, 1), (1, 0), (1, 3), (3, 1)], "3-0 and 0-1; 2 is not in the batch"
    assert loop.train_dataset.__getitems__([5, 8])["edges"].shape == (2, 0), "no node is its own neighbour"
    assert len(loop.train_dataset.all_rows()["edges"].T) == 8


def test_what_is_no_node_is_left_out_and_counted(tmp_path):
    from tests.training.lessons import prepared_rows

    rows = communities(12)
    rows = [*rows, {**rows[3], "id": "again"}, {**rows[4], "id": "alone", "node": "z", "neighbours": None}]
    rows[0]["neighbours"] = ["n1", "elsewhere", "n99"]
    held_out = [{**rows[5], "id": "twice"}]
    result = prepared_rows({"train": rows, "held_out": held_out}, LABELS, tmp_path, student={"graph": "gcn"})
    assert result.counts == {
        "left out: another row is the same node": 2,
        "left out: it has no list of neighbours": 1,
        "ends of edges that are no row of the training": 2,
    }
    assert result.trainer.eval_dataset is None


def encoder(folder):
    from tests.tiny_models import bert

    return bert(folder, [" ".join(sum(WORDS.values(), [])) + " the of"])


def test_an_encoder_starts_from_its_folder_learns_in_all_layers_and_needs_the_folder_no_more(tmp_path):
    from transformers import AutoModel

    from distillgen.networks.network import load

    origin = encoder(tmp_path / "origin")
    first = AutoModel.from_pretrained(origin).state_dict()
    options = {"student": {"encoder": "origin"}, "max_steps": 60, "learning_rate": 0.005}
    loop = prepared(texts(), LABELS, tmp_path, **options)
    body = loop.model.networks["student"].body
    assert all(torch.equal(value, first[name]) for name, value in body.model.state_dict().items())
    loop.train()
    moved = {name for name, value in body.model.state_dict().items() if not torch.equal(value, first[name])}
    assert {"embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.weight"} <= moved
    for file in origin.iterdir():
        file.unlink()
    network = saved(loop, tmp_path)
    assert load(tmp_path / "student", Project(tmp_path / "elsewhere")).width == network.width == 64

    control = trained(texts(shuffled=True), tmp_path, {"bag": [8, 8], "buckets": 64})
    new = texts(120)[60:]
    batch = network.batch([{"x": r["input.x"]} for r in new])
    truth = torch.tensor(["abc".index(r["label"][0]) for r in new])
    student = control.model.networks["student"].eval()
    right = [
        float((one(batch).classes["class"].argmax(-1) == truth).float().mean()) for one in (network, student)
    ]
    assert right[0] > 0.95 and right[1] < 0.7


def test_the_features_of_a_text_are_those_of_its_tokens(tmp_path):
    """Neither the padding of a batch nor what stands after `max_length` tokens counts; a line is an input."""
    from distillgen.bodies._encoder import TextEncoder

    body = TextEncoder.pretrained(str(encoder(tmp_path / "origin")), None, 5).eval()
    alone = body([["snow the ice"]])
    states = body.model(**body.tokenizer("snow the ice", return_tensors="pt")).last_hidden_state
    assert torch.allclose(alone[0], states[0].mean(0), atol=1e-5)
    together = body([["snow the ice"], ["leaf"], ["snow the ice wind rain"], ["snow\nthe", "ice"]])
    for place in (0, 2, 3):
        assert torch.allclose(together[place], alone[0], atol=1e-5)
    assert torch.allclose(together[1], body([["leaf"]])[0], atol=1e-5)
    assert not torch.allclose(together[1], alone[0], atol=1e-2)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"encoder": "./nowhere"}, "there is no folder './nowhere'; a name on the Hub is like owner/name"),
        ({"encoder": "nowhere"}, "there is no folder 'nowhere'"),
        ({"encoder": "empty"}, "'empty' holds no model: it has no config.json"),
        ({"encoder": "torn"}, "'torn' holds no model: its config.json is no JSON"),
        ({"encoder": "t5"}, "'t5' is an encoder with a decoder; take an encoder, such as BERT"),
        ({"encoder": "bare"}, "'bare' cannot be loaded"),
    ],
)
def test_an_encoder_that_cannot_be_loaded_is_refused(tmp_path, student, message):
    files = {"torn": "{", "t5": '{"is_encoder_decoder": true}', "bare": '{"model_type": "bert"}', "empty": ""}
    for name, content in files.items():
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / "config.json").write_text(content)
    with pytest.raises(ConfigError) as error:
        prepared(texts(6), LABELS, tmp_path, student=student)
    assert message in str(error.value)


def picture(i: int, *, flat: bool = False, shuffled: bool = False) -> dict:
    """4 by 4 noisy pixels with a bright row, column or diagonal; its kind is the class, unless shuffled."""
    chance = random.Random(i)
    kind = chance.randrange(3) if shuffled else i % 3
    place = chance.randrange(4)
    bright = [
        [(y == place, x == place, x == y)[kind] + chance.gauss(0, 0.1) for x in range(4)] for y in range(4)
    ]
    return {"id": str(i), "input.x": sum(bright, []) if flat else bright, "label": ["abc"[i % 3]]}


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIT = {"model_type": "vit", "patch_size": 2, **SMALL}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}


def test_a_vit_and_a_resnet_see_what_is_bright_and_nothing_in_pictures_of_any_class(tmp_path):
    new = [picture(i) for i in range(90, 390)]

    def right(config: dict, steps: int, *, shuffled: bool = False) -> float:
        rows = [picture(i, shuffled=shuffled) for i in range(90)]
        student, options = {"transformers": config}, {"per_device_train_batch_size": 90}
        loop = trained(rows, tmp_path, student, steps, learning_rate=0.01, **options)
        network = saved(loop, tmp_path)
        said = network(network.batch([{"x": one["input.x"]} for one in new])).classes["class"].argmax(-1)
        return float((said == torch.tensor([i % 3 for i in range(90, 390)])).float().mean())

    assert right(VIT, 250) > 0.9
    assert right(RESNET, 40) > 0.9
    assert right(RESNET, 40, shuffled=True) < 0.7


def test_a_flat_picture_is_the_one_with_rows(tmp_path):
    """The last batch holds one row: a ResNet normalises it by its running statistics."""

    def bits(flat: bool, config: dict) -> list:
        student = {"transformers": config, **({"shape": [4, 4]} if flat else {})}
        rows = [picture(i, flat=flat) for i in range(9)]
        loop = trained(rows, tmp_path, student, steps=4, per_device_train_batch_size=8)
        return [value.tolist() for value in loop.model.state_dict().values() if value.dim()]

    for config in (VIT, RESNET):
        assert bits(True, config) == bits(False, config)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"transformers": {"model_type": "vitt"}}, "no model_type 'vitt' sees pictures; did you mean 'vit'?"),
        ({"transformers": {}}, "no model_type 'None' sees pictures; known: beit,"),
        ({"transformers": {"model_type": "bert"}}, "no model_type 'bert' sees pictures"),
        (
            {"transformers": {**VIT, "patchsize": 2}},
            "vit has no option 'patchsize'; did you mean 'patch_size'",
        ),
        ({"transformers": {**VIT, "hidden_size": "wide"}}, "'hidden_size' of vit is int, and not 'wide'"),
        ({"transformers": {**VIT, "qkv_bias": 1}}, "'qkv_bias' of vit is bool, and not 1"),
        ({"transformers": {**VIT, "layer_norm_eps": 1}}, "'layer_norm_eps' of vit is float, and not 1"),
        ({"transformers": {**VIT, "patch_size": 8}}, "its options make no model"),
        ({"transformers": {**VIT, "patch_size": 0}}, "its options make no model"),
        ({"transformers": VIT, "shape": [3, 4]}, "16 numbers are no picture of [3, 4]"),
        ({"transformers": VIT, "shape": [16]}, "shape"),
    ],
)
def test_a_picture_model_that_cannot_be_built_is_refused(tmp_path, student, message):
    with pytest.raises(ConfigError) as error:
        prepared([picture(0), picture(1)], LABELS, tmp_path, student=student)
    assert message in str(error.value)


def test_a_list_is_no_picture_without_its_shape(tmp_path):
    with pytest.raises(ConfigError, match="give the shape of a list"):
        prepared([picture(0, flat=True)], LABELS, tmp_path, student={"transformers": VIT})


def test_whole_numbers_null_and_lists_are_values_of_options(tmp_path):
    from distillgen.networks.spec import NetworkSpec

    values = {"hidden_dropout_prob": 0, "pooler_output_size": None, "patch_size": [2, 1], "qkv_bias": False}
    NetworkSpec.of({"transformers": {**VIT, **values}}, Project(tmp_path))
    NetworkSpec.of({"transformers": {**RESNET, "layer_type": "basic"}}, Project(tmp_path))


def test_channels_may_come_first_or_last():
    from distillgen.bodies._transformers import PictureModel

    array = torch.arange(2 * 6 * 5 * 3.0).reshape(2, 6, 5, 3)
    last, first = PictureModel(RESNET, [6, 5, 3]), PictureModel(RESNET, [3, 6, 5])
    assert torch.equal(last._first(array), first._first(array.permute(0, 3, 1, 2)))
    assert last.model.config.num_channels == first.model.config.num_channels == 3
    assert PictureModel(VIT, [6, 4]).model.config.image_size == [6, 4]
    assert PictureModel(RESNET, [3, 4, 4]).last is False, "3 channels first, though 4 comes last"


def test_the_last_states_of_all_patches_are_tokens():
    from distillgen.bodies._transformers import PictureModel

    pictures = torch.arange(512.0).reshape(2, 256)
    resnet, vit = PictureModel(RESNET, [16, 16]).eval(), PictureModel(VIT, [16, 16]).eval()
    features, tokens = resnet(pictures)
    assert tokens.shape == (2, tokens.shape[1], resnet.token_width) == (2, 4, 16)
    assert torch.allclose(tokens.mean(1), features, atol=1e-6), "a ResNet pools its patches by their mean"
    assert vit(pictures)[1].shape == (2, 65, vit.token_width), "8 by 8 patches and the class token"


def test_features_without_a_pooler_are_the_mean_of_all_patches():
    from distillgen.bodies._transformers import PictureModel

    model = PictureModel({**VIT, "model_type": "ijepa"}, [6, 6]).eval()
    pictures = torch.arange(72.0).reshape(2, 36)
    states = model.model(pixel_values=pictures.reshape(2, 1, 6, 6)).last_hidden_state
    assert states.shape[1] > 1 and torch.allclose(model(pictures)[0], states.mean(1))


def test_a_check_of_a_picture_model_imports_no_torch():
    code = """if True:
        import sys
        from pathlib import Path
        from distillgen.networks.spec import NetworkSpec
        from distillgen.project import Project
        NetworkSpec.of({"transformers": {"model_type": "vit", "hidden_size": 8}}, Project(Path()))
        sys.exit("torch" in sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)
