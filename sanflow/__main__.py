"""`python -m sanflow`, which torchrun needs."""

from .cli import main

if __name__ == "__main__":
    main()
