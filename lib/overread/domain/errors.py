"""One family of errors; the server maps it to HTTP answers in one place."""


class OverreadError(Exception):
    """Something a user can read: it names the culprit, what it was, what was expected, the likely mistake."""


class BadInputError(OverreadError):
    """What was sent or configured cannot be used (HTTP 400)."""


class UnavailableError(OverreadError):
    """What somebody else runs, such as the PACS, does not answer now; it may later (HTTP 503)."""


class NotFoundError(BadInputError):
    """A model, case, map or file that was named does not exist (HTTP 404)."""


def install_command(extra: str) -> str:
    """What installs an extra of the project, which lies in a folder of its own and in no registry."""
    return f".venv/bin/pip install -c constraints.txt -e '.[{extra}]' in the project's folder"
