"""`python -m distillgen` is the same program as `distillgen`."""

import sys


def main() -> None:
    """Carry out the command line. Ctrl-C while modules load ends it like any later one."""
    try:
        from distillgen.cli.main import main as program

        program()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
