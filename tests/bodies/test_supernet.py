"""A supernet's subnets are slices of it: they learn together, and each can be taken out as it is."""

import random

import pytest

from distillgen.errors import ConfigError
from distillgen.project import Project
from tests.training.lessons import bits, prepared

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SPACE = {"depth": [1, 2], "width": [4, 8], "ratio": [1, 2]}
STUDENT = {"supernet": SPACE, "attention_heads": 2}
TEACHER = {"peer": {"peer": {"supernet": {"depth": 1, "width": 12}, "attention_heads": 2}, "inputs": ["x"]}}
RELATIONS = [("attention_relations", {"teacher": "peer", "heads": 2})]


def picture(i: int) -> dict:
    """4 by 4 noisy pixels with a bright row, column or diagonal, which is the class."""
    chance = random.Random(i)
    place, kind = chance.randrange(4), i % 3
    bright = [
        [(y == place, x == place, x == y)[kind] + chance.gauss(0, 0.1) for x in range(4)] for y in range(4)
    ]
    return {"id": str(i), "input.x": bright, "label": ["abc"[kind]]}


def loop_of(tmp_path, losses=(("cross_entropy", {}),), *, student=STUDENT, count=12, **options):
    return prepared([picture(i) for i in range(count)], list(losses), tmp_path, student=student, **options)


def body_of(loop):
    return loop.model.networks["student"].body


def saved(loop, tmp_path, name: str = "student"):
    from distillgen.networks.network import load

    loop.save_model(str(tmp_path / name))
    return load(tmp_path / name, Project(tmp_path))


def test_a_step_trains_the_largest_the_smallest_and_two_others(tmp_path):
    body = body_of(loop_of(tmp_path))
    drawn = [body.subnets(torch.Generator().manual_seed(step)) for step in range(40)]
    assert all(one[:2] == [(2, 8, 2), (1, 4, 1)] and len({*one}) == 4 for one in drawn)
    assert len({subnet for one in drawn for subnet in one}) == 8, "all have their turn"
    assert drawn == [body.subnets(torch.Generator().manual_seed(step)) for step in range(40)]
    one = body_of(loop_of(tmp_path, student={"supernet": {"depth": 1, "width": 8}}))
    assert one.subnets(torch.Generator()) == [(1, 8, 2)]
    pair = {"supernet": {"depth": [2, 1, 2], "width": 8}, "others": 5}
    assert body_of(loop_of(tmp_path, student=pair)).subnets(torch.Generator()) == [(2, 8, 2), (1, 8, 2)]


def gradients(loop) -> dict:
    return {
        name: value.grad.clone() for name, value in body_of(loop).named_parameters() if value.grad is not None
    }


def test_the_loss_is_the_mean_over_the_subnets_of_the_step(tmp_path):
    loop = loop_of(tmp_path)
    batch, body = loop.train_dataset.all_rows(), body_of(loop)
    loop.model.train()
    together = loop.model(batch)
    together.backward()
    expected, values, subnets = {}, [], body.subnets(loop.model.generator("subnets", 0))
    whole = body.subnet
    for body.subnet in subnets:
        loop.model.zero_grad()
        value = loop.model._total(batch)
        value.backward()
        values.append(value.item())
        for name, gradient in gradients(loop).items():
            expected[name] = expected.get(name, 0) + gradient / 4
    body.subnet = whole
    loop.model.zero_grad()
    loop.model(batch).backward()
    assert together.item() == pytest.approx(sum(values) / 4) and len({*values}) == 4
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in gradients(loop).items())
    assert body.subnet == (2, 8, 2), "asked, it is the largest again"
    loop.model.eval()
    assert loop.model(batch).item() == pytest.approx(values[0])


