"""Files in a batch: their numbers mix as the pictures do, and transformers give what they say of patches."""

import itertools
import json
import random

import pytest

from distillgen.project import Project
from distillgen.rows.arrays import reference
from tests.bodies.test_pretrained import SMALL, save_model
from tests.media_files import png_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("datasets")
pytest.importorskip("PIL")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def network(root, name: str):
    """A network of a folder in the Hub's form, over the input x."""
    from distillgen.networks.body import FILE
    from distillgen.networks.network import Network
    from distillgen.networks.spec import NetworkSpec

    torch.manual_seed(1)
    project = Project(root)
    return Network(
        NetworkSpec.of({"pretrained": name}, project), {"x": FILE}, ["a", "b", "c"], project
    ).eval()


def pictures(root, count: int = 6, width: int = 32, first: int = 0) -> list[dict]:
    """Noise, each of another brightness and contrast in its three colours."""
    places = []
    for i in range(first, first + count):
        noise, low = random.Random(i), [(i * step) % 97 for step in (31, 53, 71)]
        pixels = (bytes(c + noise.randrange(40 + 15 * i) for c in low) for _ in range(width * width))
        lines = b"".join(b"\0" + b"".join(itertools.islice(pixels, width)) for _ in range(width))
        (root / f"{i}.png").write_bytes(png_of(width, width, lines))
        places.append(reference(root / f"{i}.png", root))
    return places


def save_vit(root, name: str, size: int, patch: int) -> None:
    """A ViT that sees much in a picture, whose processor brings pictures to a size."""
    config = transformers.ViTConfig(image_size=size, patch_size=patch, initializer_range=0.3, **SMALL)
    torch.manual_seed(size)
    transformers.ViTForImageClassification(config).save_pretrained(root / name)
    transformers.ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(root / name)


def batch(files: list) -> dict:
    rows = torch.arange(len(files))
    return {"input.x": files, "row": rows, "label": rows % 3}


def by_hand(root, files: list, size: int) -> torch.Tensor:
    """The pictures [rows, 3, size, size] as a ViT's processor scales them: from -1 to 1."""
    import numpy
    from PIL import Image

    opened = [Image.open(root / file["path"]).convert("RGB").resize((size, size), 2) for file in files]
    return torch.stack([torch.tensor(numpy.array(one)).permute(2, 0, 1) for one in opened]) / 127.5 - 1


def read(values: torch.Tensor) -> list[dict]:
    return [{"pixel_values": row[None]} for row in values]


def gradient(net, rows: dict) -> tuple[float, torch.Tensor]:
    """The loss of a batch with both labels, and its gradient by all weights."""
    from distillgen.training.mixup import LABEL, SHARE

    net.zero_grad()
    logits = net(rows).classes["class"].log_softmax(-1)
    share = rows[SHARE]
    own, other = (logits.gather(1, rows[name][:, None])[:, 0] for name in ("label", LABEL))
    loss = -(share * own + (1 - share) * other).mean()
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def test_files_mix_as_arrays_do_also_where_networks_read_them_in_other_sizes(tmp_path):
    from distillgen.training.mixup import LABEL, SHARE, Mixup

    save_vit(tmp_path, "vit", 32, 8)
    save_vit(tmp_path, "small", 16, 4)
    files = pictures(tmp_path)
    mixed = Mixup().mixed(batch(files), 1)
    share = mixed[SHARE].view(-1, 1, 1, 1)
    partner = Mixup().mixed({**batch(files), "label": torch.arange(6)}, 1)[LABEL]
    for name, size in (("vit", 32), ("small", 16)):
        net = network(tmp_path, name)
        values = by_hand(tmp_path, files, size)
        loss, slope = gradient(net, mixed)
        for other, equal in ((values[partner], True), (values.flip(0), False), (values, False)):
            hand = {**mixed, "input.x": read(share * values + (1 - share) * other)}
            loss_by_hand, slope_by_hand = gradient(net, hand)
            assert (loss == pytest.approx(loss_by_hand, abs=1e-5)) is equal, name
            assert torch.allclose(slope, slope_by_hand, atol=1e-5) is equal, name


def test_changes_follow_each_other_and_masks_stay(tmp_path):
    from distillgen.networks.network import changed

    class Body(torch.nn.Module):
        def read(self, file):
            return {"x": torch.tensor([[float(file["sha256"])]]), "mask": torch.tensor([[1]])}

    save_model("resnet", tmp_path)
    net = network(tmp_path, "resnet")
    net.body = Body()
    files = [{"path": "a", "sha256": "1"}, {"path": "a", "sha256": "2"}]
    twice = changed(changed(files, lambda x: x + 1), lambda x: 10 * x)
    assert [float(row["x"]) for row in net._numbers(twice)] == [20, 30]
    assert [row["mask"].tolist() for row in net._numbers(twice)] == [[[1]], [[1]]]
    assert changed(torch.ones(2), lambda x: x + 1).tolist() == [2, 2]


