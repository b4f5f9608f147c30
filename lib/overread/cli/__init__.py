"""The `overread` command."""
