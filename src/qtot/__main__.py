"""``python -m qtot`` is the command ``qtot``."""

from qtot.cli import command

if __name__ == "__main__":
    command()
