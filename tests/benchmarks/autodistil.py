"""Whether the losses of ten subnets in a supernet rank them as a training of each alone does, over seeds.

Spearman's correlation with the loss of the subnets trained alone: of the loss in the supernet, of that in
a supernet that learnt from other pictures, and of the number of multiplications of a subnet. Losses are
those of the test pictures.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.autodistil --seeds 2
"""

import argparse
import tempfile
from pathlib import Path

from scipy.stats import spearmanr

import distillgen
from tests.recipes.test_autodistil import losses, pipeline

SUBNETS = [
    (1, 8, 1),
    (1, 8, 2),
    (1, 16, 1),
    (1, 16, 2),
    (1, 32, 1),
    (2, 8, 1),
    (2, 8, 2),
    (2, 16, 1),
    (2, 32, 1),
    (2, 32, 2),
]


def multiplications(depth: int, width: int, ratio: int) -> int:
    """Those of a token with the weights of all layers."""
    return depth * width * width * (4 + 2 * ratio)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = distillgen.run(pipeline(SUBNETS, steps=options.steps, seed=seed), out=Path(folder) / "run")
            values = losses(run.directory, SUBNETS, seed=seed)
        for i, subnet in enumerate(SUBNETS):
            print(subnet, *(f"{name} {one[i]:.3f}" for name, one in values.items()))
        values["size"] = [-multiplications(*subnet) for subnet in SUBNETS]
        ranks = {name: spearmanr(one, values["alone"]).statistic for name, one in values.items()}
        print(f"seed {seed}:", *(f"{name} {rank:.2f}" for name, rank in ranks.items()))
