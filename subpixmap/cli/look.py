"""The commands that inspect run folders, checkpoints and regions.

Only parses options and calls the verbs; heavy imports stay inside functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from subpixmap.cli import options
from subpixmap.cli.options import refuse_given


def status(out: options.Folder, verbose: options.Verbose = False) -> None:
    """Show the progress of a run.

    Shows blocks done per period, failures with their reasons, the rate and the time left.
    """
    from subpixmap.verbs import look as verbs

    verbs.status(out)


def verify(
    context: typer.Context,
    out: options.Folder,
    repair: Annotated[
        bool, Option("--repair", help="map damaged blocks again, and rewrite the tables and the report")
    ] = False,
    model: options.RunModel = None,
    workers: options.Workers = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Check all files of a run against their recorded hashes.

    Checks map, ledger, lock, plan and tables. The exit code is 5 if any file has changed.
    """
    from subpixmap.verbs import look as verbs

    if not repair:
        refuse_given(context, "model", "workers", because="only used with --repair; add --repair, or leave it out")
    verbs.verify(out, repair=repair, model=model, workers=workers, quiet=quiet)


def models(
    names: Annotated[list[str] | None, typer.Argument(help="checkpoints to show  [default: the shipped ones]")] = None,
    verbose: options.Verbose = False,
) -> None:
    """List checkpoints with their objects, evidence and errors.

    Also shows their bands, training data and limits.
    """
    from subpixmap.verbs import look as verbs

    verbs.models(names or ())


def regions(
    country: Annotated[
        str | None, typer.Argument(help="country whose units are listed  [default: list countries]")
    ] = None,
    verbose: options.Verbose = False,
) -> None:
    """List the names that --region accepts.

    Lists all countries, or the units of one country, each with its code. If units share a name, give the code to
    --region.
    """
    from subpixmap.verbs import look as verbs

    verbs.regions(country)


def doctor(
    out: Annotated[Path, Option(help="folder for future runs, local or s3://bucket/folder")] = Path("."),
    source: options.SourceOrDefault = None,
    device: Annotated[str, Option(help="cpu, cuda or auto")] = "auto",
    as_json: Annotated[bool, Option("--json", help="print one JSON array instead of lines")] = False,
    verbose: options.Verbose = False,
) -> None:
    """Check that this machine is ready, and say what to fix.

    The exit code is 0 if all checks pass, 3 if something must be fixed.
    """
    from subpixmap.verbs import doctor as verbs

    verbs.doctor(out=out, source=source or (), device=device, as_json=as_json)
