"""adapt: the second derivative against finite differences, experts that are left out, and the step itself."""

import pytest

from distillgen.errors import ConfigError
from distillgen.project import Project
from tests.training.lessons import bits, prepared, prepared_rows, row

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

EXPERTS = ("student-one", "student-two", "student-three")


def rows(count: int = 24, **columns) -> list[dict]:
    """Rows of two domains, of which an expert learnt one each, with the vectors of a recorded teacher."""
    return [
        row(i, **columns)
        | {"group": "ab"[i % 2], "teacher.expert.vector": [float(i % 2)]}
        | {"teacher.v.vector": [(i * 7 % (5 + place)) / 3 for place in range(8)]}
        for i in range(count)
    ]


def adapting(tmp_path, loss: dict, *, of=None, **options):
    teachers = {"v": {"field": "v"}, "expert": {"field": "expert", "reads": ["number"]}}
    options = {"per_device_train_batch_size": 6, "student": {"mlp": [8, 8]}, **options}
    options["teachers"] = {**teachers, **options.get("teachers", {})}
    return prepared(of or rows(), [("adapt", loss)], tmp_path, **options)


def batch_of(loop):
    return loop.train_dataset.__getitems__(list(range(0, 16, 2)))


def loss_of(loop, batch):
    from distillgen.training.step import Step

    ((loss, module),) = loop.model.losses_with_modules
    return loss.rows(Step(loop.model, batch), module)


