"""Play histories: `python -m tests.simulator --histories 1000 --seed 0`. The status is 1 if one breaks."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.simulator.history import History


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--histories", type=int, default=1000, help="number of histories")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first one; the others count on")
    parser.add_argument("--until-broken", action="store_true", help="end at the first that breaks")
    args = parser.parse_args()
    begun, broken, virtual_s = time.perf_counter(), 0, 0.0
    for seed in range(args.seed, args.seed + args.histories):
        history = History(seed)
        try:
            history.play()
        except Exception as error:
            broken += 1
            print("\n".join(history.world.trace))
            print(f"seed {seed}: {error}" if isinstance(error, AssertionError) else traceback.format_exc())
            print(f"again: python -m tests.simulator --histories 1 --seed {seed}\n")
            if args.until_broken:
                return 1
        virtual_s += history.world.now - 1000
    minutes = (time.perf_counter() - begun) / 60
    print(
        f"{args.histories:,} histories, {virtual_s / 3600:,.0f} virtual hours, in {minutes:.1f} minutes: "
        f"{args.histories / minutes:,.0f} a minute; {broken} broken"
    )
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
