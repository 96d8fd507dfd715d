"""What the critic of the loss information finds of five nats between Gaussian vectors, and of strangers.

A pair has two vectors of four numbers; each batch is drawn anew, and has 32 pairs.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.information
"""

import math

import torch

from distillgen.losses.information import Information, bound
from distillgen.training.part import PartSizes

NATS, SIZE, ROWS, STEPS, LAST = 5, 4, 32, 2500, 500


def learnt(alpha: float, *, strangers: bool = False, seed: int = 0) -> tuple[float, float]:
    """Return the mean bound over the last steps in nats, and its deviation over batches."""
    torch.manual_seed(seed)
    correlation = math.sqrt(1 - math.exp(-2 * NATS / SIZE))
    loss = Information(teacher="t", alpha=alpha)
    (critic,) = loss.module(PartSizes(1, {"student": SIZE, "t": SIZE}, {}))
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.001)
    bounds = []
    for _ in range(STEPS):
        x, noise = torch.randn(ROWS, SIZE), torch.randn(ROWS, SIZE)
        y = noise if strangers else correlation * x + math.sqrt(1 - correlation**2) * noise
        scores = critic["score"](critic["student"](x)[:, None] + critic["teacher"](y)).squeeze(-1)
        value = bound(scores, critic["baseline"](y).squeeze(-1), alpha).mean()
        optimizer.zero_grad()
        (-value).backward()
        torch.nn.utils.clip_grad_norm_(critic.parameters(), 5.0)
        optimizer.step()
        bounds.append(value.item())
    last = torch.tensor(bounds[-LAST:])
    return last.mean().item(), last.std().item()


if __name__ == "__main__":
    print(f"{NATS} nats, batches of {ROWS} pairs, log {ROWS} = {math.log(ROWS):.2f}")
    for alpha in (1, 0.9, 0.5, 0.01):
        for strangers in (False, True):
            mean, deviation = learnt(alpha, strangers=strangers)
            kind = "strangers" if strangers else "pairs"
            print(f"alpha {alpha}, {kind}: {mean:.2f} ± {deviation:.2f} a batch")
