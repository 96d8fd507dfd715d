"""`python -m distillgen` is the same program as `distillgen`."""

from distillgen.cli.main import main

if __name__ == "__main__":
    main()
