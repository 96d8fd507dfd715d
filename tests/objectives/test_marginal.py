"""Objective marginal: its rows, and its loss against the formula written out."""

import math
import random

import pytest

from distillgen.objectives.marginal import Marginal, in_sequence
from distillgen.project import Project
from distillgen.record import Record
from distillgen.training.rows import Unusable

TEMPLATE = "{{ demonstration.q }} is {{ demonstration.a }}. {{ question }}"
DEMOS = [{"q": "x", "a": "red", "cosine": 0.5}, {"q": "y", "a": "blue", "cosine": 0.25}]
trains = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def row(demonstrations=DEMOS, completion="red", **options):
    fields = {"question": "z is", "demonstrations": demonstrations, "completion": completion}
    return Marginal(template=TEMPLATE, **options).row(Record("", fields, source="data:1"), {})


def test_a_row_has_a_prompt_and_a_score_for_each_demonstration():
    assert row() == {"prompts": ["x is red. z is", "y is blue. z is"], "scores": [0, 0], "completion": "red"}
    assert row(score="cosine", temperature=0.05)["scores"] == pytest.approx([10, 5])
    assert row(completion=3)["completion"] == "3"
    objective = Marginal(template=TEMPLATE)
    assert objective.answers() == ("completion",) and objective.api(row()) == "completions"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"demonstrations": []}, "'demonstrations' holds no demonstrations"),
        ({"demonstrations": "x"}, "'demonstrations' holds no demonstrations"),
        ({"demonstrations": [{"q": "x"}]}, "a prompt has no text: "),
        (
            {"demonstrations": DEMOS[:1] * 2, "score": "bm25"},
            "a demonstration in 'demonstrations' has no number",
        ),
        ({"completion": " "}, "'completion' holds no text"),
        ({"completion": None}, "'completion' holds no text"),
    ],
)
def test_a_record_without_demonstrations_scores_or_answer_teaches_nothing(change, reason):
    with pytest.raises(Unusable, match=reason):
        row(**change)


def test_sequences_of_a_batch_stand_one_behind_the_other_with_their_record():
    rows = [
        {"input_ids": [[1], [2]], "labels": [[5], [5]], "scores": [0.5, 0.1], "row": 7},
        {"input_ids": [[3]], "labels": [[6]], "scores": [0.2], "row": 9},
    ]
    assert in_sequence(rows) == [
        {"input_ids": [1], "labels": [5], "scores": 0.5, "row": 7, "group": 0},
        {"input_ids": [2], "labels": [5], "scores": 0.1, "row": 7, "group": 0},
        {"input_ids": [3], "labels": [6], "scores": 0.2, "row": 9, "group": 1},
    ]


def brute_force(likelihood, scores):
    """−log Σ_z p(z|x) p(y|x,z), with probabilities."""
    powers = [math.exp(score) for score in scores]
    priors = [power / sum(powers) for power in powers]
    return -math.log(sum(p * math.exp(value) for p, value in zip(priors, likelihood, strict=True)))


