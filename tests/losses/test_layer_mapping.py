"""The layers that student and teacher compare: by hand, against the cheapest transport, and as they learn."""

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.losses._layer_mapping import _places, transport
from tests.losses.test_check import SPLIT, TUTOR
from tests.objectives.test_distil import filled, pipeline  # noqa: F401  a project with teachers
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

COSTS = [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]


def test_the_cheapest_transport_by_hand():
    pytest.importorskip("scipy")
    plan = transport(COSTS)
    expected = [[1 / 3, 1 / 6, 0], [0, 1 / 6, 1 / 3]]
    assert all(a == pytest.approx(b, abs=1e-9) for a, b in zip(plan, expected, strict=True))
    moved = [plan[::-1], COSTS]
    assert cost(*moved) > cost(plan, COSTS) + 0.3, "the control: the plan of another order costs more"
    assert transport([[5.0]]) == [[1.0]]


def cost(plan, costs) -> float:
    return sum(p * c for ps, cs in zip(plan, costs, strict=True) for p, c in zip(ps, cs, strict=True))


@pytest.mark.parametrize(
    ("mapping", "sizes", "expected"),
    [
        ("skip", (2, 4), [(0, 1), (1, 3)]),
        ("skip", (2, 5), [(0, 1), (1, 3)]),
        ("last", (2, 4), [(0, 2), (1, 3)]),
        ("last", (2, 2), [(0, 0), (1, 1)]),
        ("emd", (2, 1), [(0, 0), (1, 0)]),
    ],
)
def test_which_layers_are_compared(mapping, sizes, expected):
    assert [*_places(mapping, *sizes, "big")] == expected


@pytest.mark.parametrize("mapping", ["skip", "last"])
def test_a_teacher_with_fewer_layers_is_refused(mapping):
    with pytest.raises(ConfigError, match="the student has 3 layers, and 'big' 2; take emd"):
        _places(mapping, 3, 2, "big")


@pytest.mark.parametrize("loss", ["features", "information"])
def test_what_gives_no_layers_is_refused(filled, loss):  # noqa: F811
    for options, message in (
        ({"losses": [{loss: {"teacher": "sees", "mapping": "last"}}]}, "'sees' was recorded, and layers are"),
        (
            {
                "losses": [{loss: {"teacher": "tutor", "mapping": "last"}}],
                "teachers": TUTOR,
                "student": {"supernet": {"depth": 1, "width": [8]}},
            },
            "it compares layers, and student body 'supernet' has none that it gives",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            distillgen.load(pipeline(SPLIT, **options))
        assert message in str(error.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestLearning:
    """Real, small networks: a student of two layers and a peer of four, all of other widths."""

    @pytest.fixture(autouse=True)
    def _torch(self):
        for package in ("torch", "transformers", "datasets", "scipy"):
            pytest.importorskip(package)

    def looked(self, tmp_path, loss, **options):
        """The rows of a loss, its module, the step, and the loop."""
        from tests.losses.test_formulas import only, rows
        from tests.training.lessons import prepared

        loop = prepared(
            rows(),
            [(loss, {"teacher": "peer", **options})],
            tmp_path,
            student={"mlp": [3, 2]},
            teachers={"peer": {"peer": {"mlp": [5, 4, 3, 2]}, "inputs": ["x"]}},
            shuffled=options.pop("shuffled", False),
        )
        from distillgen.training.step import Step

        loop.model.when = (0.0, 0, 0)
        step = Step(loop.model, loop.train_dataset.all_rows())
        part, module = only(loop)
        return part.rows(step, module), module, step, loop

    def distances(self, module, step, places):
        """The mean squared difference [pairs, rows] of pairs of layers, by the formula."""
        import torch

        student, teacher = step.states("student"), step.states("peer")
        assert [x.shape[1] for x in student] == [3, 2] and [y.shape[1] for y in teacher] == [5, 4, 3, 2]
        assert student[1].equal(step.vector("student")), "the last layer is the features"
        pairs = [(student[i], teacher[j]) for i, j in places]
        return torch.stack([((f(x) - y) ** 2).mean(1) for f, (x, y) in zip(module, pairs, strict=True)])

    @pytest.mark.parametrize(("mapping", "places"), [("skip", [(0, 1), (1, 3)]), ("last", [(0, 2), (1, 3)])])
    def test_pairs_of_layers(self, tmp_path, mapping, places):
        import torch

        values, module, step, _ = self.looked(tmp_path, "features", mapping=mapping)
        assert torch.allclose(values, self.distances(module, step, places).mean(0))
        other = self.looked(tmp_path, "features", mapping="last" if mapping == "skip" else "skip")[0]
        assert not torch.allclose(values, other)

    def test_all_pairs_by_the_cheapest_transport(self, tmp_path):
        import torch

        values, module, step, _ = self.looked(tmp_path, "features", mapping="emd")
        distances = self.distances(module, step, [(i, j) for i in range(2) for j in range(4)])
        plan = torch.tensor(transport(distances.mean(1).view(2, 4).tolist()))
        assert torch.allclose(values, (plan.view(-1, 1) * distances).sum(0), atol=1e-6)
        assert values.mean() < distances.mean(), "cheaper than all pairs alike"

    @pytest.mark.parametrize("loss", ["features", "information"])
    @pytest.mark.parametrize("mapping", ["skip", "last", "emd"])
    def test_the_student_learns_and_its_teacher_does_not(self, tmp_path, loss, mapping):
        values, module, step, loop = self.looked(tmp_path, loss, mapping=mapping)
        assert values.shape == (4,) and len(module) == (8 if mapping == "emd" else 2)
        values.sum().backward()
        layers = loop.model.networks["student"].body.layers
        assert all(layer[0].weight.grad.abs().max() > 0 for layer in layers), "each layer learns"
        assert all(p.grad is None for p in loop.model.networks["peer"].parameters())
        assert any(p.grad is not None for p in module.parameters())

    def test_a_network_without_layers_does_not_teach_them(self, tmp_path):
        from distillgen.training.step import Step
        from tests.losses.test_formulas import rows
        from tests.training.lessons import prepared

        def loop(**options):
            peer = {"peer": {"supernet": {"depth": 1, "width": 8}, "shape": [2, 2]}, "inputs": ["x"]}
            losses = [("features", {"teacher": "peer", **options})]
            return prepared(rows(), losses, tmp_path, student={"mlp": [2]}, teachers={"peer": peer})

        with pytest.raises(ConfigError, match="features: 'peer' gives no layers"):
            loop(mapping="last")
        of_the_last = loop()
        step = Step(of_the_last.model, of_the_last.train_dataset.all_rows())
        with pytest.raises(ConfigError, match="'peer' gives no layers; name a network"):  # to a user's loss
            step.states("peer")

    def test_a_control_gives_the_layers_of_other_rows(self, tmp_path):
        *_, step, loop = self.looked(tmp_path, "features", mapping="last")
        own = step.states("peer")
        loop.model.teachers.exchanged = ["peer"]
        assert step.states("peer")[0].equal(own[0].roll(2, 0)) and not step.states("peer")[0].equal(own[0])
