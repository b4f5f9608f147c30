"""The `overread` command: one file per command, heavy imports inside the commands so that `--help` is quick."""

from overread.cli.main import app

__all__ = ["app"]
