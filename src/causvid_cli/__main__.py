"""`python -m causvid_cli` is `causvid`."""

from causvid_cli.cli.app import main

if __name__ == "__main__":
    main()
