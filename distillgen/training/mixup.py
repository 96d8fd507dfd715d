"""Mixup: rows that are mixtures of two, of their inputs and of their labels (Zhang et al. 2018)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from distillgen.errors import ConfigError

LABEL, SHARE = "mixup.label", "mixup.share"
"""Columns of a mixed batch: the label of the other row, and the share of the row itself."""


class Mixup(BaseModel):
    """In each batch, some rows become λ · row + (1 − λ) · another row of the batch, with λ ~ Beta(β, β).

    Of files, the numbers mix that each network reads: processors scale and shift pictures, so that these are
    the numbers of the mixed pictures, whatever size a network reads them in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(1.0, gt=0, le=1, description="share of each batch's rows that are mixed")
    beta: float = Field(
        1.0, gt=0, description="β: 1 draws λ evenly from 0 to 1; less draws it near the two ends"
    )

    def mixed(self, batch: Mapping[str, Any], *key: int) -> dict[str, Any]:
        """Return a batch with mixtures: a pure function of the batch and of `key`.

        Raise ConfigError if an input holds texts.
        """
        import torch

        from distillgen.networks.network import INPUT, are_texts, changed

        rows = batch["row"].tolist()
        digest = hashlib.sha256(f"mixup/{key}/{rows}".encode()).digest()
        chance = random.Random(int.from_bytes(digest[:8]))
        shares = [1.0] * len(rows)
        for place in chance.sample(range(len(rows)), round(self.share * len(rows))):
            shares[place] = chance.betavariate(self.beta, self.beta)
        device = batch["row"].device
        others = torch.tensor(chance.sample(range(len(rows)), len(rows)), device=device)
        share = torch.tensor(shares, device=device)

        def mix(values: Any) -> Any:
            weight = share.to(values.device).view(-1, *[1] * (values.dim() - 1))
            return weight * values + (1 - weight) * values[others.to(values.device)]

        mixed = {**batch, LABEL: batch["label"][others], SHARE: share}
        for name, values in batch.items():
            if name.startswith(INPUT):
                if are_texts(values):
                    raise ConfigError(f"mixup: '{name.removeprefix(INPUT)}' holds texts, which do not mix")
                mixed[name] = changed(values, mix)
        return mixed
