"""`python -m sanakit` is the command `sana`."""

from sanakit.cli import main

if __name__ == "__main__":
    main()
