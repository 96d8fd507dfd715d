"""Logits divided by their own standard deviation (Choi et al. 2023). It needs torch."""

from __future__ import annotations

from typing import Any

from distillgen.training.signals import ABSENT


def standardised(logits: Any) -> Any:
    """Return logits [positions, outcomes] with a deviation of 1 over the outcomes of each position."""
    there = logits > ABSENT / 2
    counts = there.sum(-1, keepdim=True)
    mean = (logits * there).sum(-1, keepdim=True) / counts
    variance = ((logits - mean).square() * there).sum(-1, keepdim=True) / (counts - 1).clamp(min=1)
    return (logits / variance.clamp(min=1e-12).sqrt()).where(there, logits)
