"""Bringing a database's schema up to date. Its version stands in the table `overread_schema`."""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from overread.state.failures import StateError
from overread.state.schema import METADATA, VERSION

logger = logging.getLogger(__name__)

SCRIPTS = Path(__file__).parent / "migrations"
VERSION_TABLE = "overread_schema"


def version_of(c: Connection) -> str | None:
    """Version of the schema; None of a database that holds nothing of ours."""
    if not inspect(c).has_table(VERSION_TABLE):
        return None
    return c.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()


def upgrade(c: Connection, name: str, to: str = "head") -> None:
    """Run the migrations that the database called `name` has not seen; all of them or none, in the transaction of `c`.

    Raises:
        StateError: the schema is newer than this Overread, or the tables are there and are not ours.
    """
    version = version_of(c)
    if version == VERSION:
        # Another process was faster.
        return
    # Only needed where the schema is out of date; every start would pay for the import.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    # The parser of alembic's settings takes % for a reference.
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if version is None:
        strangers = sorted(set(inspect(c).get_table_names()) & set(METADATA.tables))
        if strangers:
            raise StateError(
                f"the database {name} holds tables called {', '.join(strangers)} and no schema version of Overread; "
                "is it another program's?"
            )
    elif version not in {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}:
        raise StateError(
            f"the database {name} has schema {version} and this Overread knows none newer than {VERSION}; "
            "start the Overread that wrote it, or a newer one"
        )
    logger.info("Database %s: schema %s becomes %s", name, version or "none", to)
    config.attributes["connection"] = c
    command.upgrade(config, to)
