"""Trainings that change a few weights alone: exactly those that a full training changed most."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TEXTS = ["one two three four", "five six seven eight"]


@pytest.fixture
def start(tmp_path):
    from distillgen.training.options import Tiny
    from distillgen.training.tiny import write_tiny

    size = Tiny(layers=1, width=8, heads=2, tokens="words", init=0.3)
    return write_tiny(tmp_path / "start", size, None, TEXTS, 300)


def loaded(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def flat(model):
    return torch.cat([value.detach().flatten() for value in model.parameters()])


def trained(model, steps=5):
    """Train on two rows with AdamW, as every trainer does."""
    ids = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_exactly_the_weights_that_changed_most_change_and_the_rest_stay_to_the_bit(start, tmp_path):
    from distillgen.training.sparse import restrict

    before, full = flat(loaded(start)), trained(loaded(start), steps=3)
    full.save_pretrained(tmp_path / "full")
    count = round(0.1 * len(before))
    most = torch.zeros(len(before), dtype=torch.bool)
    most[(flat(full) - before).abs().argsort(descending=True)[:count]] = True
    model = loaded(start)
    restrict(model, tmp_path / "full", 0.1)
    after = flat(trained(model))
    assert torch.equal(after != before, most)
    free = flat(trained(loaded(start)))  # the control: without the mask
    assert (free != before).sum() > 5 * count


def test_weights_that_the_full_training_left_alone_stay_whatever_the_density(start, tmp_path):
    from distillgen.training.sparse import restrict

    other = loaded(start)
    with torch.no_grad():
        other.lm_head.weight[5, 3] += 0.01
    other.save_pretrained(tmp_path / "full")
    model = loaded(start)
    restrict(model, tmp_path / "full", 1.0)
    before = flat(loaded(start))
    changed = (flat(trained(model)) != before).nonzero().flatten().tolist()
    assert len(changed) == 1


def test_a_gradient_that_is_no_number_leaves_the_other_weights_as_they_are(start, tmp_path):
    from distillgen.training.sparse import restrict

    trained(loaded(start)).save_pretrained(tmp_path / "full")
    model = loaded(start)
    restrict(model, tmp_path / "full", 0.05)
    sum((value * float("nan")).sum() for value in model.parameters()).backward()
    gradients = torch.cat([value.grad.flatten() for value in model.parameters()])
    assert gradients.isnan().float().mean().item() == pytest.approx(0.05, abs=0.01)
    assert (gradients[~gradients.isnan()] == 0).all()
