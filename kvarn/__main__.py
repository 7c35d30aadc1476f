"""`python -m kvarn` is `kvarn`."""

from kvarn.cli import main

if __name__ == "__main__":
    main(prog_name="kvarn")
