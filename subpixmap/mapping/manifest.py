"""manifest.json: hashes of all files outside the ledger, and the inputs of every table and of the report.

In: a run folder. Out: the manifest, written last by each verb. A verb updates only the hashes of its own files, so
changes by others stay visible. Before writing, it lists these files in the manifest, so that an interruption leaves
unfinished files, not damaged ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from subpixmap import runpaths
from subpixmap.errors import VerificationFailed
from subpixmap.files import file_sha256, files_under, read_many, write_atomic
from subpixmap.mapping.metadata import metadata_files
from subpixmap.mapping.owner import require_held
from subpixmap.mapping.plan import read_plan

MADE_FROM: Mapping[str, tuple[str, ...]] = {
    runpaths.COUNTS_PARQUET: (runpaths.LEDGER, runpaths.UNITS),
    runpaths.TREND_PARQUET: (runpaths.COUNTS_PARQUET, runpaths.SERIES_PARQUET),
    runpaths.REPORT: (
        runpaths.COUNTS_PARQUET,
        runpaths.SERIES_PARQUET,
        runpaths.ACCOUNTS,
        runpaths.TREND_PARQUET,
        runpaths.UNITS,
    ),
}
"""What is made -> what it is made of."""
_VERB = {runpaths.COUNTS_PARQUET: "count", runpaths.TREND_PARQUET: "trend", runpaths.REPORT: "report"}
MAPPING = (runpaths.PLAN, runpaths.MAP, runpaths.LEDGER)
"""What `map` writes."""
_REMEDIES = {
    runpaths.ITEMS: "the list of items cannot be made again: restore it from another copy of the folder",
    runpaths.UNITS: "count with the units again (subpixmap count {out} --admin FILE)",
    runpaths.TREND_PARQUET: "write it again (subpixmap trend {out})",
    runpaths.CHANGES_CSV: "write it again (subpixmap trend {out})",
    runpaths.ESTIMATES_CSV: "write it again (subpixmap estimate {out})",
    runpaths.SAMPLE: "import the labels again (subpixmap sample import {out} FILE), or remove {out}/sample",
    runpaths.MAP: "subpixmap verify {out} --repair",
}
_COUNT_AGAIN = "write it again (subpixmap count {out}, then trend)"


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    run_id: str
    model: Mapping[str, str]
    """`name` and `sha256`."""
    files: Mapping[str, str]
    """File of the run, relative to its folder -> hash."""
    ledger: str
    """Hash of all records."""
    made_from: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    """Table or page -> hashes of what it was made of; None where that was not there."""
    writing: tuple[str, ...] = ()
    """What a verb is writing, or was when it was interrupted: MAP is its metadata, LEDGER the records."""

    def now(self, name: str) -> str | None:
        """Hash of a file or of the ledger in this manifest; None if not listed."""
        return self.ledger if name == runpaths.LEDGER else self.files.get(name)

    def stale(self) -> dict[str, str]:
        """Tables or report that are out of date -> reason and remedy."""
        reasons = {}
        for name in MADE_FROM:  # in the order of work, because a product of stale input is stale too
            sources = self.made_from.get(name, {})
            changed = [source for source, digest in sources.items() if self.now(source) != digest]
            changed += [source for source in sources if source in reasons and source not in changed]
            if name in self.files and changed and not self.writing:
                inputs = ["the map" if one == runpaths.LEDGER else one for one in changed]
                made = f"{', '.join(inputs)} {'has' if len(inputs) == 1 else 'have'} changed"
                reasons[name] = f"is out of date, because {made}: run `subpixmap {_VERB[name]}` to update it"
        return reasons

    def stale_remarks(self) -> list[str]:
        """The same as lines for the console."""
        return [f"{name} {why}" for name, why in self.stale().items()]

    def to_json(self) -> str:
        """The text, with a hash of its content; empty fields are left out."""
        raw = {
            key: value for key, value in vars(self).items() if value or key in ("run_id", "model", "files", "ledger")
        }
        canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        return json.dumps(raw | {"sha256": digest}, sort_keys=True, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse a manifest; ValueError if a single character was changed."""
        content = json.loads(text)
        if not isinstance(content, dict) or not {"run_id", "model", "files", "ledger"} <= content.keys():
            raise ValueError("it is no manifest")
        raw = {key: value for key, value in content.items() if key != "sha256"}
        parsed = cls(**raw | {"writing": tuple(raw.get("writing", ()))})
        if parsed.to_json() != text:
            raise ValueError("its hash does not match its content")
        return parsed


def read_manifest(out: Path) -> Manifest | None:
    """The manifest of a run folder; None if not yet written.

    Raises
    ------
    VerificationFailed
        It is damaged.
    """
    path = out / runpaths.MANIFEST
    if not path.is_file():
        return None
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise VerificationFailed(f"{path} is damaged ({error}): run `subpixmap verify {out} --repair`") from error


def announce(out: Path, names: Collection[str]) -> None:
    """List in the manifest the files to be written; does nothing without a manifest.

    Raises
    ------
    FolderLost
        Another run has taken over the folder, so writing is forbidden.
    """
    require_held(out)
    there = _before(out)
    if there is not None and not set(names) <= set(there.writing):
        writing = tuple(sorted({*there.writing, *names}))
        write_atomic(out / runpaths.MANIFEST, Manifest(**vars(there) | {"writing": writing}).to_json().encode())


