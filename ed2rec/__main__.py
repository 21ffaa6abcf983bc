"""python -m ed2rec is the `ed2` command."""

from ed2rec.cli import main

if __name__ == "__main__":
    main()
