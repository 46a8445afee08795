"""`python -m subpixmap`."""

from subpixmap.cli.main import main

if __name__ == "__main__":
    main()
