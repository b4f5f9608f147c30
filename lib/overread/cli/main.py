"""The command itself: which subcommands there are, and how an error is told."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from overread.cli import (
    arms,
    audit,
    backup,
    central,
    demo,
    doctor,
    export,
    imports,
    models,
    predict,
    preference,
    recolour,
    retrain,
    serve,
    simulate,
    study,
    train,
    users,
    watch,
)


class PlainErrors(TyperGroup):
    """Tells an OverreadError in one sentence and exits with 1; `--debug` shows where it came from."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            errors = sys.modules.get("overread.domain.errors")
            if errors is None or not isinstance(error, errors.OverreadError) or ctx.params.get("debug"):
                raise
            typer.secho(f"Error: {error}", err=True, fg="red")
            raise typer.Exit(1) from error


app = typer.Typer(
    name="overread",
    cls=PlainErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from overread import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def overread(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="OVERREAD_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Several networks read a CT, MR or 2D study; where they disagree, a clinician is asked.

    First steps: `overread demo` shows it on sample data, `overread doctor` says what is wrong with an
    installation, `overread train NAME --data DIR` learns from your own cases, `overread serve --studies DIR`
    offers the result to 3D Slicer. Research software, not a medical device.
    """


app.command("demo")(demo.demo)
app.command("serve")(serve.serve)
app.command("train")(train.train)
app.command("central")(central.central)
app.command("recolour")(recolour.recolour)
app.command("import-nnunet")(imports.import_nnunet)
app.command("import-bundle")(imports.import_bundle)
app.command("predict")(predict.predict)
app.command("simulate")(simulate.simulate)
app.add_typer(study.study, name="study")
app.add_typer(models.models, name="models")
app.command("retrain")(retrain.retrain)
app.add_typer(preference.preference, name="preference")
app.command("watch")(watch.watch)
app.command("arms")(arms.arms)
app.add_typer(audit.audit, name="audit")
app.command("export")(export.export)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.add_typer(users.users, name="users")
app.command("doctor")(doctor.doctor)
