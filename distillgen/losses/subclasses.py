"""subclasses: classes split by the teacher's embeddings (Loo et al. 2024, LELP).

An embedding has more to say than the few classes of a task. What the logits say already, the row space of
the teacher's last layer W, is projected away: h ← (I − W⁺W)h. In each class c, the first S principal
directions, rotated at random so that their variances come near each other, give z_cs = (h − μ_c)·v_cs /
deviation. The targets are P(c, s) = p_c · softmax_s(β z_cs), and the loss is −Σ P log Q over the classes ×
S logits of a head with `groups: S`. W is the least-squares map from embeddings to centred logits, so that
recorded embeddings and probabilities suffice. The division by the deviation in the class is ours; there is
no official code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project
from distillgen.training.part import Loss, PartSizes

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Subclasses(Loss):
    """Cross-entropy to the teacher's classes, each split into subclasses by projections of its embedding."""

    needs: ClassVar = {"teacher": "classes", "embedding": "vector"}
    tokens = False
    mixtures = True

    teacher: str | None = Field(None, description="who gives the classes: a stage, a field, or a student")
    embedding: str = Field(description="who gives the embedding: a stage, a field, or a student")
    sharpness: float = Field(3.0, gt=0, description="β: how unlike the shares of a class's subclasses are")

    def check_network(self, spec: NetworkSpec, project: Project) -> None:
        """Raise ConfigError if the head has no subclasses."""
        head = self.head or spec.head_names(project)[0]
        if head not in spec.heads or spec.heads[head].groups < 2:
            raise ConfigError(
                f"the head '{head}' has no subclasses; give it some: heads: {{{head}: {{groups: 8}}}}"
            )

    def module(self, sizes: PartSizes) -> Any:
        """Return the map from an embedding to z, which the fit sets."""
        from torch import nn

        return nn.Module()

    def fit(self, step: Step, module: Any) -> None:
        """Set the map [width, classes · S] and its offset [classes · S] from all training rows."""
        vectors = step.vector(self.embedding).double().cpu()
        logits = step.teacher(str(self.teacher)).double().cpu()
        groups = step.subclasses(self).shape[-1] // logits.shape[-1]
        beyond = _beyond_logits(vectors, logits)
        columns, offsets = zip(
            *(_directions(vectors[logits.argmax(-1) == c], beyond, groups) for c in range(logits.shape[-1])),
            strict=True,
        )
        import torch

        module.register_buffer("directions", torch.cat(columns, 1).float())
        module.register_buffer("offset", torch.cat(offsets).float())

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row [rows], in nats."""
        shares = step.teacher(str(self.teacher)).detach().softmax(-1)
        z = step.vector(self.embedding).detach() @ module.directions - module.offset
        within = (self.sharpness * z).unflatten(-1, (shares.shape[-1], -1)).softmax(-1)
        targets = (shares[:, :, None] * within).flatten(1)
        return -(targets * step.subclasses(self).log_softmax(-1)).sum(-1)


def _beyond_logits(vectors: Any, logits: Any) -> Any:
    """Return the projection [width, width] that removes the directions that the logits depend on."""
    import torch

    h, y = vectors - vectors.mean(0), logits - logits.mean(-1, keepdim=True)
    weights = torch.linalg.lstsq(h, y - y.mean(0), driver="gelsd").solution
    basis, sizes, _ = torch.linalg.svd(weights, full_matrices=False)
    basis = basis[:, : logits.shape[-1] - 1] * (sizes[: logits.shape[-1] - 1] > 1e-9 * sizes.max())
    return torch.eye(h.shape[1], dtype=h.dtype) - basis @ basis.T


def _directions(vectors: Any, beyond: Any, groups: int) -> tuple[Any, Any]:
    """Return a class's directions [width, groups] and offset [groups]; 0 where its rows do not differ."""
    import torch

    mean = vectors.mean(0) if len(vectors) else vectors.new_zeros(len(beyond))
    rows = (vectors - mean) @ beyond
    _, sizes, axes = torch.linalg.svd(rows, full_matrices=False)
    axes = axes[:groups] * (sizes[:groups] > 1e-9 * sizes.max().clamp(min=1))[:, None] if len(sizes) else axes
    axes = torch.cat([axes, axes.new_zeros(groups - len(axes), len(beyond))])
    rotation, _ = torch.linalg.qr(torch.randn(groups, groups, dtype=rows.dtype))
    directions = beyond @ axes.T @ rotation
    deviation = (rows @ directions).std(0, unbiased=False) if len(rows) else rows.new_zeros(groups)
    directions = torch.where(deviation > 1e-9, directions / deviation.clamp(min=1e-9), 0.0)
    return directions, mean @ directions
