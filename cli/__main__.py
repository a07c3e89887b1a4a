"""``python -m roundel.cli`` is the `roundel` command."""

from roundel.cli.main import main

if __name__ == "__main__":
    main()
