import contextlib
import csv
import dataclasses
import functools
import inspect
import io
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subpixmap.errors import InputError
from subpixmap.model.checkpoint import load_model, save_model
from subpixmap.model.net import Averaged, StridedNet
from subpixmap.model.predict import predict_block
from subpixmap.training import from_simulator as simulated
from subpixmap.training import lines
from subpixmap.training import train as loop
from subpixmap.training.batches import Batch, CropOdds, draw_batch
from subpixmap.training.calibrate import calibrate, calibrate_trimmed
from subpixmap.training.config import SIMULATED, TrainConfig
from subpixmap.training.evaluate import evaluate
from subpixmap.training.from_simulator import simulated_patches, train_simulated
from subpixmap.training.inputs import input_statistics
from subpixmap.training.lines import loss_facts, undertrained
from subpixmap.training.losses import loss_terms
from subpixmap.training.process import require_machine
from subpixmap.training.state import remove_states
from subpixmap.training.train import fit, rate_factor, train
from subpixmap.verbs import teach as learning
from tests.helpers.patches import BANDS, OBJECTS, some_patches
from tests.helpers.trainings import SMALL, a_card, weights


@pytest.fixture(autouse=True)
def _all_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of progress, not one every few seconds."""
    monkeypatch.setattr(lines, "LINE_EVERY_S", 0.0)


def test_it_learns_and_calibration_makes_totals_right() -> None:
    patches, others, unseen = (some_patches(12, seed=s, size=40) for s in (0, 1, 2))
    card = a_card(patches, width=16, mid=8)
    config = dataclasses.replace(SMALL, steps=500, rate=0.01, head_rate=0.5, log_every=100, average=0.97, warmup=20)
    model = calibrate(train(patches, card, config, progress=None), others)
    errors = evaluate(model, unseen)
    for name in OBJECTS:
        assert abs(errors[name]["total"]["error_pct"]) < 8
        assert errors[name]["1 ha"]["r2"] > 0.9
        assert errors[name]["presence"]["iou"] > 0.3
    assert abs(errors["car"]["empty_land"]["mean_per_ha"]) < 0.5
    assert not model.card.trimmed
    assert calibrate_trimmed(model, others) is model  # two acquisitions have no extremes

    many, unseen = (some_patches(12, seed=s, size=40, acquisitions=8) for s in (3, 4))
    corrected = calibrate_trimmed(model, many)
    before, after = (evaluate(m, unseen)["car"]["total"]["error_pct"] for m in (model, corrected))
    assert before < -15  # cars that come and go are all extremes
    assert abs(after) < 5
    assert corrected.card.calibration == model.card.calibration
    assert calibrate(model, many).card.trimmed["car"] == pytest.approx(corrected.card.trimmed["car"], rel=0.1, abs=0.01)

    # Places of one object calibrate that one; the others stay as they are.
    whole, cars = calibrate(corrected, many), calibrate(corrected, many.select_objects(["car"]))
    for other in set(OBJECTS) - {"car"}:
        assert cars.card.calibration[other] == corrected.card.calibration[other]
        assert cars.card.trimmed[other] == corrected.card.trimmed[other]
    assert cars.card.calibration["car"] == whole.card.calibration["car"]
    assert cars.card.trimmed["car"] == whole.card.trimmed["car"]
    assert list(cars.card.training["calibrated_on"]) == ["car"]


def test_a_seed_decides_every_bit(tmp_path: Path) -> None:
    patches = some_patches()
    card = a_card(patches)
    one, two = (weights(train(patches, card, SMALL, progress=None)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    other = weights(train(patches, card, dataclasses.replace(SMALL, seed=1), progress=None))
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_training_gives_back_what_it_sets_in_the_process(interrupted: bool) -> None:
    def settings() -> tuple[int, bool, list[int]]:
        return torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.get_rng_state().tolist()

    class Stop(io.StringIO):
        def write(self, text: str) -> int:
            raise KeyboardInterrupt

    before = settings()
    patches = some_patches()
    config = dataclasses.replace(SMALL, threads=before[0] + 1)
    with pytest.raises(KeyboardInterrupt) if interrupted else contextlib.nullcontext():
        train(patches, a_card(patches), config, progress=Stop() if interrupted else None)
    assert settings() == before


@pytest.mark.parametrize(("muon_rate", "frozen"), [(SMALL.muon_rate, 0), (0.0, 0), (SMALL.muon_rate, 2)])
def test_resume_ends_as_if_never_stopped(muon_rate: float, frozen: int, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, muon_rate=muon_rate, steps=SMALL.steps - frozen, frozen_steps=frozen)
    patches, state = some_patches(), tmp_path / "state.pt"
    card = a_card(patches)
    whole = weights(train(patches, card, config, progress=None))

    class Stop(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("step 4"):
                raise KeyboardInterrupt
            return len(text)

    with pytest.raises(KeyboardInterrupt):
        train(patches, card, config, state=state, progress=Stop())
    log = io.StringIO()
    resumed = weights(train(patches, card, config, state=state, progress=log))
    assert "step 4/6" in log.getvalue()
    assert "step 2/6" not in log.getvalue()
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    with pytest.raises(InputError, match=r"state\.pt|1\.state"):
        train(patches, card, dataclasses.replace(config, rate=1e-3), state=state, progress=None)
    state.write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"state\.pt"):
        train(patches, card, config, state=state, progress=None)


@pytest.mark.parametrize("last", [1, 3, 5])
def test_a_training_that_is_ended_at_any_step_goes_on_there(
    last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States are saved by the clock, between the steps of `save_every` and of `log_every` too."""
    patches = some_patches()
    card = a_card(patches)
    config = dataclasses.replace(SMALL, save_every=100)
    whole = train(patches, card, config, curves=tmp_path / "whole.csv", progress=None)
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    take_step, state = loop.take_step, tmp_path / "state.pt"

    def ended(run: Any, *args: Any) -> Any:
        if run.step == last:
            raise KeyboardInterrupt
        return take_step(run, *args)

    with monkeypatch.context() as once:
        once.setattr(loop, "take_step", ended)
        with pytest.raises(KeyboardInterrupt):
            train(patches, card, config, state=state, curves=tmp_path / "c.csv", progress=None)
    log = io.StringIO()
    resumed = train(patches, card, config, state=state, curves=tmp_path / "c.csv", progress=log)
    assert log.getvalue().startswith(f"resuming after step {last} of 6\nstep {last + 1}/6")
    assert resumed.sha256 == whole.sha256  # weights and card, with the losses of all steps
    assert (tmp_path / "c.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_steps_follow_the_land_unless_they_are_given() -> None:
    assert [TrainConfig().for_land(round(km2 * 1e4)).steps for km2 in (0.1, 1, 5, 13.5, 100)] == [
        *(1500, 1500, 3906, 10500, 10500)
    ]
    assert TrainConfig(steps=70).for_land(10**6).steps == 70
    short = TrainConfig(steps=50).for_land(0)
    assert (short.steps, short.warmup) == (50, 10)
    with pytest.raises(InputError, match="steps"):
        TrainConfig(steps=-1)


def test_a_training_that_ended_too_early_is_called_so() -> None:
    rng = np.random.default_rng(0)
    still, done = np.exp(-np.arange(1000) / 400), np.exp(-np.arange(1000) / 100) + 0.3
    still, done = (values * rng.lognormal(0, 0.1, 1000) for values in (still, done))
    good, poor = {"palm": {"1 ha": {"r2": 0.6}}, "places": 3}, {"palm": {"1 ha": {"r2": 0.04}}}
    assert undertrained(loss_facts([done.tolist()]), good, 1000) == ()
    (text,) = undertrained(loss_facts([done.tolist(), still.tolist()]), good, 1000)
    assert "still falling by 2" in text  # 1 - exp(-100 / 400)
    assert "1000 steps" in text
    (text,) = undertrained(loss_facts([done.tolist()]), poor, 1000)
    assert "palm" in text
    assert "0.04" in text
    assert loss_facts([done[:30].tolist()]) == {}
    assert undertrained({}, {"palm": {"1 ha": {"r2": float("nan")}}}, 30) == ()


def test_members_are_trained_apart_and_averaged(tmp_path: Path) -> None:
    patches = some_patches()
    card = a_card(patches)
    config = dataclasses.replace(SMALL, members=2, turns=True)
    both = train(patches, card, config, state=tmp_path / "state.pt", curves=tmp_path / "c.csv", progress=None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c-1.csv", "c-2.csv", "state-1.pt", "state-2.pt"]
    remove_states(tmp_path / "state.pt", 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c-1.csv", "c-2.csv"]
    assert isinstance(both.net, Averaged)
    assert (both.card.members, both.card.turns) == (2, True)
    for k, member in enumerate(both.net.members):
        alone = train(patches, card, dataclasses.replace(SMALL, seed=k), progress=None).net.state_dict()
        assert all(torch.equal(alone[key], value) for key, value in member.state_dict().items())
    loaded = save_model(tmp_path / "both.safetensors", both.net, both.card)
    scene = np.random.default_rng(0).uniform(0, 0.4, (len(BANDS), 30, 41)).astype(np.float32)
    count = predict_block(loaded, scene)[0]
    assert np.array_equal(count, predict_block(both, scene)[0])
    assert np.allclose(predict_block(loaded, scene[:, :, ::-1].copy())[0][:, :, ::-1], count, atol=1e-5)
    assert loaded.card.flops_per_pixel == 16 * card.flops_per_pixel


def test_training_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    patches, others = some_patches(seed=0), some_patches(seed=1)
    config = dataclasses.replace(SMALL, steps=400, rate=0.05, save_every=5, patience=10, average=0.5)
    log = io.StringIO()
    stopped = weights(train(patches, a_card(patches), config, validation=others, progress=log, state=tmp_path / "s.pt"))
    lines = [line.split() for line in log.getvalue().splitlines() if "validation" in line]
    best = int(lines[-1][-1])
    losses = {int(line[1]): float(line[4].rstrip(",")) for line in lines}
    assert min(losses, key=lambda step: losses[step]) == best
    assert max(losses) == best + 10 < 400
    again = weights(train(patches, a_card(patches), config, validation=others, progress=None, state=tmp_path / "s.pt"))
    assert all(torch.equal(a, b) for a, b in zip(stopped, again, strict=True))
    with pytest.raises(InputError, match="patience"):
        train(patches, a_card(patches), config, progress=None)


def test_mixed_precision_differs_little_and_a_missing_gpu_is_named() -> None:
    patches = some_patches()
    card = a_card(patches)
    exact = weights(train(patches, card, SMALL, progress=None))
    mixed = weights(train(patches, card, dataclasses.replace(SMALL, mixed=True), progress=None))
    assert not all(torch.equal(a, b) for a, b in zip(exact, mixed, strict=True))
    assert all(a.dtype == torch.float32 and torch.allclose(a, b, atol=0.1) for a, b in zip(mixed, exact, strict=True))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device"):
            train(patches, card, dataclasses.replace(SMALL, device="cuda"), progress=None)
    with pytest.raises(InputError, match="tpu"):
        train(patches, card, dataclasses.replace(SMALL, device="tpu"), progress=None)
    with pytest.raises(InputError, match="members"):
        TrainConfig(members=0)


def test_compiled_steps_differ_little() -> None:
    patches = some_patches()
    card = a_card(patches)
    config = dataclasses.replace(SMALL, compile=True)
    try:
        require_machine(config)
    except InputError:
        pytest.skip("no compiler")
    exact = weights(train(patches, card, SMALL, progress=None))
    one, two = (weights(train(patches, card, config, progress=None)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(exact, one, strict=True))
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(exact, one, strict=True))


def test_a_missing_compiler_is_named_before_anything_is_rendered(tmp_path: Path) -> None:
    words = ("train", "--simulated", "demo-rgbn", "--compile", "-o", "m.safetensors")
    command = [sys.executable, "-m", "subpixmap", *words]
    told = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ | told, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2
    last = ended.stderr.strip().splitlines()[-1]
    assert "--compile needs a C++ compiler" in last
    assert "--no-compile" in last
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "m.safetensors").exists()


def test_another_network_trains_in_the_same_loop() -> None:
    patches = some_patches(12, size=40)
    log = io.StringIO()
    config = dataclasses.replace(SMALL, steps=60, rate=0.01, head_rate=0.5, log_every=10)
    net = fit(lambda: StridedNet(len(BANDS), len(OBJECTS), width=16, halo=patches.halo), patches, config, progress=log)
    losses = [float(line.split("loss ")[1].split()[0]) for line in log.getvalue().splitlines() if "loss " in line]
    assert losses[-1] < 0.7 * losses[0]
    assert not net.training


def test_curves(tmp_path: Path) -> None:
    patches = some_patches()
    train(patches, a_card(patches), SMALL, curves=tmp_path / "c.csv", progress=None)
    with (tmp_path / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert all(np.isfinite(float(row[key])) for row in rows for key in ("loss", "mse", "ce", "block"))


def a_batch(count: torch.Tensor, weight: torch.Tensor, importance: torch.Tensor | None = None) -> Batch:
    return Batch(torch.zeros(1), count, weight, torch.ones(len(count)) if importance is None else importance)


def test_pairs_may_begin_late(tmp_path: Path) -> None:
    patches = some_patches()
    config = dataclasses.replace(SMALL, pair_weight=5.0, pair_after=0.5)
    train(patches, a_card(patches), config, curves=tmp_path / "c.csv", progress=None, state=tmp_path / "half.state")
    with (tmp_path / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["pair"] == "" for row in rows] == [True, False, False]
    singles, late = (dataclasses.replace(config, pair_weight=w) for w in (0.0, 5.0))
    assert late.at(2) == singles
    assert late.at(3) == late
    with pytest.raises(InputError, match="pair_after"):
        dataclasses.replace(config, pair_after=1.0)


def test_frozen_steps_learn_with_the_statistics_of_prediction() -> None:
    patches = some_patches()
    config = dataclasses.replace(SMALL, frozen_steps=4)
    nets = [fit(a_card(patches).build_member, patches, c, progress=None) for c in (SMALL, config)]
    statistics = [[m.running_mean for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)] for net in nets]
    assert all(torch.equal(a, b) for a, b in zip(*statistics, strict=True))
    assert not torch.equal(nets[0].heads.weight, nets[1].heads.weight)
    rates = [rate_factor(step, config) for step in range(10)]
    assert rates[6] == pytest.approx(0.05)
    assert all(a > b > 0 for a, b in itertools.pairwise(rates[6:]))
    with pytest.raises(InputError, match="frozen_steps"):
        dataclasses.replace(config, frozen_steps=-1)


def test_unlabelled_pixels_do_not_count() -> None:
    torch.manual_seed(0)
    config = TrainConfig(block=4)
    output, scale = torch.randn(2, 2, 2, 16, 16), torch.ones(2)
    weight = torch.ones(2, 1, 16, 16)
    weight[:, :, :5] = 0
    count = torch.rand(2, 2, 16, 16)
    absurd = torch.where(weight > 0, count, torch.tensor(1e3))
    a = loss_terms(output, a_batch(count, weight), scale, config)
    b = loss_terms(output, a_batch(absurd, weight), scale, config)
    assert {k: v.item() for k, v in a.items()} == pytest.approx({k: v.item() for k, v in b.items()})
    nothing = loss_terms(output, a_batch(count, 0 * weight), scale, config)
    assert nothing["loss"].item() == 0


def test_batches_keep_reflectance_and_reference_together() -> None:
    patches = some_patches(4)
    quiet = dataclasses.replace(SMALL, jitter_gain=0.0, jitter_offset=0.0, batch=32, crop=12)
    batch = draw_batch(patches, quiet, np.random.default_rng(0))
    h = patches.halo
    palms = (batch.reflectance[:, 2, h:-h, h:-h] - 0.2).flatten() / 0.1
    r = np.corrcoef(palms.numpy(), batch.count[:, 0].flatten().numpy())[0, 1]
    assert r > 0.6
    noisy = draw_batch(patches, dataclasses.replace(quiet, jitter_gain=0.1), np.random.default_rng(0))
    assert torch.equal(noisy.count, batch.count)
    assert not torch.equal(noisy.reflectance, batch.reflectance)


def test_pairs_are_two_acquisitions_of_one_crop() -> None:
    patches = some_patches(4, acquisitions=3)
    config = dataclasses.replace(SMALL, pair_weight=1.0, batch=32, crop=12, jitter_gain=0.0, jitter_offset=0.0)
    batch = draw_batch(patches, config, np.random.default_rng(0))
    assert len(batch.count) == 32
    assert torch.equal(batch.count[0::2, 0], batch.count[1::2, 0])  # palms stand still, cars do not
    assert not torch.equal(batch.count[0::2, 1], batch.count[1::2, 1])
    same = (batch.reflectance[0::2] == batch.reflectance[1::2]).flatten(1).float().mean(dim=1)
    assert same.max() < 0.5
    assert len(torch.unique(batch.count[0::2, 0].sum(dim=(1, 2)))) > 8  # crops of many places
    with pytest.raises(InputError, match="batch"):
        dataclasses.replace(config, batch=31)
    one = dataclasses.replace(
        patches, reflectance=patches.reflectance[:, :1], valid=patches.valid[:, :1], count=patches.count[:, :1]
    )
    with pytest.raises(InputError, match="pair_weight"):
        train(one, a_card(one), config, progress=None)


def test_what_the_acquisitions_of_a_pair_share_is_no_difference() -> None:
    config = TrainConfig(block=4, pair_weight=2.0)
    count, weight = torch.rand(4, 1, 16, 16), torch.ones(4, 1, 16, 16)
    weight[1, :, :4] = 0  # not seen in one of them: not compared
    output = torch.zeros(4, 2, 1, 16, 16)
    output[:, 0] = count + torch.tensor([0.5, 0.5, 0.1, -0.3])[:, None, None, None]
    output[0, 0, 0, :4] += 7
    losses = loss_terms(output, a_batch(count, weight), torch.ones(1), config)
    assert float(losses["pair"]) == pytest.approx(0.5 * 0.4**2 / 2, rel=1e-4)  # none of the first, 0.4 of the second
    without = loss_terms(output, a_batch(count, weight), torch.ones(1), TrainConfig(block=4))
    assert float(losses["loss"] - without["loss"]) == pytest.approx(0.5 * 2.0 * float(losses["pair"]), rel=1e-4)
    assert "pair" not in without


def test_full_crops_are_drawn_more_often_and_weigh_less() -> None:
    patches = some_patches(4, size=48)
    labelled = patches.labelled.copy()
    labelled[3] = False  # what is not known there attracts nothing
    patches.count[1] *= 20
    patches.count[2] = 0
    patches.count[3] = 1e3
    patches = dataclasses.replace(patches, labelled=labelled)
    config = dataclasses.replace(SMALL, crop=20, importance=3.0)
    odds = CropOdds.of(patches, np.ones(len(OBJECTS), np.float32), config)
    probability = np.diff(odds.cumulative, prepend=0).reshape(*odds.importance.shape)
    assert probability.shape == (4, 4, 4)  # every 8 pixels from 0 to 28
    assert np.allclose(probability * odds.importance, 1 / probability.size, rtol=1e-6)  # no loss is changed on average
    assert np.allclose(probability[3], probability[2])
    crop = patches.count[1, 0, :, 8:28, 16:36].astype(float)
    expected = 1 + 3 * np.sqrt(np.square(crop).mean())
    assert probability[1, 1, 2] / probability[2, 0, 0] == pytest.approx(expected, rel=1e-4)

    rng = np.random.default_rng(0)
    drawn = [odds.draw(rng) for _ in range(4000)]
    share = np.bincount([place for place, *_ in drawn], minlength=4) / len(drawn)
    assert share == pytest.approx(probability.sum(axis=(1, 2)), abs=0.03)
    assert {0, 28} <= {row for _, row, _, _ in drawn} <= set(range(29))
    assert {0, 28} <= {col for _, _, col, _ in drawn} <= set(range(29))

    batch = draw_batch(patches, dataclasses.replace(config, batch=64), rng, odds)
    empty = (batch.count * batch.weight).sum(dim=(1, 2, 3)) == 0
    assert 0 < empty.sum() < 32
    assert batch.importance[empty].min() > batch.importance[~empty].max()
    assert torch.equal(draw_batch(patches, config, rng).importance, torch.ones(config.batch))
    with pytest.raises(InputError, match="importance"):
        dataclasses.replace(config, importance=-1.0)


def test_a_sample_weighs_in_every_loss_what_its_importance_says() -> None:
    torch.manual_seed(0)
    config = TrainConfig(block=4, pair_weight=2.0)
    output, count, weight = torch.randn(4, 2, 2, 16, 16), torch.rand(4, 2, 16, 16), torch.ones(4, 1, 16, 16)
    of_pairs = [
        loss_terms(output[k : k + 2], a_batch(count[k : k + 2], weight[k : k + 2]), torch.ones(2), config)
        for k in (0, 2)
    ]
    importance = torch.tensor([0.2, 0.2, 3.0, 3.0])
    both = loss_terms(output, a_batch(count, weight, importance), torch.ones(2), config)
    for name, value in both.items():
        first, second = (float(one[name]) for one in of_pairs)
        assert float(value) == pytest.approx((0.2 * first + 3 * second) / 2, rel=1e-5), name


def test_a_training_may_prefer_full_crops(tmp_path: Path) -> None:
    patches = some_patches()
    config = dataclasses.replace(SMALL, importance=3.0)
    plain, one, two = (
        weights(train(patches, a_card(patches), c, progress=None, state=tmp_path / f"{k}.state"))
        for k, c in enumerate((SMALL, config, config))
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(plain[0], one[0])
    with pytest.raises(InputError, match=r"state\.pt|1\.state"):
        train(patches, a_card(patches), SMALL, progress=None, state=tmp_path / "1.state")


def test_rate_warms_up_and_anneals() -> None:
    config = TrainConfig(steps=100, warmup=10)
    factors = [rate_factor(step, config) for step in range(100)]
    assert factors[0] < 0.1
    assert max(factors) == factors[10] == 1
    assert factors[-1] < 0.02
    assert np.all(np.diff(factors[10:]) < 0)


def test_errors_that_a_sample_shares_cost_more_than_those_that_cancel() -> None:
    config = TrainConfig(block=4)
    weight, count = torch.ones(2, 1, 16, 16), torch.ones(2, 1, 16, 16)
    checks = torch.ones(16, 16)
    checks[::2, ::2] = checks[1::2, 1::2] = -1  # sums to nothing in every block
    halves = torch.ones(16, 16)
    halves[:8] = -1  # only in the sample
    parts = {}
    for name, error in (("shared", torch.ones(16, 16)), ("halves", halves), ("checks", checks)):
        output = torch.zeros(2, 2, 1, 16, 16)
        output[:, 0] = count + 0.5 * error
        losses = loss_terms(output, a_batch(count, weight), torch.ones(1), config)
        parts[name] = tuple(round(float(losses[key]), 6) for key in ("mse", "block", "sample"))
    assert parts == {"shared": (0.25, 0.25, 0.25), "halves": (0.25, 0.25, 0), "checks": (0.25, 0, 0)}


def test_input_statistics_are_of_valid_pixels() -> None:
    patches = some_patches()
    broken = dataclasses.replace(patches, reflectance=patches.reflectance.copy())
    broken.reflectance[:, 0, :, : 4 + 4] = 9.0  # the part that is not valid
    assert input_statistics(broken) == input_statistics(patches)
    assert input_statistics(patches)["input_low"][0] < 0.1 < input_statistics(patches)["input_high"][0]


def test_patches_that_do_not_fit_are_refused() -> None:
    patches = some_patches()
    card = a_card(patches)
    with pytest.raises(InputError, match="64"):
        train(patches, card, dataclasses.replace(SMALL, crop=64), progress=None)
    with pytest.raises(InputError, match=r"4 px.*5"):
        train(patches, dataclasses.replace(card, halo=5, blocks=3), SMALL, progress=None)
    with pytest.raises(InputError, match="car"):
        train(
            dataclasses.replace(patches, count=patches.count * np.array([1, 0]).reshape(2, 1, 1)),
            card,
            SMALL,
            progress=None,
        )
    with pytest.raises(InputError, match="mse_weight"):
        TrainConfig(mse_weight=2)


def test_simulated_places_do_not_depend_on_workers_and_are_kept(tmp_path: Path) -> None:
    one = simulated_patches(5, 2, size=40, workers=1, cache=tmp_path)
    again = simulated_patches(5, 2, size=40, workers=1, cache=tmp_path)
    assert isinstance(again.reflectance, np.memmap)
    assert np.array_equal(one.count, again.count)
    assert one.bands[0] == "B02"
    assert one.reflectance.shape == (2, 4, 10, 40, 40)


def test_train_simulated_writes_a_whole_card(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, steps=3, crop=32)
    path = tmp_path / "tiny.safetensors"
    train_simulated(
        "demo-rgbn",
        path,
        objects=("coconut",),
        places=3,
        calibration_places=2,
        test_places=2,
        trimmed_places=1,
        config=config,
        width=8,
        mid=4,
        blocks=1,
        workers=1,
        progress=None,
    )
    card = load_model(path).card
    assert card.bands == ("B02", "B03", "B04", "B08")
    assert card.training["command"].startswith("subpixmap train --simulated demo-rgbn")
    assert card.error["coconut"]["total"]["reference"] > 0
    assert set(card.calibration) == set(card.trimmed) == {"coconut"}
    with pytest.raises(InputError, match="nope"):
        train_simulated("nope", path)
    with pytest.raises(InputError, match="maize"):
        train_simulated("demo-s2", path, objects=("maize",))


@pytest.mark.parametrize("name", simulated.BANDS)
def test_shipped_simulated_models_count_all_objects_and_say_how_they_were_made(name: str) -> None:
    card = load_model(name).card
    assert card.bands == simulated.BANDS[name]
    assert tuple(card.objects) == tuple(simulated.DEFINITIONS)
    assert card.measure == simulated.MEASURES
    recipe = card.training["recipe"]
    command = f"subpixmap train --simulated {name} --steps {recipe['steps']} -o {name}.safetensors"
    assert card.training["command"] == command
    assert TrainConfig(**recipe) == dataclasses.replace(SIMULATED, steps=recipe["steps"])
    parameters = inspect.signature(train_simulated).parameters
    assert all(getattr(card, shape) == parameters[shape].default for shape in ("width", "mid", "blocks"))
    assert card.training["places"]["calibration"] == 1000
    assert set(card.trimmed) == set(card.objects)


def test_an_interrupted_simulated_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(SMALL, steps=3, crop=32, save_every=1, log_every=1)
    places: dict[str, Any] = {
        "objects": ("coconut",),
        "places": 3,
        "calibration_places": 2,
        "test_places": 2,
        "trimmed_places": 1,
    }
    small = functools.partial(train_simulated, **places, width=8, mid=4, blocks=1)
    monkeypatch.setattr(simulated, "train_simulated", small)
    output = tmp_path / "deep" / "demo-rgbn.safetensors"

    def train_it() -> None:
        learning.train_simulated("demo-rgbn", output, config=config, cache=tmp_path, workers=1, quiet=True)

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut:
        cut.setattr(simulated, "calibrate", power_cut)
        with pytest.raises(KeyboardInterrupt):
            train_it()
    assert output.with_suffix(".state").exists()
    train_it()
    assert load_model(output).card.training["recipe"]["steps"] == 3
    assert not output.with_suffix(".state").exists()
    with output.with_suffix(".curves.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]
