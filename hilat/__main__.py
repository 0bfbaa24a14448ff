"""`python -m hilat` is the `hilat` script."""

from hilat.cli import main

if __name__ == "__main__":
    main()
