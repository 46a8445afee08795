"""`python -m subpixmap`."""

from subpixmap.cli import main

if __name__ == "__main__":
    main()
