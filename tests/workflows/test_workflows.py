"""The recipes of workflows/: what they would start, without starting it."""

import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from subpixmap.cli import main as cli
from subpixmap.model.checkpoint import Model
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
    try:
        import dask_jobqueue  # noqa: F401
    except ImportError:
        done = subprocess.run([*script, "--dry-run", "--", "run"], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2
        assert "dask-jobqueue" in done.stderr
    else:
        done = subprocess.run(
            [*script, "--dry-run", "--cores", "3", "--", "run"], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0
        assert "#SBATCH --cpus-per-task=3" in done.stderr


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
    known = CliRunner().invoke(cli.app, ["run", "--help"]).output
    assert all(word in known for word in command if word.startswith("--")), shlex.join(command)


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
