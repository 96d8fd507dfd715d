"""diswot: how alike student and teacher relate rows and classes before any training (Dong et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from distillgen.training.score import Score

if TYPE_CHECKING:
    from distillgen.networks.network import Network
    from distillgen.training.untrained import Untrained

APART = 1000  # from the draws of students to those of teachers


class Diswot(Score):
    """Minus the distance of student and teacher, both with random weights, on one batch; 0 at most.

    It is the sum of two parts. `relation` compares how similar the rows are: minus ‖G_t − G_s‖² / rows², with
    G the products of the rows' features, each row of G divided by its norm. `semantic` compares how similar
    the classes are: minus ‖H_t − H_s‖² / classes, with H the products of the gradients of the cross-entropy
    by the weights of the classes, divided alike. Features are those of the parts of a row where the network
    gives these, as those of a picture before pooling.
    """

    teacher: str = Field(description="an earlier student, a network, whose weights are drawn anew")
    rows: int = Field(64, ge=2, description="training rows in the batch, drawn by the seed")
    draws: int = Field(3, ge=1, description="draws of both networks' weights; the score is their mean")
    shuffled: bool = Field(
        False, description="a control: the teacher's rows and classes in another order than the student's"
    )

    def models(self) -> list[str]:
        """Return the teacher."""
        return [self.teacher]

    def rate(self, student: Untrained) -> Mapping[str, float]:
        """Return the score, and its parts `relation` and `semantic`."""
        parts = [self._draw(student, draw) for draw in range(self.draws)]
        relation, semantic = (sum(values) / self.draws for values in zip(*parts, strict=True))
        return {"": relation + semantic, "relation": relation, "semantic": semantic}

    def _draw(self, student: Untrained, draw: int) -> tuple[float, float]:
        import torch

        of_rows, of_classes = self._grams(student.network(draw), student)
        # the teacher has draws of its own: two equal networks are not alike by chance alone
        its_rows, its_classes = self._grams(student.earlier(self.teacher, APART + draw), student)
        if self.shuffled:
            chance = torch.Generator().manual_seed(draw)
            its_rows, its_classes = _reordered(its_rows, chance), _reordered(its_classes, chance)
        relation = -distance(its_rows, of_rows) / len(of_rows) ** 2
        return relation, -distance(its_classes, of_classes) / len(of_classes)

    def _grams(self, network: Network, student: Untrained) -> tuple[Any, Any]:
        """Return the normalised products of the rows' features, and of the classes' gradients."""
        from torch import autograd
        from torch.nn.functional import cross_entropy

        batch = student.batch(network, self.rows)
        out = network(batch)
        (head, logits), *_ = out.classes.items()
        (gradient,) = autograd.grad(
            cross_entropy(logits, batch["label"]), network.heads[head].weight, retain_graph=True
        )
        features = out.features if out.tokens is None else out.tokens
        return gram(features.detach()), gram(gradient)


def gram(vectors: Any) -> Any:
    """Return the products of all pairs of vectors [n, …]; each row of the result has norm 1, or is 0."""
    flat = vectors.flatten(1)
    products = flat @ flat.T
    return products / products.norm(dim=1, keepdim=True).clamp(min=1e-12)


def distance(one: Any, other: Any) -> float:
    """Return the squared Frobenius norm of the difference of two matrices."""
    return float(((one - other) ** 2).sum())


def _reordered(matrix: Any, chance: Any) -> Any:
    import torch

    order = torch.randperm(len(matrix), generator=chance)
    return matrix[order][:, order]
