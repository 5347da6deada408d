"""``python -m avtbench.bench`` is the same as ``avtbench``."""

from avtbench.bench.cli import main

if __name__ == "__main__":
    main()
