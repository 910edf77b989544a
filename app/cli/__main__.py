"""`python -m annotate_transformer.app.cli` runs a command as `annotate` does."""

from annotate_transformer.app.cli.main import main

if __name__ == "__main__":
    main()
