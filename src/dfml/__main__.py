"""`python -m dfml`: the same as the command `dfml`."""

from dfml.cli import main

if __name__ == "__main__":
    main()