def test_a_subnet_is_a_slice_of_the_trained_supernet_to_the_bit(tmp_path):
    loop = loop_of(tmp_path)
    loop.train()
    network = saved(loop, tmp_path)
    array = torch.randn(5, 4, 4)
    taken = {}
    for subnet in ((1, 4, 2), (2, 8, 1), (2, 8, 2)):
        options = dict(zip(("depth", "width", "ratio"), subnet, strict=True))
        student = {"subnet": "student-super", **options}
        models = {"student-super": tmp_path / "student"}
        alone = loop_of(tmp_path / "again", student=student, models=models, count=9)
        assert torch.equal(alone.model.networks["student"].scale, network.scale), "not that of nine pictures"
        network.body.subnet = subnet
        features, tokens, projections = network.body(array)
        own = body_of(alone)(array)
        assert torch.equal(own[0], features[:, : subnet[1]]) and not features[:, subnet[1] :].any()
        assert torch.equal(own[1], tokens) and torch.equal(own[2], projections)
        taken[subnet] = alone
    alone = taken[1, 4, 2]
    before = {name: value.clone() for name, value in body_of(alone).named_parameters()}
    alone.train()
    after = dict(body_of(alone).named_parameters())
    assert all(
        not torch.equal(after[name], value) for name, value in before.items() if "keys.bias" not in name
    )
    again = saved(alone, tmp_path, "subnet")
    student, batch = alone.model.networks["student"].eval(), alone.train_dataset.all_rows()
    assert torch.equal(again(batch).classes["class"], student(batch).classes["class"])
    assert sum(value.numel() for value in again.state_dict().values()) < 400, (
        "nothing of the supernet is kept"
    )


def test_a_transformer_of_patches_sees_their_places_and_order(tmp_path):
    """By hand: without layers' weights, the features are the mean over patches of W · patch + b + place."""
    body = body_of(loop_of(tmp_path, student={"supernet": {"depth": 1, "width": 4}, "patch": 2}))
    array = torch.randn(3, 4, 4)
    with torch.no_grad():
        for layer in body.layers:
            for linear in (layer.out, layer.down):
                linear.weight.zero_()
                linear.bias.zero_()
        features, tokens, _ = body(array)
        for y in range(2):
            for x in range(2):
                patch = array[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten(1)
                expected = patch @ body.first.weight.T + body.first.bias + body.places[2 * y + x]
                assert torch.allclose(tokens[:, 2 * y + x], expected, atol=1e-5)
    assert torch.allclose(features, tokens.mean(1))


def test_a_layer_is_that_of_torch(tmp_path):
    body = body_of(loop_of(tmp_path, student={"supernet": {"depth": 1, "width": 8}, "attention_heads": 2}))
    (layer,) = body.layers
    oracle = torch.nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    maps = (layer.queries, layer.keys, layer.values)
    with torch.no_grad():
        oracle.self_attn.in_proj_weight.copy_(torch.cat([one.weight for one in maps]))
        oracle.self_attn.in_proj_bias.copy_(torch.cat([one.bias for one in maps]))
        pairs = (
            (oracle.self_attn.out_proj, layer.out),
            (oracle.linear1, layer.up),
            (oracle.linear2, layer.down),
        )
        for theirs, own in (*pairs, (oracle.norm1, layer.before), (oracle.norm2, layer.between)):
            theirs.weight.copy_(own.weight)
            theirs.bias.copy_(own.bias)
        tokens = torch.randn(3, 5, 8)
        said, projections = layer(tokens, 16)
        assert torch.allclose(said, oracle(tokens), atol=1e-5)
        assert torch.equal(projections[:, 1], layer.keys(layer.before(tokens)))


def test_the_relations_move_the_student_and_not_its_teacher(tmp_path):
    loop = loop_of(tmp_path, RELATIONS, teachers=TEACHER)
    loop.model.train()
    loop.model(loop.train_dataset.all_rows()).backward()
    moved = {
        name: any(p.grad is not None and p.grad.abs().max() > 1e-7 for p in part.parameters())
        for name, part in loop.model.networks.items()
    }
    assert moved == {"student": True, "peer": False}


def test_a_training_of_subnets_goes_on_to_the_same_bits(tmp_path):
    whole = loop_of(tmp_path / "a", RELATIONS, teachers=TEACHER, max_steps=8)
    whole.train()
    options = {"teachers": TEACHER, "max_steps": 8}
    loop_of(tmp_path / "b", RELATIONS, save_strategy="steps", save_steps=5, **options).train()
    again = loop_of(tmp_path / "b", RELATIONS, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "out" / "checkpoint-5"))
    assert bits(whole) == bits(again)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"supernet": {"depth": 1, "width": 8}, "patch": 3}, "patches of 3 do not fill a picture of [4, 4]"),
        ({"supernet": {"depth": 1, "width": 8}, "shape": [4, 2]}, "16 numbers are no picture of [4, 2]"),
    ],
)
def test_a_picture_of_another_size_is_refused(tmp_path, student, message):
    with pytest.raises(ConfigError) as error:
        loop_of(tmp_path, student=student)
    assert message in str(error.value)


