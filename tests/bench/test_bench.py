"""The benchmark: trials are reproducible, runs resume, failures are recorded, tables and figures are right."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing import active_children
from pathlib import Path
from shutil import copytree
from typing import Any

import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

import pyro_vipaint as vp
from pyro_vipaint import engines
from pyro_vipaint._torch import tensors_of
from pyro_vipaint.bench import (
    METHODS,
    SUITE,
    Cell,
    Plan,
    Store,
    Suite,
    engine,
    methods,
    run,
    trials,
    write_report,
)
from pyro_vipaint.bench import engines as bench_engines
from pyro_vipaint.bench import runner as bench_runner
from pyro_vipaint.bench.engines import Engine, Finished
from pyro_vipaint.bench.figures import quality_figure, sample_figure
from pyro_vipaint.bench.methods import Baseline, Outcome
from pyro_vipaint.bench.report import batches, build, full_table, lpips_table, overall_table
from pyro_vipaint.bench.scores import image_scores, ssim
from pyro_vipaint.bench.summary import means, paired
from pyro_vipaint.bench.trials import Trial, weights_of
from pyro_vipaint.bench.work import Record
from pyro_vipaint.metrics import restored_kernel_distance
from pyro_vipaint.models import load_prior
from pyro_vipaint.settings import default_settings

PLAN = Plan(
    ("fashion32",), ("box", "super-resolution"), ("Blended", "DPS"), (2, 3), num_images=4, num_samples=2, chunk=3
)
SAME = ["prior", "task", "budget", "method", "seed", "image", "error"]
SAME += ["lpips", "lpips_best", "psnr", "ssim", "diversity", "kernel_distance", "nfe"]


def local() -> Engine:
    return engine("local", 1, "cpu", 1)


def counting(done: list[Cell]) -> Engine:
    """The local engine, which adds the cells that it computes to ``done``."""

    def go(cells: list[Cell], suite: Suite) -> Finished:
        for cell, record in local()(cells, suite):
            done.append(cell)
            yield cell, record

    return go


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("bench")
    return out, run(PLAN, out, local(), "cpu")


@pytest.fixture
def copy(finished: tuple[Path, pd.DataFrame], tmp_path: Path) -> Path:
    """The finished folder, to be changed."""
    return Path(copytree(finished[0], tmp_path / "out"))


def test_every_cell_becomes_its_rows(finished: tuple[Path, pd.DataFrame]) -> None:
    """DPS on both tasks, Blended on the mask alone; two budgets; four images in two chunks."""
    out, frame = finished
    assert frame["error"].isna().all() and len(frame) == 3 * 2 * 4
    assert set(zip(frame["task"], frame["method"], strict=True)) == {
        ("box", "Blended"), ("box", "DPS"), ("super-resolution", "DPS"),
    }  # fmt: skip
    assert (frame["nfe"] <= frame["budget"]).all()
    assert frame["image"].tolist() == 6 * [0, 1, 2, 3]
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), frame)


def test_a_second_run_computes_nothing_and_a_lost_cell_alone_comes_back_the_same(
    finished: tuple[Path, pd.DataFrame],
) -> None:
    out, frame = finished
    done: list[Cell] = []
    pd.testing.assert_frame_equal(run(PLAN, out, counting(done), "cpu"), frame)
    assert not done
    lost = sorted((out / "cells").glob("dps-box-*.json"))[0]
    lost.unlink()
    again = run(PLAN, out, counting(done), "cpu")
    assert [cell.key for cell in done] == [lost.stem]
    pd.testing.assert_frame_equal(again.filter(SAME), frame.filter(SAME))


def test_the_observation_of_an_image_does_not_depend_on_its_cell() -> None:
    for task in ("random-large", "super-resolution"):
        cell = Cell("fashion32", task, "DPS", 2, 0, 3, 1, seed=5)
        together, alone = SUITE.trial(cell, "cpu"), SUITE.trial(replace(cell, start=2), "cpu")
        assert torch.equal(together.truth[2:], alone.truth)
        torch.testing.assert_close(together.y[2:], alone.y, atol=1e-6, rtol=0)
        assert not torch.equal(together.y, SUITE.trial(replace(cell, seed=6), "cpu").y)


def test_keys_are_one_to_one() -> None:
    cell = Cell("fashion32", "box", "DPS", 100, 0, 8, 4, 0)
    others = [replace(cell, prior="x"), replace(cell, budget=None), replace(cell, seed=1), replace(cell, stop=9)]
    others += [replace(cell, num_samples=5), replace(cell, images="folder"), replace(cell, start=1)]
    assert len({each.key for each in (cell, *others)}) == len(others) + 1
    assert replace(cell).key == cell.key


def test_a_cell_that_fails_is_recorded_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(trial: Trial, num_samples: int, budget: int | None) -> Outcome:
        raise RuntimeError("no luck today")

    monkeypatch.setattr(Baseline, "__call__", lambda self, *a: broken(*a) if self is METHODS["Blended"] else fake(*a))
    plan = replace(PLAN, tasks=("box",), budgets=(2,), num_images=1)
    frame = run(plan, tmp_path, local(), "cpu").set_index("method")
    assert "RuntimeError: no luck today" in frame.loc["Blended", "error"]
    assert pd.isna(frame.loc["DPS", "error"]) and frame.loc["DPS", "lpips"] > 0
    done: list[Cell] = []
    run(plan, tmp_path, counting(done), "cpu")
    assert not done
    write_report(tmp_path, frame.reset_index())
    assert "no luck today" in (tmp_path / "report.md").read_text()
    run(replace(plan, methods=("DPS",)), tmp_path, counting(done), "cpu", retry=True)
    assert not done and Store(tmp_path).table()["error"].notna().sum() == 1  # that plan does not have the failed cell
    run(plan, tmp_path, counting(done), "cpu", retry=True)
    assert [cell.method for cell in done] == ["Blended"]


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("weights", "weights of fashion32"),
        ("numbers", "settings of Blended"),
        ("pictures", "pictures"),
        ("scores", "scores, as another version defines them"),
    ],
)
def test_results_of_another_origin_are_refused(entry: str, what: str, copy: Path) -> None:
    """Cells of a retrained prior, of a method with other defaults, of other pictures, of other scores."""
    store = Store(copy)
    record = next(record for record in store.records() if record["cell"]["method"] == "Blended")
    cell = Cell(**record["cell"])
    store.write(cell, Record(record | {entry: "other"}, store.tensors(cell)))
    with pytest.raises(vp.InputError, match=f"has results of other {what}: choose another folder"):
        run(PLAN, copy, local(), "cpu")


def test_two_runs_at_a_time_do_not_share_a_folder(copy: Path) -> None:
    """The second may run when the first has ended, and removes what a killed one left half-written."""
    half = copy / "cells" / f".half-written.{2**31 - 1}-01234567.part"
    half.touch()
    with Store(copy).locked(), pytest.raises(vp.InputError, match="Another run writes into"):
        run(PLAN, copy, local(), "cpu")
    run(PLAN, copy, local(), "cpu")
    assert not half.exists()


def take_another(path: Path) -> None:
    """The record and the tensors of another cell under the name of this one."""
    other = max(path.parent.glob("dps-*.json"))
    for suffix in (".json", ".safetensors"):
        path.with_suffix(suffix).write_bytes(other.with_suffix(suffix).read_bytes())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "a number changed": lambda path: path.write_text(path.read_text().replace('"psnr": ', '"psnr": 9')),
    "of another cell": lambda path: take_another(path),
    "deep": lambda path: path.write_text("[" * 100_000),
    "no tensors": lambda path: path.with_suffix(".safetensors").unlink(),
    "one bit of the tensors": lambda path: flip(path.with_suffix(".safetensors")),
    "half of the tensors": lambda path: os.truncate(path.with_suffix(".safetensors"), 1000),
}


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, pd.DataFrame, Plan]:
    """A folder of four cells that cost nothing, its rows and its plan."""
    monkeypatch.setattr(Baseline, "__call__", lambda self, *arguments: fake(*arguments))
    plan = replace(PLAN, tasks=("box",), methods=("DPS",))
    return tmp_path, run(plan, tmp_path, local(), "cpu"), plan


def test_damaged_cells_are_named_and_computed_again_and_foreign_files_stay(
    quick: tuple[Path, pd.DataFrame, Plan],
) -> None:
    out, frame, plan = quick
    (out / "cells" / "notes.json").write_text('{"mine": 1}')
    path = min((out / "cells").glob("dps-*.json"))
    for damage in DAMAGES.values():
        damage(path)
        done: list[Cell] = []
        with pytest.warns(UserWarning, match=f"not of this benchmark: {path.name}, notes.json") as warned:
            again = run(plan, out, counting(done), "cpu")
        assert [cell.key for cell in done] == [path.stem] and len(warned) == 1
        pd.testing.assert_frame_equal(again.filter(SAME), frame.filter(SAME))
    assert (out / "cells" / "notes.json").read_text() == '{"mine": 1}'


def test_rows_say_in_which_batch_an_image_was(quick: tuple[Path, pd.DataFrame, Plan]) -> None:
    """Draws depend on the batch; the report says where batches of several sizes are averaged."""
    out, frame, plan = quick
    assert frame.query("budget == 2").filter(["image", "start", "stop"]).to_numpy().tolist() == [
        [0, 0, 3], [1, 0, 3], [2, 0, 3], [3, 3, 4],
    ]  # fmt: skip
    assert batches(frame) == "Images in one batch: 1, 3; draws depend on the batch."
    both = run(replace(plan, chunk=2, budgets=(2,)), out, local(), "cpu")
    assert len(both) == len(frame) + 4
    assert batches(both).startswith("Images in one batch: 1, 2, 3;")
    assert batches(both).endswith("4 results are means over batches of several sizes.")


def test_the_numbers_of_a_method_change_with_its_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text has no addresses of objects, so that it is the same in every process."""
    before = {name: method.numbers() for name, method in METHODS.items()}
    assert len(set(before.values())) == len(before) and not any(" at 0x" in text for text in before.values())
    monkeypatch.setattr(methods, "default_settings", lambda *args: replace(default_settings(*args), zeta=7.0))
    after = {name: method.numbers() for name, method in METHODS.items()}
    changed = [name for name in before if before[name] != after[name]]
    assert changed == [f"VIPaint-{levels}{preset}" for preset in ("", ", pictures") for levels in (2, 4)]
    assert replace(METHODS["DPS"], options={"zeta": 1.1}).numbers() != before["DPS"]  # pyright: ignore