class TestTheFormula:
    pytestmark = trains

    def loss(self, likelihood, scores):
        torch = pytest.importorskip("torch")
        from distillgen.objectives.marginal import marginal

        return marginal(
            *(torch.tensor(values, dtype=torch.float64) for values in (likelihood, scores))
        ).item()

    def drawn(self, seed, k=4):
        chance = random.Random(seed)
        return [chance.uniform(-9, 0) for _ in range(k)], [chance.uniform(-3, 8) for _ in range(k)]

    def test_it_is_the_sum_over_demonstrations_in_any_order(self):
        for seed in range(200):
            likelihood, scores = self.drawn(seed)
            assert self.loss(likelihood, scores) == pytest.approx(brute_force(likelihood, scores), abs=1e-5)
            pairs = random.Random(seed).sample([*zip(likelihood, scores, strict=True)], 4)
            assert self.loss(*map(list, zip(*pairs, strict=True))) == pytest.approx(
                self.loss(likelihood, scores), abs=1e-12
            )

    def test_with_one_demonstration_it_is_the_cross_entropy_and_equal_ones_count_once(self):
        assert self.loss([-2.5], [4.0]) == pytest.approx(2.5)
        assert self.loss([-2.5] * 3, [4.0, 1.0, 0.0]) == pytest.approx(2.5)

    def test_the_scores_weigh_and_improbable_answers_stay_finite(self):
        assert self.loss([-1.0, -5.0], [9.0, 0.0]) < self.loss([-1.0, -5.0], [0.0, 9.0])
        assert self.loss([-900.0, -950.0], [0.0, 0.0]) == pytest.approx(900 + math.log(2))

    def test_its_gradient_is_that_of_finite_differences(self):
        torch = pytest.importorskip("torch")
        from distillgen.objectives.marginal import marginal

        for seed in range(20):
            likelihood, scores = (torch.tensor(v, dtype=torch.float64) for v in self.drawn(seed))
            likelihood.requires_grad_()
            marginal(likelihood, scores).backward()
            for z in range(4):
                step = torch.zeros(4, dtype=torch.float64)
                step[z] = 1e-5
                sides = [marginal(likelihood.detach() + sign * step, scores).item() for sign in (1, -1)]
                assert likelihood.grad[z].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_the_loss_of_a_batch_is_the_mean_of_its_records(tmp_path, kind):
    """Records of two, one and three demonstrations, with answers of different lengths."""
    torch = pytest.importorskip("torch")
    datasets = pytest.importorskip("datasets")
    from distillgen.training import students
    from distillgen.training.inputs import TrainingInputs
    from distillgen.training.options import Tiny
    from distillgen.training.rows import RowSelection

    third = [*DEMOS, {"q": "v", "a": "green", "cosine": 0.1}]
    rows = [
        row(demos, completion, score="cosine", temperature=0.1)
        for demos, completion in [(DEMOS, " red"), (DEMOS[:1], " red and blue"), (third, " v is green")]
    ]
    texts = [text for each in rows for text in [*each["prompts"], each["completion"]]]
    size = Tiny(layers=1, width=16, heads=2, kind=kind, tokens="words")
    student = students.ready("tiny", tmp_path, tmp_path / "base", texts, tiny=size)
    arguments = {
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "seed": 0,
    }
    inputs = TrainingInputs(
        student,
        RowSelection({"train": datasets.Dataset.from_list(rows)}),
        {**arguments, "per_device_train_batch_size": 4},
        max_length=64,
        project=Project(tmp_path),
        api="completions",
    )
    prepared = Marginal(template=TEMPLATE, score="cosine", temperature=0.1).prepare(inputs)
    loop, model, tokenizer = (
        prepared.trainer,
        prepared.student,
        prepared.trainer.model.networks["student"].tokenizer,
    )
    batch = loop.data_collator([loop.train_dataset[i] for i in range(3)])
    assert len(batch["row"]) == 6
    loop.model.eval(), model.eval()

    def likelihood(prompt, completion):
        """The log-probability of a completion and its end, computed alone."""
        before, after = tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"]
        if kind == "encoder-decoder":
            logits = model(input_ids=torch.tensor([before]), labels=torch.tensor([after])).logits[0]
        else:
            after = tokenizer(prompt + completion)["input_ids"][len(before) :] + [tokenizer.eos_token_id]
            logits = model(input_ids=torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
        return logits.log_softmax(-1)[range(len(after)), after].sum().item()

    with torch.no_grad():
        expected = [
            brute_force(
                [likelihood(prompt, each["completion"]) for prompt in each["prompts"]], each["scores"]
            )
            for each in rows
        ]
        assert loop.model(batch).item() == pytest.approx(sum(expected) / 3, abs=1e-5)
    loop.model(batch).backward()
    assert sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None) > 0