def test_another_distribution_of_files_is_that_of_their_numbers(tmp_path):
    from distillgen.losses.contrast import Contrast
    from distillgen.training.step import Step
    from tests.training.lessons import prepared

    save_model("resnet", tmp_path)
    files = pictures(tmp_path)
    rows = [{"id": str(i), "input.x": file, "label": ["ab"[i % 2]]} for i, file in enumerate(files)]
    losses = [("cross_entropy", {}), ("contrast", {"beta": 1.0})]
    loop = prepared(rows, losses, tmp_path, student={"pretrained": "resnet"}, root=tmp_path, max_steps=2)
    loop.model.when = (0.0, 0, 1)
    step = Step(loop.model, loop.train_dataset.all_rows())
    net = loop.model.networks["student"].eval()
    other = Contrast(beta=1.0)._changed(step)["input.x"]
    before, after = (torch.cat([row["pixel_values"] for row in net._numbers(x)]) for x in (files, other))
    means, changed_means = before.mean((2, 3)), after.mean((2, 3))
    assert not torch.allclose(means, changed_means, atol=1e-3)
    plain = (before - means[..., None, None]) / before.std((2, 3), keepdim=True)
    again = (after - changed_means[..., None, None]) / after.std((2, 3), keepdim=True)
    assert torch.allclose(plain, again, atol=1e-3), "what a picture shows stays"
    low, high = means.min(0).values - 1e-4, means.max(0).values + 1e-4
    assert ((low <= changed_means) & (changed_means <= high)).all(), "between its own and another's"
    loop.train()


def test_a_picture_of_another_size_is_left_out_where_pictures_mix(tmp_path):
    from distillgen.training.mixup import Mixup
    from tests.training.lessons import prepared_rows

    save_model("resnet", tmp_path)
    processor = tmp_path / "resnet" / "preprocessor_config.json"
    options = json.loads(processor.read_text())
    processor.write_text(json.dumps({**options, "do_resize": False}))
    files = [*pictures(tmp_path), *pictures(tmp_path, 1, width=40, first=6)]
    rows = [{"id": str(i), "input.x": file, "label": ["ab"[i % 2]]} for i, file in enumerate(files)]
    options = {"student": {"pretrained": "resnet"}, "root": tmp_path, "max_steps": 2}
    plain, mixes, changes = (
        prepared_rows(rows, losses, tmp_path, mixup=mixup, **options)
        for losses, mixup in (
            ([("cross_entropy", {})], None),
            ([("cross_entropy", {})], Mixup()),
            ([("contrast", {})], None),
        )
    )
    assert plain.counts == {} and mixes.counts == changes.counts == LEFT_OUT
    assert plain.trainer.model.at_once == 32, "few files are read at once"
    for training in (plain, mixes):
        training.trainer.train()


LEFT_OUT = {"left out: its 'x' has another size than that of the first row": 1}


def test_where_pictures_of_several_sizes_are_asked_together_nobody_compares_their_tokens(tmp_path):
    from tests.training.lessons import prepared_rows

    config = transformers.Dinov2Config(image_size=32, patch_size=8, **SMALL)
    transformers.Dinov2ForImageClassification(config).save_pretrained(tmp_path / "dino")
    transformers.ViTImageProcessor(do_resize=False).save_pretrained(tmp_path / "dino")
    files = [*pictures(tmp_path, 3), *pictures(tmp_path, 1, width=40, first=6)]
    net = network(tmp_path, "dino")
    out = net(batch(files))
    assert out.features.shape == (4, 32) and out.tokens is None and out.projections is None
    assert net(batch(files[:3])).tokens.shape == (3, 16, 16) and net(batch(files[3:])).tokens.shape == (
        1,
        25,
        16,
    )
    rows = [{"id": str(i), "input.x": file, "label": ["ab"[i % 2]]} for i, file in enumerate(files)]
    training = prepared_rows(
        rows,
        [("token_relations", {"teacher": "peer"})],
        tmp_path,
        student={"pretrained": "dino"},
        root=tmp_path,
        teachers={"peer": {"peer": {"pretrained": "dino"}, "inputs": ["x"]}},
        max_steps=2,
    )
    assert training.counts == LEFT_OUT
    training.trainer.train()


