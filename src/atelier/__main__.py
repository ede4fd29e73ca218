"""``python -m atelier`` is the command ``atelier`` (torchrun starts modules)."""

from atelier.cli.main import main

if __name__ == "__main__":
    main()
