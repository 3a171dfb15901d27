"""``vipaint convert``."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from typer.testing import CliRunner

from pyro_vipaint.cli.main import app
from pyro_vipaint.models import load_prior
from tests.checkpoints import as_adm, edm_pickle, network

CONFIG = {"image_size": 8, "num_head_channels": 4, "norm_groups": 2, "use_new_attention_order": True}


def test_a_folder_that_prior_takes(tmp_path: Path) -> None:
    """The line says what it is and how it is used."""
    save_file(as_adm(network(num_class_embeds=3)), tmp_path / "file.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    words = ["convert", "file.safetensors", "--to", "prior", "--config", "config.json"]
    words = [str(tmp_path / word) if "." in word or word == "prior" else word for word in words]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"adm: images of 3×8×8, 3 classes. Use it by --prior {tmp_path / 'prior'}\n"
    assert load_prior(tmp_path / "prior").event_shape == (3, 8, 8)


def test_what_is_refused_is_one_line(tmp_path: Path) -> None:
    """Exit code 2, and no folder."""
    (tmp_path / "file.pkl").write_bytes(edm_pickle({"a": "no weights"}))
    for words in (["--kind", "auto"], ["--kind", "gan"], ["--config", str(tmp_path / "none.json")]):
        result = CliRunner().invoke(app, ["convert", str(tmp_path / "file.pkl"), "--to", str(tmp_path / "x"), *words])
        assert result.exit_code == 2 and result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file.pkl"]
