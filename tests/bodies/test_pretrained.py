"""Models of the Hub for pictures and sounds: folders that are none, and trainings of real, small ones."""

import json
import math
import struct
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from distillgen.errors import ConfigError
from distillgen.networks.body import FILE, Sizes
from distillgen.project import Project
from distillgen.rows.arrays import reference
from tests.media_files import png_of

pytest.importorskip("transformers")
from distillgen.bodies.pretrained import Pretrained  # noqa: E402


def folder(root, **files):
    (root / "model").mkdir()
    for name, content in files.items():
        (root / "model" / f"{name}.json").write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "there is no folder './model'; a name on the Hub is like owner/name"),
        ({}, "'./model' holds no model: it has no config.json"),
        ({"config": "{}"}, "holds no processor of pictures or sounds: it has no preprocessor_config.json"),
        ({"config": "[]", "preprocessor_config": "{}"}, "has a config.json that is no JSON object"),
        ({"config": "{", "preprocessor_config": "{}"}, "has a config.json that is no JSON object"),
        (
            {"config": '{"model_type": "bert"}', "preprocessor_config": "{}"},
            "is a bert, and classifies no pictures or sounds; texts are read by {encoder: …}",
        ),
    ],
)
def test_a_folder_that_holds_no_such_model_is_refused(tmp_path, files, message):
    pytest.importorskip("PIL")
    if files is not None:
        folder(tmp_path, **files)
    with pytest.raises(ConfigError) as error:
        Pretrained(model="./model").check(Project(tmp_path))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "family", ["vit", "resnet", "convnext", "wav2vec2", "hubert", "audio-spectrogram-transformer"]
)
def test_families_that_see_or_hear_pass_the_check(tmp_path, family):
    pytest.importorskip("PIL")
    folder(tmp_path, config=json.dumps({"model_type": family}), preprocessor_config="{}")
    Pretrained(model="model").check(Project(tmp_path))
    Pretrained(model="owner/name").check(Project(tmp_path))
    assert Pretrained(model="model").origins(Project(tmp_path)) == {"model": tmp_path / "model"}


OF_TIMM = json.dumps({"architecture": "resnet10t", "pretrained_cfg": {"input_size": [3, 32, 32]}})


@pytest.mark.parametrize("model", ["./model", "timm/resnet10t.c3_in1k"])
def test_a_model_of_timm_needs_timm_and_no_processor(tmp_path, monkeypatch, model):
    pytest.importorskip("PIL")
    folder(tmp_path, config=OF_TIMM)
    monkeypatch.setitem(sys.modules, "torchvision", module("torchvision"))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ConfigError, match=r"needs the extra 'timm' \(timm\): pip install 'distillgen\[timm\]'"
    ):
        Pretrained(model=model).check(Project(tmp_path))
    monkeypatch.setitem(sys.modules, "timm", module("timm"))
    Pretrained(model=model).check(Project(tmp_path))


def test_a_package_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    class Broken:
        @staticmethod
        def pretrained(*args, **options):
            raise RuntimeError("operator torchvision::nms does not exist")

    stand_in = module("distillgen.bodies._pretrained")
    stand_in.MediaModel = Broken
    monkeypatch.setitem(sys.modules, "distillgen.bodies._pretrained", stand_in)
    with pytest.raises(ConfigError, match="'a/b' cannot be loaded: operator torchvision::nms does not exist"):
        Pretrained(model="a/b").module(Sizes([FILE], ["a"], Project(tmp_path)), {})


def module(name: str) -> ModuleType:
    """A module as it is found where it is installed."""
    found = ModuleType(name)
    found.__spec__ = ModuleSpec(name, None)
    return found


# real models, with random weights, in the form of the Hub

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
HEARS = {
    **SMALL,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 8),
    "conv_stride": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
}
LAYERS = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
MODELS = {
    "vit": ("ViT", "ViTForImageClassification", {"image_size": 32, "patch_size": 8, **SMALL}),
    "resnet": ("ResNet", "ResNetForImageClassification", LAYERS),
    "convnext": (
        "ConvNext",
        "ConvNextForImageClassification",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    ),
    "wav2vec2": ("Wav2Vec2", "Wav2Vec2ForSequenceClassification", HEARS),
    "hubert": ("Hubert", "HubertForSequenceClassification", HEARS),
    "ast": ("AST", "ASTForAudioClassification", {"max_length": 64, "num_mel_bins": 16, **SMALL}),
}
SEE = ("vit", "resnet", "convnext", "timm")


METRICS = {"gold": "label", "metrics": ["exact"]}


def save_model(name: str, root) -> None:
    """Write a model with random weights, and its processor, as save_pretrained does."""
    import torch
    import transformers

    torch.manual_seed(0)
    if name == "timm":
        return save_timm(root / name)
    family, model, options = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**options)
    getattr(transformers, model)(config).save_pretrained(root / name)
    if name == "vit":
        processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    elif name in SEE:
        processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 32})
    elif name == "ast":
        processor = transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=16)
    else:
        processor = transformers.Wav2Vec2FeatureExtractor()
    processor.save_pretrained(root / name)


def save_timm(folder) -> None:
    """Write a model of timm as its repositories on the Hub have it: no processor, and no model_type."""
    try:
        from timm import create_model
        from timm.models import save_for_hf
    except (ImportError, RuntimeError) as error:  # torchvision beside another build of torch
        pytest.skip(f"timm cannot be imported: {error}")
    options = {"num_classes": 3, "stem_width": 8, "layers": (1, 1, 1, 1), "channels": (8, 8, 8, 16)}
    save_for_hf(create_model("resnet10t", **options), folder, safe_serialization=True)


