"""Count objects that are smaller than a Sentinel-2 pixel, over countries and years.

The flow, from the sky to a table::

    region = resolve_region("philippines/palawan")                       # where, and the units to count in
    cube = open_cube(region, 2023, source="earth-search")                # lazy (time, band, y, x) reflectance, valid
    model = load_model("demo-s2-v2")                                     # a network and its card
    lazy = predict(cube, model)                                          # lazy counts of every acquisition
    job = run(Request(region="philippines/palawan", years="2018-2023"))  # the same over years, block by block, to disk
    maps = open_map(job.out)                                             # per UTM zone: count, presence, n_obs
    counts = count_by_unit(maps, region.units)                           # totals per unit, object and period
    slopes = trend(counts)                                               # what changed
    design_sample(job.out, Wish(n=300))                                  # which cells people should count
    import_labels(job.out, "labelled.gpkg"), estimate(job.out)           # totals with intervals
    plot_counts(counts), plot_trend(slopes)                              # a picture of either

Names are imported on first use, so `import subpixmap` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# isort: off
if TYPE_CHECKING:  # for editors and type checkers; a test holds this equal to _PUBLIC
    from subpixmap.region.resolve import resolve_region as resolve_region
    from subpixmap.region.names import region_names as region_names
    from subpixmap.scenes.cube import open_cube as open_cube
    from subpixmap.reference.countmap import count_map as count_map
    from subpixmap.model.checkpoint import load_model as load_model
    from subpixmap.reference.points import read_points as read_points
    from subpixmap.reference.reference import make_reference as make_reference
    from subpixmap.model.predict import predict as predict
    from subpixmap.verbs.request import Request as Request
    from subpixmap.verbs.run import plan as plan
    from subpixmap.verbs.run import run as run
    from subpixmap.mapping.run import map_region as map_region
    from subpixmap.mapping.store import open_map as open_map
    from subpixmap.counts.count import count_by_unit as count_by_unit
    from subpixmap.trends.unit_trends import trend as trend
    from subpixmap.verbs.sample import design_sample as design_sample
    from subpixmap.verbs.sample import import_labels as import_labels
    from subpixmap.verbs.sample import estimate as estimate
    from subpixmap.estimation.design import Wish as Wish
    from subpixmap.verbs.calibrate import calibrate as calibrate
    from subpixmap.verbs.suggest import suggest as suggest
    from subpixmap.report.plots import plot_counts as plot_counts
    from subpixmap.report.plots import plot_trend as plot_trend
    from subpixmap.report.page import write_report as write_report
    from subpixmap.verbs.teach import learn as learn
    from subpixmap.verbs.teach import evaluate as evaluate
    from subpixmap.simulate import simulate_country as simulate_country
    from subpixmap.simulate.demo import demo_country as demo_country
# isort: on

__version__ = "0.1.0"

_PUBLIC = {
    "resolve_region": "subpixmap.region.resolve",
    "region_names": "subpixmap.region.names",
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
    "count_by_unit": "subpixmap.counts.count",
    "trend": "subpixmap.trends.unit_trends",
    "design_sample": "subpixmap.verbs.sample",
    "import_labels": "subpixmap.verbs.sample",
    "estimate": "subpixmap.verbs.sample",
    "Wish": "subpixmap.estimation.design",
    "calibrate": "subpixmap.verbs.calibrate",
    "suggest": "subpixmap.verbs.suggest",
    "plot_counts": "subpixmap.report.plots",
    "plot_trend": "subpixmap.report.plots",
    "write_report": "subpixmap.report.page",
    "learn": "subpixmap.verbs.teach",
    "evaluate": "subpixmap.verbs.teach",
    "simulate_country": "subpixmap.simulate",
    "demo_country": "subpixmap.simulate.demo",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'subpixmap' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