def test_one_changed_weight_changes_the_fingerprint() -> None:
    prior, same = load_prior("fashion32"), load_prior("fashion32")
    assert trials.fingerprint(prior) == trials.fingerprint(same) == weights_of("fashion32", "cpu")
    with torch.no_grad():
        next(tensor for _, tensor in tensors_of(same)).view(-1)[7] += 1e-3
    assert trials.fingerprint(prior) != trials.fingerprint(same)


def fake(trial: Trial, num_samples: int, budget: int | None) -> Outcome:
    """Noise in place of samples."""
    generator = torch.Generator().manual_seed(trial.seed)
    x = torch.zeros(num_samples, *trial.truth.shape)
    return Outcome((x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(-1, 1), 1, x[..., 0, 0, 0].numel(), 1.0)


def test_the_noise_of_an_observation_is_not_that_of_a_method() -> None:
    """Both begin with the seed of the cell; equal generators would correlate z_T with v."""
    trial = SUITE.trial(Cell("fashion32", "gaussian-blur", "DPS", 2, 0, 1, 1, 0), "cpu")
    v = (trial.y - trial.operator.A(trial.truth)).flatten()
    z = torch.randn(v.shape, generator=torch.Generator().manual_seed(0))
    assert float(torch.corrcoef(torch.stack([v, z]))[0, 1].abs()) < 4 / len(v) ** 0.5


def test_scores_are_those_of_the_metrics() -> None:
    trial = SUITE.trial(Cell("fashion32", "box", "DPS", 2, 0, 2, 3, 0), "cpu")
    assert trial.mask is not None
    samples = trial.truth + 0.1 * torch.ones(3, 1, 1, 1, 1) * torch.tensor([1.0, -1.0, 2.0]).view(3, 1, 1, 1, 1)
    first = image_scores(samples, trial).iloc[0]
    assert first["psnr"] == pytest.approx((2 * 20 * math.log10(20) + 20 * math.log10(10)) / 3, abs=1e-3)
    assert first["observation_error"] == pytest.approx((0.1 + 0.1 + 0.2) / 3, abs=1e-5)
    assert first["diversity"] == pytest.approx(float(torch.tensor([0.1, -0.1, 0.2]).std()), abs=1e-5)
    perfect = image_scores(trial.truth.expand(2, -1, -1, -1, -1), trial).iloc[0]
    assert perfect["lpips"] == pytest.approx(0, abs=1e-6) and perfect["ssim"] == pytest.approx(1)


def test_ssim_equals_its_formula_for_constant_images() -> None:
    """Wang et al. 2004, Eq. 13 for images without variance: (2 mu nu + c1) / (mu^2 + nu^2 + c1), c1 = (.01 L)^2.

    Of intensities in [0, L].
    """
    x, y = torch.full((1, 1, 1, 16, 16), 0.3), torch.full((1, 1, 16, 16), -0.5)
    mu, nu, c1 = 1.3 / 2, 0.5 / 2, 0.01**2  # in [0, 1]
    assert float(ssim(x, y)) == pytest.approx((2 * mu * nu + c1) / (mu**2 + nu**2 + c1), rel=1e-5)


def rows(values: dict[str, list[float]], budget: int | None = 10) -> pd.DataFrame:
    """A table with the LPIPS of some images by method."""
    records = [
        {"prior": "p", "task": "box", "budget": budget, "method": method, "seed": 0, "image": i, "error": None}
        | {"num_samples": 4, "images": None}
        | dict.fromkeys(("lpips_best", "psnr", "ssim", "observation_error", "diversity"), 0.0)
        | dict.fromkeys(("kernel_distance", "nfe", "seconds"), 1.0)
        | {"lpips": value}
        for method, column in values.items()
        for i, value in enumerate(column)
    ]
    return pd.DataFrame(records).astype({"budget": "Int64"})


def test_differences_are_paired_over_images() -> None:
    frame = rows({"VIPaint-4": [0.1, 0.3, 0.5], "DPS": [0.2, 0.4, 0.9]})
    mean, error = paired(frame, "lpips", "VIPaint-4", "DPS")
    assert mean == pytest.approx(-0.2) and error == pytest.approx(torch.tensor([0.1, 0.1, 0.4]).std().item() / 3**0.5)
    assert math.isnan(paired(frame, "lpips", "VIPaint-4", "nobody")[0])
    shifted = frame.assign(task="other", lpips=frame["lpips"] + (frame["method"] == "DPS"))
    both = paired(pd.concat([frame, shifted]), "lpips", "VIPaint-4", "DPS")  # an image counts with its mean over tasks
    assert both == (pytest.approx(mean - 0.5), pytest.approx(error))


@pytest.mark.parametrize("budget", [10, None])
def test_the_best_is_bold_and_failures_do_not_count(budget: int | None) -> None:
    frame = rows({"VIPaint-4": [0.1, 0.3], "DPS": [0.2, 0.4]}, budget)
    frame.loc[len(frame)] = {**frame.loc[0].to_dict(), "image": 7, "lpips": None, "error": "broke"}  # pyright: ignore
    assert means(frame)["count"].tolist() == [2, 2]
    table = lpips_table(frame).set_index("method")["box"]
    assert table["VIPaint-4"] == "**0.2000** ± 0.1000" and table["DPS"] == "0.3000 ± 0.1000"


def test_means_over_different_tasks_say_so() -> None:
    frame = rows({"VIPaint-4": [0.1], "DPS": [0.3]})
    both = pd.concat([frame, frame.assign(task="random-small", lpips=0.5)])
    assert "tasks" not in overall_table(both)
    table = overall_table(both.iloc[:-1]).set_index("method")
    assert table["tasks"].to_dict() == {"VIPaint-4": "box, random-small", "DPS": "box"}
    assert table["lpips"].to_dict() == {"VIPaint-4": 0.3, "DPS": 0.3}


def test_a_folder_grows_from_a_few_images_to_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure shows the cell with most images of a method, and the images that all methods have."""
    monkeypatch.setattr(Baseline, "__call__", lambda self, *arguments: fake(*arguments))
    plan = replace(PLAN, tasks=("box",), budgets=(2,), methods=("DPS", "Blended", "RePaint", "PiGDM"), num_images=2)
    run(plan, tmp_path, local(), "cpu")
    frame = run(replace(plan, num_images=5, chunk=5, methods=("DPS", "PiGDM")), tmp_path, local(), "cpu")
    store = Store(tmp_path)
    assert sample_figure(store.records(), store).axes[0].get_title() == "truth"
    assert len(sample_figure(store.records(), store).axes) == 2 * (2 + 4)
    grown = [record for record in store.records() if record["cell"]["stop"] == 5]
    assert len(sample_figure(grown, store).axes) == 4 * (2 + 2)
    write_report(tmp_path, frame)


def test_finish_gets_the_table_while_the_folder_is_locked(copy: Path) -> None:
    seen: list[pd.DataFrame] = []

    def finish(frame: pd.DataFrame) -> None:
        with pytest.raises(vp.InputError, match="Another run"), Store(copy).locked():
            pass
        seen.append(frame)

    pd.testing.assert_frame_equal(run(PLAN, copy, local(), "cpu", finish=finish), seen[0])


@pytest.mark.slow
def test_an_interrupted_run_does_not_wait_for_its_workers(tmp_path: Path) -> None:
    """Closing the engine ends the process that computes a cell of several minutes."""
    others = set(active_children())
    cells = [Cell("fashion32", "box", "DPS", budget, 0, 1, 1, 0) for budget in (1, 100_000, 100_001)]
    results = engine("local", 2, "cpu", 1)(cells, SUITE)
    next(results)
    results.close()
    deadline = time.monotonic() + 20
    while set(active_children()) - others and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(active_children()) - others


def test_tables_omit_measures_that_no_row_has() -> None:
    frame = rows({"VIPaint-4": [0.1, 0.3], "DPS": [0.2, 0.4]})
    assert "ssim" in full_table(frame.assign(ssim=[0.5, None, None, None]))
    assert "ssim" not in full_table(frame.assign(ssim=float("nan")))


def test_an_image_in_two_cells_counts_once(copy: Path) -> None:
    """A folder with images 0-2 and 3, and, from another plan, 0-3 has the kernel distance of four images."""
    plan = replace(PLAN, tasks=("box",), methods=("DPS",), budgets=(2,), chunk=4)
    frame = run(plan, copy, local(), "cpu").query("task == 'box' and method == 'DPS' and budget == 2")
    (whole,), store = bench_runner.applicable(plan, "cpu"), Store(copy)
    tensors = [store.tensors(cell) for cell in (whole, replace(whole, start=3))]
    features = torch.cat([tensors[0]["features"][:6], tensors[1]["features"]]).unflatten(0, (4, 2))
    truth = torch.cat([tensors[0]["true_features"][:3], tensors[1]["true_features"]])
    expected = restored_kernel_distance(features, truth)
    assert frame["kernel_distance"].to_list() == pytest.approx([expected] * len(frame), rel=1e-7)


@pytest.mark.slow
def test_numbers_of_samples_have_pictures_of_their_own(copy: Path) -> None:
    """Two groups of one prior in a folder have figures of different names."""
    frame = run(replace(PLAN, tasks=("box",), num_samples=1), copy, local(), "cpu")
    sections = [section for section in build(frame, Store(copy)) if section.picture]
    assert len({section.name for section in sections}) == len(sections) == 12
    assert {section.name.split("-")[2] for section in sections} == {"1", "2"}


@pytest.mark.slow
def test_the_report_has_one_table_per_budget_and_its_pictures(finished: tuple[Path, pd.DataFrame]) -> None:
    out, frame = finished
    write_report(out, frame)
    markdown, page = (out / "report.md").read_text(), (out / "report.html").read_text()
    for budget in (2, 3):
        assert f"## fashion32, {budget} NFE per sample, 2 samples: LPIPS" in markdown
    pictures = [line.split("(")[1].rstrip(")") for line in markdown.splitlines() if line.startswith("![")]
    assert markdown.count("all measures, means over the tasks") == 2
    assert len(pictures) == 7 and all((out / name).stat().st_size > 1000 for name in pictures)
    assert page.count("<img") == 7 and "**" not in page and page.count("<table") == markdown.count("\n|:-")


def test_a_method_has_one_colour_in_all_panels_and_the_legend(finished: tuple[Path, pd.DataFrame]) -> None:
    """Blended is missing in the panel of super-resolution, whose first line is that of DPS."""
    figure: Any = quality_figure(finished[1], "seconds")
    box, super_resolution, *others = (
        {line.get_label(): to_hex(line.lines[0].get_color()) for line in axis.containers} for axis in figure.axes
    )
    assert others == 2 * [box, super_resolution]  # the two energy scores
    texts, handles = figure.legends[0].get_texts(), figure.legends[0].legend_handles
    legend = {text.get_text(): to_hex(handle.get_color()[0]) for text, handle in zip(texts, handles, strict=True)}
    assert set(box) == {"Blended", "DPS"} and box["Blended"] != box["DPS"]
    assert super_resolution == {"DPS": box["DPS"]} and legend == box


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 65}, "There are 64 images"),
        ({"budgets": (0,)}, "A budget must be at least 1"),
        ({"budgets": (10**18,)}, "A budget must be at most 1000000"),
        ({"seeds": (0, -1)}, "A seed of the benchmark must be at least 0"),
        ({"seeds": (2**62,)}, "A seed of the benchmark must be at most 184467440737094"),
        ({"num_images": 10**9}, "images must be at most 100000"),
        ({"num_samples": 10**9}, "samples must be at most 10000"),
        ({"chunk": 2**70}, "chunk must be at most 100000"),
        ({"seeds": ()}, r"The seeds of a plan must be a tuple of one or more, not \(\)"),
        ({"tasks": "box"}, "The tasks of a plan must be a tuple of one or more, not 'box'"),
        ({"methods": ("DSP",)}, "choose from VIPaint-2, .*The nearest is DPS"),
        ({"tasks": ("Box",)}, "There is no task 'Box': .*The nearest is box"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(vp.InputError, match=message):
        run(replace(PLAN, **change), tmp_path / "out", local(), "cpu")
    assert not (tmp_path / "out").exists()


def test_the_largest_seed_is_one_that_runs() -> None:
    cell = Cell("fashion32", "rotated-window", "DPS", 2, 63, 64, 1, bench_runner.LARGEST_SEED)
    assert SUITE.trial(cell, "cpu").y.isfinite().all()


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (10**6, 1), (1, 0), (1, 10**6)])
def test_workers_and_threads_are_sane(workers: int, threads: int) -> None:
    with pytest.raises(vp.InputError, match=r"(workers|threads) must be at (least 1|most 1024)"):
        engine("local", workers, "cpu", threads)


def test_an_address_is_not_ignored() -> None:
    with pytest.raises(vp.InputError, match="goes with the engine ray"):
        engine("local", 1, "cpu", 1, "10.0.0.1:6379")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "workers"), [("local", 2), ("ray", 3)])  # 3: more than some machines have CPUs
def test_a_worker_that_dies_is_an_error_of_its_cell_and_the_others_are_computed(
    name: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "ray":
        pytest.importorskip("ray")
    monkeypatch.setattr(bench_engines, "compute", _die_at_three)
    cells = [Cell("fashion32", "box", "DPS", budget, 0, 1, 1, 0) for budget in (2, 3, 4, 5, 6)]
    records = list(engine(name, workers, "cpu", 1)(cells, SUITE))
    errors = {cell.budget: record.plain["error"] for cell, record in records}
    assert len(records) == 5 and errors == {2: None, 3: bench_engines.ABRUPT, 4: None, 5: None, 6: None}


@pytest.mark.parametrize(
    ("has", "message"),
    [({"CPU": 3.0}, "2 workers need 4 CPUs, the cluster has 3"), ({"CPU": 4.0}, "2 workers need 2 GPUs, .* has 0")],
)
def test_a_cluster_that_is_too_small_is_refused(has: dict[str, float], message: str) -> None:
    with pytest.raises(vp.InputError, match=message):
        engines.check_resources(has, workers=2, cpus=2, gpus=1)


def _die_at_three(cell: Cell, **settings: Any) -> Record:
    if cell.budget == 3:
        os._exit(1)
    return Record({"cell": asdict(cell), "error": None, "rows": [], "bounds": []})