def test_the_gradient_through_the_step_is_that_of_finite_differences(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # a network takes its inputs to float32
    loop = adapting(tmp_path, {"teacher": "v", "step": 0.7})
    loop.model.double().train()
    batch, student = batch_of(loop), loop.model.networks["student"]
    loss_of(loop, batch).backward()
    for name in ("body.layers.0.0.weight", "body.layers.1.0.bias", "heads.class.weight"):
        value = student.get_parameter(name)
        for place in ((0,) * value.dim(), tuple(size // 2 for size in value.shape)):
            ends = []
            for shift in (1e-6, -2e-6):
                value.data[place] += shift
                ends.append(float(loss_of(loop, batch)))
            value.data[place] += 1e-6
            difference = (ends[0] - ends[1]) / 2e-6
            assert float(value.grad[place]) == pytest.approx(difference, rel=1e-5, abs=1e-8), name
    second = {name: value.grad.clone() for name, value in student.named_parameters()}
    student.zero_grad()
    first_order(loop, batch).backward()
    value = student.get_parameter("body.layers.0.0.weight")
    assert not torch.allclose(value.grad, second["body.layers.0.0.weight"], rtol=0.01), "the control"


def first_order(loop, batch):
    """The loss after the step, as if the step did not depend on the weights."""
    from distillgen.networks.network import rows_of
    from distillgen.training.step import Step, descended

    ((loss, _),) = loop.model.losses_with_modules
    step, half = Step(loop.model, batch), len(batch["row"]) // 2
    at = step.parameters(detached=False)
    moved = descended(at, loss.distance(step.again(at=at, batch=rows_of(batch, 0, half))), loss.step)
    fixed = {name: at[name] + (moved[name] - at[name]).detach() for name in at}
    asked = step.again(at=fixed, batch=rows_of(batch, half, 2 * half))
    return torch.nn.functional.cross_entropy(asked.logits(loss), asked.label)


def test_rows_without_a_label_and_a_batch_of_one_row_add_nothing(tmp_path):
    loop = adapting(tmp_path, {"teacher": "v"})
    batch = batch_of(loop)
    whole = float(loss_of(loop, batch))
    support = {**batch, "label": torch.cat([torch.full((4,), -100), batch["label"][4:]])}
    assert float(loss_of(loop, support)) == whole, "the first half has no use for labels"
    assert float(loss_of(loop, {**batch, "label": torch.full((8,), -100)})) == 0
    assert float(loss_of(loop, {name: values[:1] for name, values in batch.items()})) == 0


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """The folders of three networks with weights of their own."""
    folder = tmp_path_factory.mktemp("experts")
    for seed, name in enumerate(EXPERTS):
        one = prepared(
            rows(), [("cross_entropy", {})], folder, student={"mlp": [8], "dropout": 0.5}, seed=seed
        )
        one.save_model(str(folder / name))
    return {name: folder / name for name in EXPERTS}


def with_experts(tmp_path, experts, loss=None, attention=2, **options):
    peer = {"aggregate": [*EXPERTS], "attention": attention}
    loss = {"teacher": "mixture", "leave_out": "expert", **(loss or {})}
    teachers = {"mixture": {"peer": peer, "inputs": ["x"]}}
    return adapting(tmp_path, loss, models=experts, teachers=teachers, **options)


def test_an_expert_is_not_asked_about_the_rows_that_it_learnt_from(tmp_path, experts):
    from distillgen.networks.network import LEFT_OUT

    loop = with_experts(tmp_path, experts)
    body, batch = loop.model.train().networks["mixture"].body, batch_of(loop)
    tokens = torch.stack([expert(batch).features for expert in body.experts], 1)
    others = body.attention(tokens[:, [0, 2]]).mean(1)
    without = body({**batch, LEFT_OUT: torch.ones(8).long()})
    assert torch.allclose(without, others, atol=1e-6)
    assert torch.allclose(body(batch), body.attention(tokens).mean(1), atol=1e-6)
    assert not torch.allclose(without, body(batch), atol=1e-3)
    even = float(loss_of(loop, batch))
    odd = {**batch, "teacher.expert.vector": torch.full((8, 1), 2.0)}
    assert even != float(loss_of(loop, odd)), "the loss leaves out the expert that the field names"


def test_the_attention_learns_and_the_experts_stay_and_both_come_back(tmp_path, experts):
    from distillgen.networks.network import load

    loop = with_experts(tmp_path, experts, max_steps=3)
    before = bits(loop)
    loop.train()
    changed = {name for name, value in bits(loop).items() if value != before[name]}
    assert any(".attention." in name for name in changed) and any(".student." in name for name in changed)
    assert not any(".experts." in name for name in changed)
    mixture = loop.model.networks["mixture"]
    assert not any(module.training for module in mixture.train().body.experts.modules())
    loop.save_model(str(tmp_path / "student"))
    again, batch = load(tmp_path / "student/peers/mixture", Project(tmp_path)), batch_of(loop)
    assert torch.equal(again(batch).features, mixture.eval()(batch).features)


def test_batches_are_of_one_domain_and_go_on_to_the_same_bits(tmp_path, experts):
    whole = with_experts(tmp_path / "a", experts, max_steps=7)
    before = bits(whole)
    whole.train()
    with_experts(tmp_path / "b", experts, max_steps=7, save_strategy="steps", save_steps=3).train()
    again = with_experts(tmp_path / "b", experts, max_steps=7)
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "out" / "checkpoint-3"))
    assert bits(whole) == bits(again) != before
    seen = [{place % 2 for place in batch["row"].tolist()} for batch in whole.get_train_dataloader()]
    assert sorted(map(len, seen)) == [1] * 4 and len(set.union(*seen)) == 2


def test_an_epoch_has_batches_of_one_group_in_an_order_of_its_own():
    from distillgen.training.columns import OfOneGroup

    order = OfOneGroup("aabbbababbaab", 3, 0)
    first = [*order]
    assert len(first) == len(order) == 12 and len(set(first)) == 12, "one b is left out"
    for start in range(0, 12, 3):
        assert len({"aabbbababbaab"[place] for place in first[start : start + 3]}) == 1
    assert first == [*OfOneGroup("aabbbababbaab", 3, 0)] != [*OfOneGroup("aabbbababbaab", 3, 1)]
    order.set_epoch(1)
    assert first != [*order]


def test_a_group_that_is_smaller_than_a_batch_is_left_out_and_counted(tmp_path):
    some = [one | ({"group": "c"} if i < 3 else {}) for i, one in enumerate(rows())]
    teachers = {"v": {"field": "v"}}
    options = {"teachers": teachers, "student": {"mlp": [8]}, "per_device_train_batch_size": 6}
    made = prepared_rows(some, [("adapt", {"teacher": "v"})], tmp_path, **options)
    assert made.counts == {"left out: fewer rows of its group than a batch has (6)": 3}
    assert len(made.trainer.train_dataset) == 21
    with pytest.raises(ConfigError, match="no row is left to train on: 24 left out: fewer rows"):
        adapting(tmp_path, {"teacher": "v"}, per_device_train_batch_size=13)


def test_adapting_is_one_step_of_gradient_descent(tmp_path, experts):
    """A training of one step by `features`, the step inside of `adapt`, and that of the benchmark are one."""
    from distillgen.networks.network import load
    from distillgen.training.step import Step, descended
    from tests.benchmarks.meta_dmoe import RATE, adapted

    meta = with_experts(tmp_path, experts, {"step": RATE}, max_steps=3)
    meta.train()
    meta.save_model(str(tmp_path / "student-meta"))
    folder = tmp_path / "student-meta/peers/mixture"
    loop = prepared(
        [{name: value for name, value in one.items() if name != "group"} for one in rows()],
        [("features", {"teacher": "student-meta-mixture", "linear": False})],
        tmp_path,
        student={"mlp": [8, 8]},
        teachers={"student-meta-mixture": {"model": "student-meta-mixture", "inputs": ["x"]}},
        models={"student-meta-mixture": folder},
        per_device_train_batch_size=24,
        max_steps=1,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        optim="sgd",
    )
    student, batch = meta.model.networks["student"].eval(), loop.train_dataset.all_rows()
    loop.model.networks["student"].load_state_dict(student.state_dict())
    loop.train()
    stepped = dict(loop.model.networks["student"].named_parameters())
    ((loss, _),) = meta.model.losses_with_modules
    step = Step(meta.model.eval(), batch)
    at = step.parameters(detached=False)
    inside = descended(at, loss.distance(step.again(at=at, batch=batch)), loss.step)
    measured = adapted(student, load(folder, Project(tmp_path)), batch)
    assert stepped.keys() == inside.keys() == measured.keys()
    for name in stepped:
        assert torch.allclose(stepped[name], inside[name], atol=1e-6), name
        assert torch.allclose(stepped[name], measured[name], atol=1e-6), name
    assert not torch.allclose(stepped["body.layers.0.0.weight"], at["body.layers.0.0.weight"], atol=1e-4)
    assert torch.equal(stepped["heads.class.weight"], at["heads.class.weight"]), "the head stays"


def test_vectors_of_another_width_are_refused(tmp_path, experts):
    with pytest.raises(
        ConfigError, match="the student's features have the width 4, and the vectors of 'v' 8"
    ):
        adapting(tmp_path, {"teacher": "v"}, student={"mlp": [4]})
    losses = [("features", {"teacher": "v", "linear": False})]
    with pytest.raises(ConfigError, match="'student' has 4 features, and 'v' 8; leave out linear: false"):
        prepared(rows(), losses, tmp_path, student={"mlp": [4]}, teachers={"v": {"field": "v"}})
    with pytest.raises(ConfigError, match="3 heads do not divide the experts' width of 8"):
        with_experts(tmp_path, experts, attention=3)
    wide = prepared(rows(), [("cross_entropy", {})], tmp_path, student={"mlp": [4]})
    wide.save_model(str(tmp_path / "wide"))
    with pytest.raises(ConfigError, match=r"the experts' features have the widths \[4, 8\], not one"):
        with_experts(tmp_path, {**experts, "student-two": tmp_path / "wide"})
