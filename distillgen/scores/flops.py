"""flops: the floating-point operations of a network for one row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from distillgen.training.score import Score

if TYPE_CHECKING:
    from distillgen.training.untrained import Untrained


class Flops(Score):
    """The operations of one row in matrix products and convolutions, as torch counts them."""

    def rate(self, student: Untrained) -> Mapping[str, float]:
        """Return the number."""
        from torch.utils.flop_counter import FlopCounterMode

        network = student.network()
        counter = FlopCounterMode(display=False)
        with counter:
            network(student.batch(network, 1))
        return {"": float(counter.get_total_flops())}
