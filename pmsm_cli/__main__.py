"""`python -m pmsm_cli` is `pmsm`."""

from pmsm_cli.cli.app import main

if __name__ == "__main__":
    main()
