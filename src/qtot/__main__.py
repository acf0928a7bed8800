"""``python -m qtot`` is the command ``qtot``."""

import sys

from qtot.cli import main

if __name__ == "__main__":
    sys.exit(main())
