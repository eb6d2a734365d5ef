"""`python -m sanflow`, which torchrun needs."""

import os
import sys


def main() -> None:
    """The command line; Ctrl-C while it is still being loaded ends as it does later on."""
    try:
        from .cli import main as command

        command()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        # After one inside of eval(), as typer has it, Python would end by the signal all the same.
        os._exit(130)


if __name__ == "__main__":
    main()
