"""Averaged weights: by hand, what is measured is the average, and a kill changes no bit."""

import pytest

from tests.training.lessons import bits, prepared, row

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def blended(tmp_path, folder: str, blend=None, **options):
    from distillgen.training.blend import Blend

    rows = {"train": [row(i) for i in range(30)], "held_out": [row(i) for i in range(30, 36)]}
    return prepared(
        rows,
        [("cross_entropy", {})],
        tmp_path / folder,
        blend=Blend(**blend) if blend else None,
        **{"max_steps": 6, **options},
    )


def weights(loop):
    return [value.detach().clone() for value in loop.model.networks["student"].parameters()]


@pytest.mark.parametrize("blend", [{"start": 0.3}, {"average": 0.8}, {"start": 0.3, "average": 0.8}])
def test_the_student_is_the_average(tmp_path, blend):
    plain, paths = blended(tmp_path, "plain"), []
    first = weights(plain)
    step = plain.training_step

    def recorded(*args, **options):  # the weights before each step
        paths.append(weights(plain))
        return step(*args, **options)

    plain.training_step = recorded
    plain.train()
    averages = first
    for path in (*paths[1:], weights(plain)):
        share = blend.get("average", 0.0)
        averages = [share * a + (1 - share) * w for a, w in zip(averages, path, strict=True)]
    start = blend.get("start", 0.0)
    expected = [start * a + (1 - start) * b for a, b in zip(first, averages, strict=True)]
    loop = blended(tmp_path, "blended", blend)
    loop.train()
    assert len(paths) == 6
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights(loop), expected, strict=True))
    assert not any(
        torch.allclose(a, b, atol=1e-4) for a, b in zip(weights(loop), weights(plain), strict=True)
    )


def test_what_is_measured_at_the_end_is_the_average(tmp_path):
    loop = blended(tmp_path, "a", {"start": 0.9})
    loop.train()
    before = loop.evaluate()["eval_loss"]
    loop.save_model(str(tmp_path / "student"))
    assert loop.evaluate()["eval_loss"] == before


def test_averages_go_on_to_the_same_bits(tmp_path):
    blend = {"start": 0.3, "average": 0.8}
    whole = blended(tmp_path, "a", blend)
    whole.train()
    blended(tmp_path, "b", blend, save_strategy="steps", save_steps=4).train()
    again = blended(tmp_path, "b", blend)
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "out" / "checkpoint-4"))
    assert bits(whole) == bits(again)
