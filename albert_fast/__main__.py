"""``python -m albert_fast``: the command ``albert-fast`` without its script."""

from albert_fast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
