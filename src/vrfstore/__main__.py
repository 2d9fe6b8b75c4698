"""``python -m vrfstore``."""

from vrfstore.cli import main

if __name__ == "__main__":
    main()
