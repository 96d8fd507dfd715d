"""distiller: a student that learns by the bound alone tells of its teacher's features more than a control."""

import pytest

from data.digits import digits
from distillgen.located_yaml import read_yaml
from distillgen.project import home
from tests.recipes.harness import teach, train_here


def recipe() -> dict:
    """The recipe with the bound as the student's only loss, and the control."""
    file = home("pipelines") / "distiller.yaml"
    pipeline, _ = read_yaml(file.read_text(encoding="utf-8"), file)
    student = pipeline["stages"][-2]["train"]
    student["losses"] = student["losses"][2:]
    student["arms"] = {"shuffled": student["arms"]["shuffled"]}
    del pipeline["stages"][-1], student["label"], pipeline["stages"][2]  # the deep teacher of other arms
    return pipeline


def explained(folder, name: str, seed: int = 0) -> float:
    """The share of the variance of the teacher's features that a linear map of a student's explains.

    The map is fitted on the half of the test pictures, and asked about the other half.
    """
    import torch

    from distillgen.networks.network import load
    from distillgen.project import Project

    test = [row for row in digits(seed=seed, train=1200) if row["split"] == "test"]
    with torch.no_grad():
        networks = [load(folder / one, Project(folder)) for one in (name, "student-big")]
        x, y = (net(net.batch([{"image": r["image"]} for r in test])).features for net in networks)
        x, half = torch.cat([x, torch.ones(len(x), 1)], 1).double(), len(x) // 2
        ridge = 1e-3 * torch.eye(x.shape[1], dtype=torch.double)
        weights = torch.linalg.solve(x[:half].T @ x[:half] + ridge, x[:half].T @ y[:half].double())
        left = (x[half:] @ weights - y[half:]).square().sum() / (y[half:] - y[half:].mean(0)).square().sum()
    return float(1 - left)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_features_that_learn_by_the_bound_tell_of_the_teachers_own(tmp_path, monkeypatch):
    for package in ("torch", "accelerate", "datasets", "sklearn"):
        pytest.importorskip(package)
    train_here(monkeypatch)
    run = teach(recipe(), {}, out=tmp_path / "run")
    told = {name: explained(run.directory, f"student{name}") for name in ("", "-shuffled", "-big")}
    assert told["-big"] == pytest.approx(1, abs=1e-3)
    assert told[""] > told["-shuffled"] + 0.05, told
