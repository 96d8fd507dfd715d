"""Whether the losses of ten subnets in a supernet rank them as a training of each alone does, over seeds.

Spearman's correlation with the loss of the subnets trained alone: of the loss in the supernet, of that in
a supernet that learnt from other pictures, and of the number of multiplications of a subnet. Losses are
those of the test pictures.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.autodistil --seeds 0 1
"""

import argparse
import tempfile
from pathlib import Path

from scipy.stats import spearmanr

import distillgen
from tests.benchmarks.over_seeds import difference, spread
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


def rankings(seed: int, steps: int) -> dict[str, float]:
    """Spearman's correlation of each score with the losses of the subnets trained alone."""
    with tempfile.TemporaryDirectory() as folder:
        run = distillgen.run(pipeline(SUBNETS, steps=steps, seed=seed), out=Path(folder) / "run")
        values = losses(run.directory, SUBNETS, seed=seed)
    for i, subnet in enumerate(SUBNETS):
        print(subnet, *(f"{name} {one[i]:.3f}" for name, one in values.items()))
    values["size"] = [-multiplications(*subnet) for subnet in SUBNETS]
    alone = values.pop("alone")
    return {name: float(spearmanr(one, alone).statistic) for name, one in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    by_seed = []
    for seed in options.seeds:
        by_seed.append(rankings(seed, options.steps))
        print(f"seed {seed}:", *(f"{name} {rank:.3f}" for name, rank in by_seed[-1].items()), flush=True)
    for name in by_seed[0]:
        ranks = [one[name] for one in by_seed]
        gaps = [one["super"] - one[name] for one in by_seed]
        print(f"{name}: {spread(ranks, 2)}; the loss in the supernet less it {difference(gaps, 2)}")


if __name__ == "__main__":
    main()
