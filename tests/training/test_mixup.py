"""Mixup: which rows are mixed, with whom, and that everybody sees the same mixtures, also after a kill."""

import pytest

from distillgen.errors import ConfigError
from distillgen.training.mixup import LABEL, SHARE, Mixup
from tests.training.lessons import bits, prepared, row

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def batch(count: int = 40) -> dict:
    """Rows whose input names them: a 1 at their place; the label of each is its place."""
    places = torch.arange(count)
    return {"input.x": torch.eye(count), "row": places, "label": places, "node": ["n"] * count}


def parts(mixed: dict) -> list[tuple[int, int, float]]:
    """Of each mixture its own place, that of the other row, and the share of its own, by its input alone."""
    found = []
    for place, values in enumerate(mixed["input.x"]):
        others = [i for i in values.nonzero().flatten().tolist() if i != place]
        if others:
            found.append((place, others[0], float(values[place])))
    return found


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_inputs_and_labels_are_mixed_with_the_same_row_and_share(share):
    mixed = Mixup(share=share).mixed(batch(), 1)
    found = parts(mixed)
    assert share * 40 - 4 <= len(found) <= share * 40, "a row may be drawn to be mixed with itself"
    for place, other, own in found:
        assert mixed[LABEL][place] == other and mixed["label"][place] == place
        assert mixed[SHARE][place].item() == pytest.approx(own, abs=1e-6)
    assert mixed["input.x"].sum(1).tolist() == pytest.approx([1.0] * 40, abs=1e-5)
    assert (mixed[SHARE] < 1).sum() == round(share * 40) and mixed["node"] == ["n"] * 40


def test_arrays_of_any_shape_are_mixed_whole():
    pictures = {**batch(6), "input.x": torch.arange(6.0)[:, None, None].expand(6, 2, 3)}
    mixed = Mixup().mixed(pictures, 1)
    expected = mixed[SHARE] * torch.arange(6) + (1 - mixed[SHARE]) * mixed[LABEL]
    assert torch.allclose(mixed["input.x"], expected[:, None, None].expand(6, 2, 3))


def test_a_mixture_is_a_function_of_the_seed_the_step_and_the_rows():
    mixup, rows = Mixup(share=0.5), batch()
    one = mixup.mixed(rows, 0, 7)["input.x"]
    assert torch.equal(one, mixup.mixed(rows, 0, 7)["input.x"])
    assert rows["input.x"].equal(torch.eye(40)), "the rows themselves stay as they are"
    others = [mixup.mixed(rows, *key)["input.x"] for key in ((0, 8), (1, 7))]
    others.append(mixup.mixed({**rows, "row": rows["row"] + 40}, 0, 7)["input.x"])
    assert not any(torch.equal(one, other) for other in others)


def test_shares_follow_the_beta_distribution():
    """The variance of Beta(β, β) is 1 / (4 (2β + 1)): 1/12 for an even draw."""
    for beta in (0.2, 1.0, 8.0):
        shares = torch.cat([Mixup(beta=beta).mixed(batch(), step)[SHARE] for step in range(100)])
        assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
        assert shares.var().item() == pytest.approx(1 / (4 * (2 * beta + 1)), rel=0.1)


def test_texts_do_not_mix():
    with pytest.raises(ConfigError, match="mixup: 'x' holds texts, which do not mix"):
        Mixup().mixed({**batch(2), "input.x": ["a", "b"]}, 1)


LOSSES = [("cross_entropy", {}), ("divergence", {"teacher": "peer"})]
PEER = {"peer": {"peer": {"mlp": [4]}, "inputs": ["x"]}}


def loop(tmp_path, folder: str = "a", **options):
    rows, mixup = [row(i) for i in range(40)], Mixup(share=0.5)
    return prepared(
        rows, LOSSES, tmp_path / folder, teachers=PEER, **{"mixup": mixup, "max_steps": 12, **options}
    )


def test_student_and_teacher_see_the_mixtures_in_training_and_the_rows_elsewhere(tmp_path):
    from distillgen.training.step import Step

    model = loop(tmp_path).model
    rows = loop(tmp_path).train_dataset.all_rows()
    mixed = Mixup(share=0.5).mixed(rows, 0, 3)  # the seed, and the updates so far
    model.when = (0.25, 0, 3)
    model.train()
    in_training = model(rows).item()
    model.eval()
    assert in_training == pytest.approx(Step(model, mixed).total().item(), abs=1e-6)
    assert model(rows).item() == pytest.approx(Step(model, rows).total().item(), abs=1e-6)
    alone = {**mixed, "input.x": rows["input.x"]}
    for control in (rows, alone):
        assert in_training != pytest.approx(Step(model, control).total().item(), abs=1e-5)


def test_the_options_of_a_pipeline_reach_the_training(monkeypatch, tmp_path):
    from distillgen.objectives.distil import Distil
    from distillgen.project import Project
    from distillgen.training.inputs import TrainingInputs
    from distillgen.training.rows import RowSelection

    monkeypatch.setattr("distillgen.training.assembly.network_loop", lambda lesson, inputs: lesson)
    options = {"mixup": {"share": 0.3}, "teachers": {"t": {"model": "student-big"}}, "shuffle": ["t"]}
    learning = Distil(inputs=["x"], losses=["cross_entropy"], label="y", **options)
    lesson = learning.prepare(TrainingInputs("", RowSelection({}), {}, 64, project=Project(tmp_path)))
    assert lesson.mixup == Mixup(share=0.3) and lesson.shuffle == ["t"]


def test_a_training_with_mixtures_goes_on_to_the_same_bits(tmp_path):
    whole = loop(tmp_path)
    whole.train()
    loop(tmp_path, "b", save_strategy="steps", save_steps=5).train()
    again = loop(tmp_path, "b")
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "out" / "checkpoint-5"))
    assert bits(whole) == bits(again)
    unmixed = loop(tmp_path, "c", mixup=None)
    unmixed.train()
    assert bits(whole) != bits(unmixed)
