"""`python -m genloom`, which is also what torchrun starts."""

from genloom.cli import main

if __name__ == "__main__":
    main()
