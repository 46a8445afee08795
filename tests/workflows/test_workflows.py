"""The recipes of workflows/: what they would start, without starting it."""

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import Model
from tests.helpers.commands import require_known
from tests.helpers.mapping_data import tiny_model

WORKFLOWS = Path(__file__).parents[2] / "workflows"
sys.path.insert(0, str(WORKFLOWS))

import certificates  # noqa: E402
import mapped_trends  # noqa: E402
import simulated_worlds  # noqa: E402


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.py")), ids=lambda path: path.name)
def test_scripts_compile(path: Any) -> None:
    compile(path.read_text(encoding="utf-8"), path, "exec")


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_parse(path: Any) -> None:
    subprocess.run(["bash", "-n", path], check=True)


SCRIPTS: dict[str, tuple[dict[str, str], list[str], int]] = {
    "philippines.sh plan": ({}, ["plan"], 2),
    "philippines.sh": ({"MODEL": "m.safetensors", "SCHEDULER": "tcp://here:8786"}, [], 3),
    "philippines.sh country": ({"ADMIN": "units.gpkg", "ID_COLUMN": "PSGC"}, ["country"], 3),
    "philippines.sh recount": ({"ADMIN": "units.gpkg", "ID_COLUMN": "PSGC"}, ["recount"], 3),
    "own_region.sh": ({"REGION": "a b.gpkg", "ADMIN": "u.gpkg", "MODEL": "m.safetensors"}, [], 6),
    "own_region.sh sample": ({"REGION": "1,2,3,4"}, ["sample"], 1),
    "monthly_update.sh": ({"REGION": "1,2,3,4", "OUT": "out", "TODAY": "2026-02-08", "FIRST_YEAR": "2025"}, [], 2),
    "teach_your_own.sh": ({"POINTS": "p", "LABELLED": "a", "DATE": "2021", "REGION": "1,2,3,4", "FAST": "1"}, [], 4),
    "teach_your_own.sh learn": ({"POINTS": "p", "LABELLED": "a", "DATE": "2021", "OBJECT": "palm"}, ["learn"], 2),
    "gpus.sh here": ({}, ["here", "run", "--region", "a b", "--years", "2020"], 1),
    "gpus.sh hosts": ({"HOSTS": "one two"}, ["hosts", "run", "--region", "demo", "--years", "2020"], 1),
}
"""Script -> environment, arguments after --dry-run, and how many commands of ours it runs."""


def dry_run(name: str, settings: dict[str, str], arguments: list[str], where: Path) -> list[list[str]]:
    """The command lines that a script would run."""
    done = subprocess.run(
        ["bash", WORKFLOWS / name, "--dry-run", *arguments],
        env={"PATH": "/usr/bin:/bin"} | settings,
        cwd=where,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not list(where.iterdir())
    return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("case", SCRIPTS)
def test_every_command_of_a_script_is_one_that_exists(case: str, tmp_path: Path) -> None:
    settings, arguments, number = SCRIPTS[case]
    lines = dry_run(case.split()[0], settings, arguments, tmp_path)
    ours = [line[1:] for line in lines if line[0] == "subpixmap"]
    ours += [line[3:] for line in lines if line[1:3] == ["-m", "subpixmap"]]
    assert len(ours) == number
    for words in ours:
        require_known(words)
    typed = " ".join(word for words in ours for word in words)
    assert all(value in typed for name, value in settings.items() if name in ("ADMIN", "MODEL", "OBJECT"))


def test_a_command_that_does_not_exist_is_found() -> None:
    require_known(["run", "--region", "1,2,3,4", "--years", "2020"])
    for wrong in (["run", "--region", "1,2,3,4"], ["plan", "--no-such-option", "1"]):
        with pytest.raises(Exception, match=r"Missing|No such option"):
            require_known(wrong)
    with pytest.raises(InputError, match="2018-2023"):
        require_known(["run", "--region", "1,2,3,4", "--years", "2023-2018"])
    with pytest.raises(AssertionError):
        require_known(["fly"])


def test_a_monthly_update_asks_again_for_the_months_before(tmp_path: Path) -> None:
    settings = {"REGION": "1,2,3,4", "OUT": "out"}

    def refreshed(today: str, first: str) -> list[str]:
        run, _ = dry_run("monthly_update.sh", settings | {"TODAY": today, "FIRST_YEAR": first}, [], tmp_path)
        return [run[at + 1] for at, word in enumerate(run) if word == "--refresh"]

    assert refreshed("2026-02-08", "2024") == ["2026-01", "2025-12"]
    assert refreshed("2026-10-08", "2026") == ["2026-09", "2026-08"]
    assert refreshed("2026-01-08", "2026") == []  # December belongs to a year that is not asked for


def test_workflows_that_docs_and_scripts_name_exist() -> None:
    root = WORKFLOWS.parent
    pages = [root / "README.md", *root.glob("docs/*.md"), *WORKFLOWS.glob("*.sh"), *WORKFLOWS.glob("*.py")]
    named = {name for page in pages for name in re.findall(r"workflows/([\w]+\.(?:sh|py|yaml))", page.read_text())}
    assert len(named) > 5
    assert not {name for name in named if not (WORKFLOWS / name).is_file()}


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Any) -> None:
    subprocess.run(["shellcheck", "--severity=warning", path], check=True)