FAMILIES = {
    "Beit": ("BeitForImageClassification", {}),
    "Data2VecVision": ("Data2VecVisionForImageClassification", {}),
    "DeiT": ("DeiTForImageClassification", {}),
    "Dinov2": ("Dinov2ForImageClassification", {}),
    "Dinov2WithRegisters": ("Dinov2WithRegistersForImageClassification", {"num_register_tokens": 3}),
    "IJepa": ("IJepaForImageClassification", {}),
    "ViT": ("ViTForImageClassification", {}),
    "ViTMSN": ("ViTMSNForImageClassification", {}),
}


def test_each_family_that_attends_to_patches_gives_tokens_and_projections(tmp_path):
    """As many as it has patches: a change of one patch changes most the token at its place."""
    from distillgen.bodies._families import attending

    made = set()
    places = pictures(tmp_path, 2)
    for family, (model, options) in FAMILIES.items():
        config = getattr(transformers, f"{family}Config")(image_size=32, patch_size=8, **SMALL, **options)
        made.add(config.model_type)
        torch.manual_seed(0)
        getattr(transformers, model)(config).save_pretrained(tmp_path / family)
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / family)
        net = network(tmp_path, family)
        body = net.spec.module_of(Project(tmp_path))
        assert body.tokens(Project(tmp_path)) == 16 and body.projections(Project(tmp_path)) == [16]
        out = net(batch(places))
        assert out.tokens.shape == (2, 16, net.token_width) and out.projections.shape == (2, 3, 16, 16)
        (out.tokens.sum() + out.projections.sum()).backward()
        values = by_hand(tmp_path, places, 32)
        values[:, :, 8:16, 16:24] += 1.0  # the patch in the second row and the third column
        moved = net({**batch(places), "input.x": read(values)})
        for before, after in (
            (out.tokens, moved.tokens),
            *zip(out.projections[:, :2].unbind(1), moved.projections[:, :2].unbind(1), strict=True),
        ):
            assert ((before - after).square().sum(-1).argmax(-1) == 4 + 2).all(), family
    assert made == attending(), "a family that attends and is not tried here"
    for family in ("resnet", "wav2vec2"):
        save_model(family, tmp_path)
        assert network(tmp_path, family).token_width == 0


def test_tokens_and_attention_are_those_of_the_model(tmp_path):
    save_vit(tmp_path, "vit", 32, 8)
    files = pictures(tmp_path, 2)
    net = network(tmp_path, "vit")
    vit = transformers.ViTForImageClassification.from_pretrained(tmp_path / "vit").eval()
    with torch.no_grad():
        out, whole = net(batch(files)), vit.vit(by_hand(tmp_path, files, 32), output_hidden_states=True)
    assert torch.allclose(out.tokens, whole.last_hidden_state[:, 1:], atol=1e-5), "without that of the class"
    assert torch.allclose(out.features, whole.last_hidden_state[:, 0], atol=1e-5)


def test_relations_are_nothing_between_equals_and_learnt_between_others(tmp_path):
    """The losses of a student against its own weights, and against others; a training lowers the second."""
    from tests.training.lessons import prepared

    save_vit(tmp_path, "vit", 32, 8)
    save_vit(tmp_path, "small", 16, 4)
    rows = [{"id": str(i), "input.x": x, "label": ["ab"[i % 2]]} for i, x in enumerate(pictures(tmp_path))]
    losses = [
        ("attention_relations", {"teacher": "peer", "kind": "mse"}),
        ("token_relations", {"teacher": "peer", "global": 0}),
    ]
    values = {}
    for student in ("vit", "small"):
        teachers = {"peer": {"peer": {"pretrained": "vit"}, "inputs": ["x"]}}
        loop = prepared(
            rows,
            losses,
            tmp_path,
            student={"pretrained": student},
            root=tmp_path,
            teachers=teachers,
            max_steps=20,
        )
        values[student] = [loop.model(loop.train_dataset.all_rows()).item()]
        loop.train()
        values[student].append(loop.model(loop.train_dataset.all_rows()).item())
    assert values["vit"][0] == pytest.approx(0, abs=1e-6)
    assert values["small"][1] < 0.7 * values["small"][0], values


def test_texts_of_a_teacher_stay_where_inputs_are_changed(tmp_path):
    from distillgen.losses.contrast import Contrast
    from distillgen.training.step import Step
    from tests.training.lessons import prepared, row

    loop = prepared([row(i) for i in range(6)], [("contrast", {})], tmp_path)
    loop.model.when = (0.0, 0, 1)
    rows = {**loop.train_dataset.all_rows(), "input.text": ["a"] * 6}
    other = Contrast()._changed(Step(loop.model, rows))
    assert other["input.text"] == ["a"] * 6 and not torch.allclose(other["input.x"], rows["input.x"])
