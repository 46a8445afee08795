"""Count objects that are smaller than a Sentinel-2 pixel, over countries and years.

The flow, from the sky to a table::

    region = resolve_region("philippines/palawan")                       # where, and the units to count in
    cube = open_cube(region, 2023, source="earth-search")                # lazy (time, band, y, x) reflectance, valid
    model = load_model("demo-s2")                                        # a network and its card
    lazy = predict(cube, model)                                          # lazy counts of every acquisition
    job = run(Request(region="philippines/palawan", years="2018-2023"))  # the same over years, block by block, to disk
    maps = open_map(job.out)                                             # per UTM zone: count, presence, n_obs
    counts = count_by_unit(maps, region.units)                           # totals per unit, object and period
    slopes = trend(counts)                                               # what changed
    plot_counts(counts), plot_trend(slopes)                              # a picture of either

Every name is loaded when it is first used: `import subpixmap` costs nothing.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "resolve_region": "subpixmap.region",
    "region_names": "subpixmap.region",
    "open_cube": "subpixmap.scenes.cube",
    "count_map": "subpixmap.reference.countmap",
    "load_model": "subpixmap.model.checkpoint",
    "read_points": "subpixmap.reference.points",
    "make_reference": "subpixmap.reference.reference",
    "predict": "subpixmap.model.predict",
    "Request": "subpixmap.verbs.request",
    "plan": "subpixmap.verbs.run",
    "run": "subpixmap.verbs.run",
    "map_region": "subpixmap.mapping.run",
    "open_map": "subpixmap.mapping.store",
    "count_by_unit": "subpixmap.counts.source",
    "trend": "subpixmap.trends.unit_trends",
    "plot_counts": "subpixmap.report.plots",
    "plot_trend": "subpixmap.report.plots",
    "write_report": "subpixmap.report.page",
    "learn": "subpixmap.verbs.teach",
    "evaluate": "subpixmap.verbs.teach",
    "simulate_country": "subpixmap.simulate",
    "demo_country": "subpixmap.simulate.demo",
}
__all__ = list(_PUBLIC)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'subpixmap' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
