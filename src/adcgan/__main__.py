"""Run the command line by ``python -m adcgan``."""

from __future__ import annotations

from adcgan.cli import main

if __name__ == "__main__":
    main()
