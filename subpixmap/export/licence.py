"""The licences of exported data, and how to cite them."""

from __future__ import annotations

from pathlib import Path

from subpixmap.files import make_folder, write_atomic
from subpixmap.mapping.schema import REFERENCES, imagery_licence
from subpixmap.runfolder import RunFolder
from subpixmap.scenes.hrefs import for_readers

NAME = "LICENCE-AND-CITATION.txt"


def write_licence(run: RunFolder, folder: Path) -> Path:
    """Write LICENCE-AND-CITATION.txt beside exported files; returns its path."""
    make_folder(folder)
    path = folder / NAME
    write_atomic(path, licence_text(run).encode("utf-8"))
    return path


def licence_text(run: RunFolder) -> str:
    """The licences of the inputs, and a sentence for citation."""
    plan, units = run.plan, run.units
    sources = ", ".join(map(for_readers, plan.sources))
    imagery = f"Imagery: {imagery_licence(plan)}. Sources: {sources}."
    version = plan.versions.get("subpixmap", "unknown")
    worth = {
        "simulated": " The model was trained on simulated data only: on real imagery the numbers are not estimates.",
        "degraded-aerial": " The model has not been validated on Sentinel-2.",
    }.get(plan.model.evidence, "")
    boundaries = for_readers(units.boundary_source or "source not stated")
    lines = [
        imagery,
        f"Units: {boundaries}, version {units.boundary_version or 'not stated'}; "
        "their own licence holds for the polygons.",
        f"Model: {plan.model.name}, sha256 {plan.model.sha256}.{worth}",
        "Software: subpixmap, Apache License 2.0.",
        "",
        f'Cite as: "Counts of {", ".join(plan.objects)} in {plan.region_name}, {plan.periods[0].label} to '
        f'{plan.periods[-1].label}, subpixmap {version}, model {plan.model.name}, run {plan.run_id}." Method: '
        f"{REFERENCES}.",
    ]
    return "\n".join(lines) + "\n"
