"""Start the command line: `suture`, or `python -m suture`."""

import sys

from suture.errors import SutureError


def main() -> None:
    """Run the command line; an error of Suture becomes its three lines and exit status 1."""
    try:
        from suture.cli import app  # here, so that an absent extra is answered in three lines too

        app()
    except SutureError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