def tone(hertz: float, samples: int = 1600) -> bytes:
    import io
    import wave

    numbers = [int(20000 * math.sin(2 * math.pi * hertz * i / 16000)) for i in range(samples)]
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(struct.pack(f"<{samples}h", *numbers))
    return stream.getvalue()


def coloured(i: int) -> bytes:
    """A picture of 32 by 32 pixels, mostly red or mostly blue."""
    pixel = [bytes([220 - i, 10, 30]), bytes([30, 10, 220 - i])][i % 2]
    return png_of(32, 32, (b"\0" + pixel * 32) * 32)


def write(root, name: str, data: bytes) -> dict:
    (root / name).write_bytes(data)
    return reference(root / name, root)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_student_of_the_hub_learns_from_files_and_is_asked_about_them(project, monkeypatch):
    """A ViT and a wav2vec2 learn one thing of 24 files; asked about another row's file, they say that."""
    for package in ("torch", "accelerate", "datasets", "PIL"):
        pytest.importorskip(package)
    import distillgen
    from tests.recipes.harness import train_here

    train_here(monkeypatch)
    root = project.path
    files = {
        "vit": lambda i: write(root, f"{i}.png", coloured(i)),
        "wav2vec2": lambda i: write(
            root, f"{i}.wav", tone((300, 2500)[i % 2] + 9 * (i * 5 % 36), 1600 + 80 * (i % 3))
        ),
    }
    for name, file in files.items():
        save_model(name, root)
        rows = [
            {"n": i, "file": file(i), "label": "ab"[i % 2], "split": "test" if i >= 24 else "train"}
            for i in range(36)
        ]
        rows[0]["file"] = {**rows[0]["file"], "path": "gone"}
        rows[1]["file"] = write(root, "torn.png", coloured(1)[:50])
        for row, after in zip(rows, [*rows[1:], rows[0]], strict=True):
            row["other"] = after["file"]
        rows[35]["file"] = rows[0]["file"]
        project.rows("rows.jsonl", rows)
        train = {
            "objective": "distil",
            "student": {"pretrained": name},
            "inputs": ["file"],
            "label": "label",
            "losses": ["cross_entropy"],
            "max_steps": 60,
            "batch_size": 12,
            "learning_rate": 0.01,
        }
        asked = [
            {
                "evaluate": {
                    "name": field,
                    "models": ["student"],
                    "template": f"{{{{ {field} | json }}}}",
                    **METRICS,
                }
            }
            for field in ("file", "other")
        ]
        stages = [{"source": {"path": "rows.jsonl", "item": ["n"]}}, {"train": train}, *asked]
        run = distillgen.run({"version": 1, "stages": stages}, out=f"out-{name}")
        right = {
            field: json.loads((run.directory / f"evaluation-{field}.json").read_bytes())["models"]["student"]
            for field in ("file", "other")
        }
        assert right["file"]["metrics"]["exact"]["mean"] == pytest.approx(11 / 12), (
            name,
            "one file is not there",
        )
        assert right["other"]["metrics"]["exact"]["mean"] < 0.1, "the next row is of the other class"
        counts = json.loads((run.directory / "student/manifest.json").read_bytes())["data"]["rows"]
        reasons = [reason for reason in counts if reason.startswith("left out")]
        assert len(reasons) == 2 and counts["left out: there is no file 'gone'"] >= 1
        log = (run.directory / "run.log").read_text()
        assert "there is no file 'gone'" in log


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*MODELS, "timm"])
def test_each_family_gives_features_and_comes_back_to_the_bit(tmp_path, name):
    for package in ("torch", "datasets", "PIL"):
        pytest.importorskip(package)
    import torch

    from distillgen.networks.network import INPUT, Network, load
    from distillgen.networks.spec import NetworkSpec

    save_model(name, tmp_path)
    project = Project(tmp_path)
    torch.manual_seed(1)
    network = Network(NetworkSpec.of({"pretrained": name}, project), {"x": FILE}, ["a", "b", "c"], project)
    short = tone(300, 700), tone(2500, 750)  # masks that a training draws over a sound find no place in these
    data = [coloured(0), coloured(1)] if name in SEE else [*short]
    places = [write(tmp_path, f"{i}", one) for i, one in enumerate(data)]
    batch = {INPUT + "x": places, "row": torch.arange(2)}
    network.train()(batch).classes["class"].sum().backward()
    without = {n for n, value in network.named_parameters() if value.grad is None}
    assert len(without) < 3, f"almost all weights learn, but {without}"
    out = network.eval()(batch)
    assert out.features.shape == (2, network.width) and out.classes["class"].shape == (2, 3)
    assert not torch.allclose(out.features[0], out.features[1])
    one = network({INPUT + "x": places[1:], "row": torch.arange(1)})
    assert torch.allclose(one.features[0], out.features[1], atol=1e-6), "alone, a row says the same"
    network.save(tmp_path / "student")
    (tmp_path / name).rename(tmp_path / "moved")
    again = load(tmp_path / "student", project)
    read = again.batch([again.values(json.dumps(place)) for place in places])
    assert torch.equal(again(read).classes["class"], out.classes["class"])
    for wrong in ("[1, 2]", '{"path": "0"}', json.dumps({**places[0], "path": "7"})):
        with pytest.raises(ValueError, match=r"no reference to a file|there is no file"):
            again.values(wrong)


def test_a_student_reads_one_file():
    with pytest.raises(ConfigError, match="reads one input, and the student has 2 that are files"):
        Pretrained(model="a/b").module(Sizes([FILE, FILE], ["a"]), {})
