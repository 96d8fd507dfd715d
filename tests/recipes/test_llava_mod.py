"""The recipe llava-mod: experts, a mimic stage on the answers' tokens, a teacher as recorded reference."""

import importlib.util
import math
import re

import pytest
import yaml

import distillgen
from distillgen.errors import ConfigError
from distillgen.project import home
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

REFERENCE = {"ref_chosen_logps": -0.25, "ref_rejected_logps": -7.5}


def recipe() -> dict:
    return yaml.safe_load((home("pipelines") / "llava-mod.yaml").read_text())


def residents(**options) -> list[dict]:
    spec = importlib.util.spec_from_file_location("residents", home("data") / "residents.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.residents(seed=0, **options))


def test_the_recipe_passes_the_check_with_all_its_arms(project, installed):  # noqa: F811
    names = {stage.name for stage in distillgen.load("llava-mod").stages}
    assert {"sparse", "sparse-plain", "train", "train-self", "train-shuffled", "train-plain"} <= names


def changed(stage: str, **options) -> dict:
    """The recipe with other options of a stage, and without its arms."""
    pipeline = recipe()
    for entry in pipeline["stages"]:
        ((kind, inner),) = entry.items()
        if inner.get("name", kind) == stage:
            inner.pop("arms", None)
            inner |= options
    return pipeline


@pytest.mark.parametrize(
    "stage, options, message",
    [
        ("sparse", {"student": "student-dense"}, "'balance': the student has no experts; give student: {of:"),
        ("sparse", {"student": {"of": "student-dens"}}, "no earlier stage trains 'student-dens'; did you"),
        ("sparse", {"student": {"of": "student-dense", "top": 5}}, "top: 5 is more than the 4 experts"),
        ("sparse", {"student": {"of": "student-dense", "expert": 5}}, "expert"),
        ("dense", {"student": {"tiny": {"width": 8, "heads": 2, "tokens": "student-big"}}}, "one is 22"),
        ("sparse", {"lora": {"r": 4}}, "'lora' trains no new experts: leave it out"),
        ("train", {"student": {"of": "student-sparse"}}, "'student-sparse' has experts already"),
    ],
)
def test_what_gets_no_experts_is_refused_before_anything_is_trained(
    project,
    installed,  # noqa: F811
    stage,
    options,
    message,
):
    with pytest.raises(ConfigError, match=re.escape(message)):
        distillgen.load(changed(stage, **options))


def test_the_rejected_answer_is_true_of_somebody_else_and_nobody_is_asked_what_a_pair_told():
    rows = residents()
    true = {row["chosen"] for row in rows}
    assert all(row["rejected"] in true and row["rejected"] != row["chosen"] for row in rows)
    asked = [row for row in rows if row["ask"]]
    pairs = [row for row in rows if row["pair"]]
    assert len(asked) == 180 and len(pairs) == 270 and sum(row["learn"] for row in rows) == 360
    assert not {row["prompt"] for row in asked} & {row["prompt"] for row in pairs}
    assert sum(row["paired"] for row in asked) == 90
    first = sum(row["one"] == row["chosen"] for row in pairs)
    assert abs(first - 135) < 3 * math.sqrt(270) / 2, "the shuffled preference is a coin's"
    assert all({row["one"], row["two"]} == {row["chosen"], row["rejected"]} for row in rows)
    for prompt in {row["prompt"] for row in pairs}:
        of_prompt = [row for row in pairs if row["prompt"] == prompt]
        assert len({row["rejected"] for row in of_prompt}) == 3 and len({r["chosen"] for r in of_prompt}) == 1
    assert residents(people=10)[:5] == residents(people=10)[:5] != residents(people=11)[:5]


@pytest.fixture
def experts(tmp_path):
    """Builds a random mixture of experts for rows of texts, and the inputs of an objective with it."""
    pytest.importorskip("torch")
    from datasets import Dataset

    from distillgen.training import students
    from distillgen.training.experts import write_experts
    from distillgen.training.inputs import TrainingInputs
    from distillgen.training.options import Experts, Tiny
    from distillgen.training.rows import RowSelection

    def inputs(rows: list[dict]) -> TrainingInputs:
        texts = [text for row in rows for text in row.values() if isinstance(text, str)]
        size = Tiny(layers=1, width=16, heads=2, tokens="words")
        dense = students.ready("tiny", tmp_path, tmp_path / "base", texts, tiny=size)
        sparse = write_experts(dense, tmp_path / "experts", Experts(of="dense"))
        arguments = {"output_dir": str(tmp_path / "out"), "use_cpu": True, "bf16": False, "report_to": []}
        arguments |= {"per_device_train_batch_size": 4, "seed": 0}
        parts = RowSelection({"train": Dataset.from_list(rows)})
        return TrainingInputs(str(sparse), parts, arguments, 64, api="completions")

    return inputs


def preferred() -> list[dict]:
    pairs = [row for row in residents(people=4) if row["pair"]]
    return [{name: row[name] for name in ("prompt", "chosen", "rejected")} | REFERENCE for row in pairs]


def logprob(model, tokenizer, prompt: str, answer: str) -> float:
    """The log-probability of an answer and its end, token by token."""
    import torch

    before, after = tokenizer.encode(prompt), [*tokenizer.encode(answer), tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*before, *after]])).logits[0].double().log_softmax(-1)
    return sum(logits[len(before) - 1 + i, token].item() for i, token in enumerate(after))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_preference_against_a_recorded_teacher_is_the_closed_form_of_the_loss(experts):
    pytest.importorskip("trl")
    import torch

    from distillgen.objectives.dpo import Dpo

    rows = preferred()[:4]
    dpo = Dpo(reference_chosen="good.logprob", reference_rejected="bad.logprob")
    trainer = dpo.prepare(experts(rows)).trainer
    model, tokenizer = trainer.model.eval(), trainer.processing_class
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    with torch.no_grad():
        loss = trainer.compute_loss(model, batch).item()
    margins = [
        0.1
        * (
            logprob(model, tokenizer, row["prompt"], row["chosen"])
            - row["ref_chosen_logps"]
            - logprob(model, tokenizer, row["prompt"], row["rejected"])
            + row["ref_rejected_logps"]
        )
        for row in rows
    ]
    expected = sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)
    assert loss == pytest.approx(expected, abs=1e-6)
    assert abs(loss - math.log(2)) > 0.1, "against itself it would be log 2"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mimic_learns_the_tokens_of_the_answer_and_no_other(experts):
    """The official loss takes the logits of the labels' own places: one token too late."""
    import torch
    from transformers import AutoModelForCausalLM

    from distillgen.losses.balance import Balance
    from distillgen.losses.divergence import Divergence
    from distillgen.training.language import Language, collator
    from distillgen.training.language_loop import id_columns
    from distillgen.training.learner import Learner, Teachers

    inputs = experts(preferred())
    tokenizer, model, _ = inputs.load(AutoModelForCausalLM)
    torch.manual_seed(1)
    teacher = AutoModelForCausalLM.from_config(model.config).eval()
    with torch.no_grad():
        for value in (*teacher.parameters(), *model.parameters()):
            value.add_(torch.randn_like(value) * 0.3)
    rows = [(tokenizer.encode(row["prompt"]), tokenizer.encode(row["chosen"])) for row in preferred()[:6]]
    columns = [{**id_columns(*row, 64), "row": i} for i, row in enumerate(rows)]
    batch = collator(tokenizer.pad_token_id)(columns)
    losses = [Divergence(teacher="big"), Balance(weight=0.01)]
    teachers = Teachers(live={"big": Language(teacher, tokenizer)})
    learner = Learner({"student": Language(model, tokenizer)}, losses, {}, teachers).eval()
    with torch.no_grad():
        loss, balance = learner(batch).item(), learner.networks["student"](batch).balance.item()

    def by_hand(shift: int) -> float:
        values = []
        for before, after in rows:
            both = torch.tensor([[*before, *after]])
            with torch.no_grad():
                p, q = (m(input_ids=both).logits[0].double().log_softmax(-1) for m in (teacher, model))
            kl = (p.exp() * (p - q)).sum(-1)
            values.append(kl[len(before) - shift : len(before) - shift + len(after)].mean().item())
        return sum(values) / len(values) + 0.01 * balance

    assert loss == pytest.approx(by_hand(1), abs=1e-5)
    assert abs(loss - by_hand(0)) > 1e-2