def test_gpus_give_each_command_its_options() -> None:
    command: list[Any] = ["bash", WORKFLOWS / "gpus.sh", "here", "run", "--region", "a b"]
    done = subprocess.run(command, env={"PYTHON": "echo", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.stdout.strip() == "-m subpixmap run --region a b --device cuda --block 4096"
    usage = subprocess.run(["bash", WORKFLOWS / "gpus.sh"], capture_output=True, text=True)
    assert usage.returncode == 2
    assert "gpus.sh" in usage.stderr


def test_slurm_tells_what_is_missing(tmp_path: Path) -> None:
    script: list[Any] = [sys.executable, WORKFLOWS / "slurm.py"]
    done = subprocess.run([*script, "--dry-run"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "subpixmap" in done.stderr


def test_slurm_shows_its_jobs_and_its_command(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    command: list[Any] = [
        sys.executable,
        WORKFLOWS / "slurm.py",
        "--dry-run",
        "--cores",
        "3",
        "--gpus",
        "2",
        "--",
        "run",
    ]
    command += ["--region", "a b.gpkg", "--years", "2020", "--yes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --cpus-per-task=3" in done.stderr
    (line,) = done.stdout.splitlines()
    words = shlex.split(line)
    assert words[0] == "subpixmap"
    assert words[words.index("--scheduler") + 1].startswith("tls://")
    require_known(words[1:])


def test_the_parts_on_kubernetes_know_each_other() -> None:
    parts = {
        (one["kind"], one["metadata"]["name"]): one
        for one in yaml.safe_load_all((WORKFLOWS / "kubernetes.yaml").read_text())
    }
    claim, service = "subpixmap-runs", parts["Service", "subpixmap-scheduler"]
    assert ("PersistentVolumeClaim", claim) in parts
    scheduler = parts["Deployment", "subpixmap-scheduler"]["spec"]
    worker = parts["Deployment", "subpixmap-worker"]["spec"]
    driver = parts["Job", "subpixmap"]["spec"]
    for deployment in (scheduler, worker):
        assert deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == scheduler["selector"]["matchLabels"]
    port = next(p["port"] for p in service["spec"]["ports"] if p["name"] == "scheduler")
    address = f"tls://{service['metadata']['name']}:{port}"
    containers = [one["template"]["spec"]["containers"][0] for one in (scheduler, worker, driver)]
    assert str(port) in containers[0]["command"]
    assert address in containers[1]["command"]
    assert address in containers[2]["args"]
    assert len({one["image"] for one in containers}) == 1
    keys = parts["ConfigMap", "subpixmap-tls"]["data"]
    assert keys == certificates.environment(Path("/tls/dask.crt"), Path("/tls/dask.key"))
    for one, container in zip((scheduler, worker, driver), containers, strict=True):
        assert container["envFrom"] == [{"configMapRef": {"name": "subpixmap-tls"}}]
        assert {"name": "tls", "mountPath": "/tls", "readOnly": True} in container["volumeMounts"]
        assert {"name": "tls", "secret": {"secretName": "subpixmap-tls"}} in one["template"]["spec"]["volumes"]
    for one in (worker, driver):
        spec = one["template"]["spec"]
        assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
        mounted = spec["containers"][0]["volumeMounts"][0]
        assert (mounted["name"], mounted["mountPath"]) == (spec["volumes"][0]["name"], "/runs")
    command = [*containers[2]["command"], *containers[2]["args"]]
    assert command[0] == "subpixmap"
    require_known(command[1:])


def test_kubernetes_takes_every_part_as_it_is() -> None:
    """The fields that the API server asks for, and no name that it refuses."""
    parts = list(yaml.safe_load_all((WORKFLOWS / "kubernetes.yaml").read_text()))
    for part in parts:
        assert set(part) <= {"apiVersion", "kind", "metadata", "spec", "data"}, part["kind"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", part["metadata"]["name"])
        versions = {"Deployment": "apps/v1", "Job": "batch/v1"}
        assert part["apiVersion"] == versions.get(part["kind"], "v1")
        for container in part.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
            assert {"name", "image", "command"} <= set(container)
            assert all(isinstance(word, str) for word in [*container["command"], *container.get("args", ())])
            assert all(re.fullmatch(r"\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?", str(amount))
                       for amounts in container.get("resources", {}).values()
                       for amount in amounts.values())  # fmt: skip
            volumes = {one["name"] for one in part["spec"]["template"]["spec"].get("volumes", ())}
            assert {one["name"] for one in container.get("volumeMounts", ())} <= volumes


def test_worlds_are_compared_with_their_truth(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text(
        "unit_id,object,period,count\nC,coconut,2020,10000\nC.1,coconut,2020,9000\nC.2,coconut,2020,1000\n"
    )
    (tmp_path / "truth_scene.csv").write_text(
        "unit_id,object,acquisition,datetime,count\nC,car,1,2020-02-01T02:00:00Z,100\nC,car,2,2020-08-01T02:00:00Z,300\n"
    )
    counts = pd.DataFrame(
        [("C", "", "coconut", 10500.0), ("C.1", "C", "coconut", 8000.0), ("C.2", "C", "coconut", 2500.0),
         ("C", "", "car", 190.0)],
        columns=["unit_id", "parent_id", "object", "map_total_full"],
    ).assign(period="2020")  # fmt: skip
    found = simulated_worlds.compare(counts, simulated_worlds.true_counts(tmp_path))
    coconut = {"truth": {"2020": 10000}, "country": {"2020": 5.0}, "units": 1, "units_within_10": 0}
    assert found["coconut"] == coconut | {"units_worst": -11.11}
    assert found["car"]["country"] == {"2020": -5.0}
    assert "+5.0" in simulated_worlds.as_table({"base 7": found})
    (tmp_path / "truth_scene.csv").write_text("unit_id,object,acquisition,datetime,count\n")  # a country without cars
    assert simulated_worlds.compare(counts, simulated_worlds.true_counts(tmp_path)) == {"coconut": found["coconut"]}


def test_another_calibration_of_totals_is_that_of_pixels() -> None:
    plain = tiny_model()
    old, new = (
        Model.of(plain.net, dataclasses.replace(plain.card, calibration={"coconut": coconut, "car": car}))
        for coconut, car in (((0.01, 1.1), (0.0, 0.9)), ((0.03, 1.4), (-0.002, 1.0)))
    )
    raw = np.random.default_rng(0).normal(0.2, 0.3, (2, 600))  # object, pixel: 6 ha
    before, after = (
        [((raw[i] - b) * s).sum() for i, (b, s) in enumerate(model.card.calibration.values())] for model in (old, new)
    )
    counts = pd.DataFrame({"object": ["coconut", "car"], "area_ha": 6.0, "map_total_full": before})
    found = simulated_worlds.with_calibration(counts, old, new)["map_total_full"]
    np.testing.assert_allclose(found, after, rtol=1e-12)


def test_directions_are_scored_by_hand() -> None:
    rows = [
        ("a", "fall", 4000, 2000, "2019", "2019", 0.9),  # right, and dated
        ("b", "rise", 4000, 2000, "2018", "2019", 0.9),  # wrong
        ("c", "unclear", 1000, 2000, "2018", "2018", 1.0),  # missed
        ("d", "rise", 1000, 1010, "2018", "2018", 1.0),  # a change of 1 % that is told
        ("e", "steady", 1000, 1100, "2018", "2018", 1.0),  # no: 10 %
        ("f", "fall", 100, 50, "2018", "2018", 1.0),  # too small to be asked for
        ("REGION", "fall", 11100, 8160, "2018", "2018", 1.0),
    ]
    names = ["unit_id", "direction", "first", "last", "step_from", "largest", "share"]
    table = pd.DataFrame(rows, columns=names)
    assert list(mapped_trends.score(table.assign(true_change=table["last"] - table["first"])).values()) == [
        (1, 3), (1, 3), (1, 4), (1, 1), (1, 1), (1, 1), (1, 1),
    ]  # fmt: skip
