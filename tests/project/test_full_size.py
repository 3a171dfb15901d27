"""The published networks at full size: their arguments, a trial of the machinery, the tables of docs/priors.md."""

from __future__ import annotations

import pytest
import torch

from benchmarks import full_size, published
from tests.checkpoints import needs_references
from tests.priors.test_convert_references import PUBLISHED_KINDS
from tests.priors.test_convert_references import published as converted
from tests.project.test_pages import commits, named, table_lines

MILLIONS = {"edm-ffhq-uncond-ddpmpp": 61.8, "stable-diffusion-1.5": 859.5, "stable-diffusion-3.5-medium": 2243.2}
CPU = torch.device("cpu")


@needs_references
@pytest.mark.parametrize("name", PUBLISHED_KINDS)
def test_the_networks_are_those_of_the_converter(name: str) -> None:
    """Class and every argument, as :func:`pyro_vipaint.models.convert` finds them in the published shapes."""
    _, _, made = converted(name)
    ours = published.PUBLISHED[name.removesuffix("-narrow")]
    assert {part: (found.kind, found.config) for part, found in made.parts.items()} == ours.parts
    assert made.scheduler == ours.scheduler
    assert len(made.details.get("classes", [])) == ours.classes


@pytest.mark.parametrize("name", MILLIONS)
def test_the_other_networks_have_the_published_number_of_parameters(name: str) -> None:
    (kind, arguments), *_ = published.PUBLISHED[name].parts.values()
    network = published.network(kind, arguments, torch.device("meta"), torch.float32)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == MILLIONS[name]


@pytest.mark.parametrize("name", ["edm-cifar10-cond-ddpmpp", "ldm-cin256-v2", "stable-diffusion-3.5-medium"])
def test_every_work_runs_on_narrow_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refinement step is one call of the network and an SVI step three; both have a gradient and a peak."""
    monkeypatch.setitem(published.PUBLISHED, name, published.PUBLISHED[name])
    full_size.tiny(name)
    calls = {}
    for work in (full_size.REFINEMENT, full_size.SVI):
        step, count = full_size.prepared(full_size.Case(name, work, "float32", True), CPU)
        with full_size.vp.count_calls() as counted:
            step()
        calls[work] = counted.calls
        assert 0 < count < 10**7
    assert calls == {full_size.REFINEMENT: 1, full_size.SVI: 3}


def test_the_peak_is_that_of_what_was_held() -> None:
    """64 MiB more, and freed again."""
    before = full_size.reset_peak(CPU)
    held = torch.ones(2**24)
    del held
    assert 2**26 <= full_size.peak_bytes(CPU) - before + 2**22 <= 2**26 + 2**25


def test_the_tables_of_full_size_are_those_of_the_rows() -> None:
    text = named("priors.md")["full size"]
    rows = full_size.read_rows()
    assert table_lines(text) == table_lines(full_size.report(rows))
    assert commits(text) == set(rows["commit"])
    assert all(f"**{device}**" in text for device in rows["device"])