def write_manifest(out: Path, names: Collection[str] | None = None, *, still_fit: Collection[str] = ()) -> Manifest:
    """Write OUT/manifest.json; any later change to a listed file counts as damage.

    Parameters
    ----------
    out
        The run's folder.
    names
        Files that were written and get new hashes, as do announced and unlisted files; LEDGER means all records, MAP
        the metadata of the map. Default: all files.
    still_fit
        Tables that are still up to date although their inputs were written; their hashes are kept.

    Raises
    ------
    FolderLost
        Another run has taken over the folder.
    """
    require_held(out)
    plan, before = read_plan(out), _before(out)
    kept: dict[str, str] = {}
    written = set(MADE_FROM) if names is None else set(names)
    if before is not None and names is not None:
        written |= set(before.writing)
        kept = {name: digest for name, digest in before.files.items() if is_own(name) and _group(name) not in written}
    new = Manifest(
        run_id=plan.run_id,
        model={"name": plan.model.name, "sha256": plan.model.sha256},
        files={name: kept.get(name) or file_sha256(path) for name, path in own_files(out)} | kept,
        ledger=before.ledger if before and names is not None and runpaths.LEDGER not in written else ledger_sha256(out),
    )
    made = {name: _sources(name, new, before, {*written, *still_fit}) for name in MADE_FROM if name in new.files}
    new = Manifest(**vars(new) | {"made_from": made})
    write_atomic(out / runpaths.MANIFEST, new.to_json().encode())
    return new


def _sources(name: str, new: Manifest, before: Manifest | None, written: Collection[str]) -> dict[str, str | None]:
    """Hashes of the inputs of a table or the report: present ones if it was just written, else the former ones."""
    if name in written:
        return {source: new.now(source) for source in MADE_FROM[name]}
    if before is None:  # its inputs are unknown
        return dict.fromkeys(MADE_FROM[name])
    # Manifests of earlier versions lack this: there, all listed files were made together.
    return dict(before.made_from.get(name) or {source: before.now(source) for source in MADE_FROM[name]})


def own_files(out: Path) -> Iterator[tuple[str, Path]]:
    """Files of the run to list in the manifest, with their names; files added by a user are left out."""
    for name in runpaths.LISTED:
        if (out / name).is_file():
            yield name, out / name
    for path in [*files_under(out / runpaths.SAMPLE), *metadata_files(out)]:
        yield path.relative_to(out).as_posix(), path


def is_own(name: str) -> bool:
    """Whether a file that an earlier version listed is one of the run."""
    return _group(name) in (*runpaths.LISTED, runpaths.SAMPLE, runpaths.MAP)


def require_unchanged(out: Path, names: Collection[str]) -> None:
    """Refuse input files that were changed since the manifest was written.

    Parameters
    ----------
    out
        The run's folder.
    names
        Files of the run; MAP is its metadata. Missing, unlisted and unfinished files are ignored.

    Raises
    ------
    VerificationFailed
        A file differs from its hash in the manifest.
    """
    there = _before(out)
    if there is None:
        return
    for name, digest in there.files.items():
        group, path = _group(name), out / name
        asked = name in names or (group == runpaths.MAP and group in names)
        if not asked or group in there.writing or not path.is_file():
            continue
        if file_sha256(path) != digest:
            remedy = _REMEDIES.get(group, _COUNT_AGAIN).format(out=out)
            raise VerificationFailed(
                f"{path} is damaged (its hash differs from the one in {runpaths.MANIFEST}): {remedy}"
            )


def ledger_sha256(out: Path) -> str:
    """Hash of all records, whole or damaged."""
    digest = hashlib.sha256()
    for path, data in read_many(sorted((out / runpaths.LEDGER).glob("*.json"))):
        if isinstance(data, Exception):
            raise data
        digest.update(f"{path.name} {hashlib.sha256(data).hexdigest()}\n".encode())
    return digest.hexdigest()


def _before(out: Path) -> Manifest | None:
    """The present manifest; an empty one if damaged."""
    try:
        return read_manifest(out)
    except VerificationFailed:
        return None


def _group(name: str) -> str:
    """The file, or the folder of the run that it is in."""
    return name.partition("/")[0]


def compare_files(out: Path, manifest: Manifest) -> dict[str, str]:
    """Files that differ from the manifest -> what is wrong; without files being written."""
    now = dict(own_files(out))
    listed = {name: digest for name, digest in manifest.files.items() if is_own(name)}
    skipped = set(manifest.writing)
    wrong = {}
    for name, digest in sorted(listed.items()):
        if _group(name) in skipped:
            continue
        if name not in now:
            wrong[name] = "is missing"
        elif file_sha256(now[name]) != digest:
            wrong[name] = "differs from its hash in the manifest"
    if runpaths.LEDGER not in skipped and manifest.ledger != ledger_sha256(out):
        wrong[runpaths.LEDGER] = "ledger records were removed, added or changed since the manifest was written"
    return wrong