def test_numbers_in_one_list_are_no_picture(tmp_path):
    flat = [{**picture(i), "input.x": sum(picture(i)["input.x"], [])} for i in range(6)]
    with pytest.raises(ConfigError, match="reads one picture: .* give its shape"):
        prepared(flat, [("cross_entropy", {})], tmp_path, student=STUDENT)
    shaped = prepared(flat, [("cross_entropy", {})], tmp_path, student={**STUDENT, "shape": [1, 4, 4]})
    square = loop_of(tmp_path, count=6)
    batches = [loop.train_dataset.all_rows() for loop in (shaped, square)]
    said = [
        loop.model.networks["student"](batch) for loop, batch in zip((shaped, square), batches, strict=True)
    ]
    assert torch.allclose(said[0].classes["class"], said[1].classes["class"])


def test_the_best_subnet_is_chosen_by_the_loss_on_validation_rows(tmp_path):
    import json

    rows = {"train": [picture(i) for i in range(12)], "validation": [picture(i) for i in range(20, 50)]}
    loop = prepared(rows, [("cross_entropy", {})], tmp_path, student=STUDENT)
    loop.train()
    network = saved(loop, tmp_path)
    lines = (tmp_path / "student/files/subnets.jsonl").read_text(encoding="utf-8").splitlines()
    losses = {tuple(row[name] for name in SPACE): row["loss"] for row in map(json.loads, lines)}
    assert len({*losses.values()}) == 8 and [*network.body.losses.tolist()] == [*losses.values()]
    batch = network.batch([{"x": row["input.x"]} for row in rows["validation"]])
    truth = torch.tensor(["abc".index(row["label"][0]) for row in rows["validation"]])
    for network.body.subnet, loss in losses.items():
        logits = network(batch).classes["class"]
        assert torch.nn.functional.cross_entropy(logits, truth).item() == pytest.approx(loss, abs=1e-6)

    def taken(**options) -> tuple:
        student, models = {"subnet": "student-super", **options}, {"student-super": tmp_path / "student"}
        one = loop_of(tmp_path / "again", student=student, models=models)
        assert [*saved(one, tmp_path, "taken").body.losses.shape] == [1], "the folder says which it is"
        return body_of(one).subnet

    cost = {(d, w, r): d * w * w * (4 + 2 * r) for d, w, r in losses}
    for fits, options in (
        (lambda one: True, {}),
        (lambda one: cost[one] <= 400, {"within": 400}),
        (lambda one: one[1] == 4, {"width": 4}),
        (lambda one: one[0] == 1 and cost[one] <= 96, {"depth": 1, "within": 96}),
    ):
        assert taken(**options) == min(filter(fits, losses), key=losses.get)


def test_without_validation_rows_the_training_rows_rank_and_of_equals_the_smallest_is_best(tmp_path):
    loop = loop_of(tmp_path, RELATIONS, teachers=TEACHER, count=40)
    loop.train()
    body = saved(loop, tmp_path).body
    assert not body.losses.isnan().any()
    equal = [one for one, loss in zip(body._all, body.losses, strict=True) if loss == body.losses[0]]
    assert equal == [(1, 4, 1), (1, 4, 2)], "the last attention of one layer is before its perceptron"
    assert body.best(lambda one: one.width == 4 and one.depth == 1) == (1, 4, 1)
    body.losses[1] = body.losses[0] - 1e-3
    assert body.best(lambda one: one.width == 4 and one.depth == 1) == (1, 4, 2)
