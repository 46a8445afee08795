"""The commands that look: at a run folder, at checkpoints, at regions. Parse and call; nothing heavy at the top."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from subpixmap.cli import options
from subpixmap.cli.options import refuse_given


def status(out: options.Folder, verbose: options.Verbose = False) -> None:
    """Show how far a run is.

    Blocks done by period, what failed and why, rate and time left.
    """
    from subpixmap.verbs import look as verbs

    verbs.status(out)


def verify(
    context: typer.Context,
    out: options.Folder,
    repair: Annotated[bool, Option("--repair", help="make damaged blocks, tables and page again")] = False,
    model: options.RunModel = None,
    workers: options.Workers = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Hash all files of a run again, and say what has changed.

    Map, ledger, lock, plan and tables; the exit code is 5 if anything has changed.
    """
    from subpixmap.verbs import look as verbs

    if not repair:
        refuse_given(context, "model", "workers", because="only --repair maps blocks; add --repair, or leave this out")
    verbs.verify(out, repair=repair, model=model, workers=workers, quiet=quiet)


def models(
    names: Annotated[list[str] | None, typer.Argument(help="checkpoints to show  [default: the shipped ones]")] = None,
    verbose: options.Verbose = False,
) -> None:
    """List checkpoints with their objects, evidence and errors.

    Also their bands, training and limits.
    """
    from subpixmap.verbs import look as verbs

    verbs.models(names or ())


def regions(
    country: Annotated[str | None, typer.Argument(help="list this country's units")] = None,
    verbose: options.Verbose = False,
) -> None:
    """List what --region knows: countries, or units of one.

    Each with its code; of units that share a name, the code is what --region takes.
    """
    from subpixmap.verbs import look as verbs

    verbs.regions(country)


def doctor(
    out: Annotated[Path, Option(help="folder where runs will be written, or s3://bucket/folder")] = Path("."),
    source: options.SourceOrDefault = None,
    device: Annotated[str, Option(help="cpu, cuda or auto")] = "auto",
    as_json: Annotated[bool, Option("--json", help="one JSON array instead of lines")] = False,
    verbose: options.Verbose = False,
) -> None:
    """Try all that a run needs here, and say what to do.

    The exit code is 0 if all is well, 3 if something is to do.
    """
    from subpixmap.verbs import doctor as verbs

    verbs.doctor(out=out, source=source or (), device=device, as_json=as_json)
