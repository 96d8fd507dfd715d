"""contrast: a row is nearest to itself under another distribution (Tang et al. 2023, KD3, MixDistribution).

Every input of a row gets other statistics: its numbers are standardised, and then have the mean and the
deviation of λ · its own + (1 − λ) · those of another row of the batch, with λ ~ Beta(β, β). A picture
[channels, height, width], also one that a network reads of a file, has a mean and a deviation in each
channel. A linear map, trained along, takes the student's features of the rows and of the changed rows to
vectors of length 1, and the loss is −log of the share that a row's other self has among all other vectors of
the batch, exp(cosine / temperature).

The authors' code adds the same term of a second map over the teacher's features. No gradient of it reaches
the student, so that it is left out here.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.training.part import Loss, PartSizes

if TYPE_CHECKING:
    from distillgen.training.step import Step

LEAST = 1e-6  # added to the variance of an input


class Contrast(Loss):
    """Distance of a row from itself under other statistics, against its distance from all other rows."""

    needs: ClassVar = {}
    teaching = False
    features = True
    tokens = False
    changes = True

    temperature: float = Field(0.3, gt=0, description="cosines are divided by it")
    beta: float = Field(0.1, gt=0, description="β: 1 draws λ evenly from 0 to 1; less draws it near the ends")
    width: int = Field(128, ge=1, description="numbers of the vectors that are compared")

    def module(self, sizes: PartSizes) -> Any:
        """Return the linear map."""
        from torch import nn

        return nn.Linear(sizes.widths[self.of], self.width)

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row [rows], in nats."""
        import torch
        from torch.nn.functional import normalize

        other = step.again(batch=self._changed(step))
        vectors = [normalize(module(s.vector(self.of)), dim=-1) for s in (step, other)]
        units = torch.cat(vectors)
        cosines = units @ units.T / self.temperature
        cosines = cosines.masked_fill(
            torch.eye(len(units), dtype=torch.bool, device=units.device), -torch.inf
        )
        itself = (vectors[0] * vectors[1]).sum(-1) / self.temperature
        return cosines.logsumexp(-1).view(2, -1).mean(0) - itself

    def _changed(self, step: Step) -> Mapping[str, Any]:
        """Return the batch with other statistics of its inputs: a pure function of the seed and the step."""
        import torch

        from distillgen.networks.network import INPUT, are_texts, changed

        chance = random.Random(step.generator("contrast").initial_seed())
        others = chance.sample(range(step.size), step.size)
        shares = [chance.betavariate(self.beta, self.beta) for _ in range(step.size)]

        def mix(values: Any) -> Any:
            if values[0].numel() == 1:  # one number has no deviation
                return values
            inner = tuple(range(2 if values.dim() == 4 else 1, values.dim()))
            share = torch.tensor(shares, device=values.device).view(-1, *[1] * (values.dim() - 1))
            mean = values.mean(inner, keepdim=True)
            deviation = (values.var(inner, keepdim=True) + LEAST).sqrt()
            mixed = [share * x + (1 - share) * x[others] for x in (mean, deviation)]
            return (values - mean) / deviation * mixed[1] + mixed[0]

        other = dict(step.batch)
        for name, values in step.batch.items():
            if name.startswith(INPUT) and not are_texts(values):  # texts are those of a teacher
                other[name] = changed(values, mix)
        return other
