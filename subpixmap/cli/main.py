"""The command line: parses options, calls the verbs, turns errors into one line and an exit code.

Heavy packages are not imported here, so that `subpixmap --help` takes a fraction of a second.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated

import typer

from subpixmap.cli import detect, interrupt, look, run, sample, teach
from subpixmap.cli.options import Command, Session, in_groups
from subpixmap.errors import SubpixmapError, in_one_line

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
app = typer.Typer(
    name="subpixmap",
    help="Count objects that are smaller than a satellite pixel, over countries and years, from Sentinel-2.",
    epilog="Start here: subpixmap run --region demo --years 2018-2023",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
)

EXAMPLES: dict[Callable[..., None], str] = {
    run.run: "run --region philippines/palawan --years 2018-2023 --out runs/palawan",
    run.plan: "plan --region philippines --years 2018-2023",
    run.map_: "map runs/philippines --workers 4",
    run.count: "count runs/philippines --admin units.parquet --id-column PSGC",
    run.trend: "trend runs/philippines",
    run.report: "report runs/philippines",
    sample.design: "sample design runs/philippines --n 300",
    sample.import_: "sample import runs/philippines labelled.gpkg",
    sample.estimate: "estimate runs/philippines",
    sample.calibrate: "calibrate demo-s2-v2 --sample runs/philippines -o mine.safetensors",
    sample.suggest: "suggest runs/philippines --n 20 -o areas.gpkg",
    run.export: "export runs/philippines --format cog",
    look.status: "status runs/philippines",
    look.verify: "verify runs/philippines --repair",
    run.simulate: "simulate country --seed 7 --size-km 6 --years 2018-2023",
    detect.train: "detect-train highres/ labels.gpkg --labelled areas.geojson -o detector.safetensors",
    detect.detect: "detect region/ --model detector.safetensors -o points.parquet",
    detect.evaluate: "detect-evaluate points.parquet review.gpkg -o metrics.json",
    detect.review: "detect-review points.parquet --images region/ -o review.gpkg",
    teach.reference: "reference palms.gpkg --labelled areas.geojson --image-date 2021-03 -o ref",
    teach.train: "train --reference ref --source earth-search -o palms.safetensors",
    teach.evaluate: "evaluate demo-s2-v2 --simulated 4000 --world shifted -o metrics.json",
    teach.learn: "learn palms.gpkg --labelled areas.geojson --image-date 2021-03 --source earth-search "
    "-o palms.safetensors",
    look.models: "models",
    look.regions: "regions philippines",
    look.doctor: "doctor --out runs",
}
"""Every command, in the order of --help, with an example that begins with its name."""

_samples = typer.Typer(
    help="Draw a probability sample of cells and import its labels.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=_SETTINGS,
)
for _command, _example in EXAMPLES.items():
    _group, _words = app, _example.split()
    if _words[0] == "sample":
        _group, _words = _samples, _words[1:]
    _group.command(_words[0], epilog=f"Example: subpixmap {_example}", cls=Command)(in_groups(_command))
app.add_typer(_samples, name="sample")


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"subpixmap {version('subpixmap')}")
        raise typer.Exit()


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    pass  # the help text is given to typer.Typer above


def _tell(text: str) -> None:
    """Print a line or a traceback to stderr, without passwords and tokens in URLs."""
    from subpixmap.scenes.hrefs import redact_urls, without_secrets

    shown = redact_urls(text)
    print(without_secrets(shown) if "Traceback" in shown else shown, file=sys.stderr)


_NOT_THE_PLACE = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
"""Errors that rerunning the command cannot fix."""


def _in_words(error: OSError) -> str:
    """The message of the system with its file, without the error number."""
    if error.strerror is None:
        return f"{str(error) or repr(error)}; fix this, then rerun the same command to resume"
    again = "give another path" if error.errno in _NOT_THE_PLACE else "fix this, then rerun the same command to resume"
    return f"{in_one_line(error)}; {again}"


def main() -> None:
    """Entry point of the `subpixmap` command."""
    session = Session()
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: the next opened file would get its number and receive our messages
            setattr(sys, name, open(os.devnull, mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a character that the terminal cannot show must not raise
    try:
        with interrupt.signals_end_the_run():
            app(obj=session)
    except SubpixmapError as error:
        if session.verbose:
            _tell(traceback.format_exc())
        _tell(f"subpixmap: {error}")
        sys.exit(error.exit_code)
    except OSError as error:  # full disk, unreachable object store, folder instead of a file
        if session.verbose:
            _tell(traceback.format_exc())
        _tell(f"subpixmap: {_in_words(error)}")
        sys.exit(2 if error.errno in _NOT_THE_PLACE else 3)
    except interrupt.Interrupted as end:
        interrupt.tell(str(end))
        sys.exit(interrupt.EXIT_CODE)


if __name__ == "__main__":
    main()
