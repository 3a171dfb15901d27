"""Single-file checkpoints that nobody vouches for: damaged, of no network, or pickles that would run code."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from pyro_vipaint.models import convert, load_prior
from tests.checkpoints import Bomb, as_adm, as_edm, edm_pickle, network, persistent, torch_file
from tests.hostile.harness import Case

CONFIG = {"image_size": 8, "num_head_channels": 4, "norm_groups": 2, "use_new_attention_order": True}
SONG = {"attention_head_dim": None, "num_heads": 1, "scale_shift": False, "up_attention": "last"}
Make = Callable[[Path], bytes]


@cache
def adm() -> dict[str, torch.Tensor]:
    """A good network of guided-diffusion."""
    return as_adm(network())


@cache
def good_files() -> dict[str, bytes]:
    """It, and a network of EDM, in every format that is read."""
    edm = persistent(as_edm(network(**SONG, skip_kernels=True)))
    return {
        "safetensors": save(adm()), "zip": torch_file(adm()), "legacy": torch_file(adm(), legacy=True),
        "pickle of EDM": edm_pickle({"ema": edm}),
    }  # fmt: skip


def run(folder: Path) -> Any:
    """Converts ``file`` to ``out``; nothing that a pickle would leave is there."""
    try:
        convert(folder / "file", folder / "out", config=CONFIG)
    finally:
        assert not (folder / "ran").exists(), "a pickle was run"
    return load_prior(folder / "out")


def case(name: str, make: Make | bytes, says: str = "") -> Case:
    content = make if callable(make) else lambda folder: make
    return Case(name, run, says, lambda folder: (folder / "file").write_bytes(content(folder)))


def with_bomb(write: Callable[[Any], bytes], place: Callable[[Any], Any]) -> Make:
    return lambda folder: write(place(Bomb(folder / "ran")))


def in_state(bomb: Any) -> Any:
    module = persistent(as_edm(network(**SONG)))
    module.state["hook"] = bomb
    return {"ema": module}


def in_storage(folder: Path) -> bytes:
    """A pickle inside the bytes of a storage."""
    inner = edm_pickle(Bomb(folder / "ran"))
    return b"\x80\x04ctorch.storage\n_load_from_bytes\n(C" + bytes([len(inner)]) + inner + b"tR."


def called(name: str, argument: str = "1") -> bytes:
    """A pickle that calls ``module name`` with a text."""
    return b"\x80\x04c" + name.replace(" ", "\n").encode() + f"\n(V{argument}\ntR.".encode()


def zipped(*entries: tuple[str, bytes], compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def huge(size: int) -> bytes:
    """The pickle of a tensor of ``size`` elements on a storage of one."""
    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nK\x01tQ"
    shape = b"(" + pickle.dumps(size, 2)[2:-1] + b"t" + b"(K\x00t"
    return b"\x80\x02}Va\nctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape + b"\x89NtRs."


NAMES = (
    "os system", "posix system", "builtins eval", "builtins exec", "builtins getattr", "builtins open",
    "subprocess Popen", "importlib import_module", "torch load", "torch.hub load", "pickle loads", "runpy run_path",
    "torch.storage UntypedStorage", "operator attrgetter", "numpy load", "pyro_vipaint.models load_prior",
    "webbrowser open", "torch.jit load", "pathlib Path", "functools partial", "copyreg _reconstructor",
)  # fmt: skip


def cases() -> Iterator[Case]:
    for name in NAMES:
        yield case(f"a pickle that calls {name}", called(name), "nothing in it was run")
        yield case(f"a zip that calls {name}", zipped(("a/data.pkl", called(name))), "nothing in it was run")
    for kind, good in good_files().items():
        for share in (0.01, 0.3, 0.7, 0.999):
            yield case(f"{kind}: the first {share}", good[: int(share * len(good))], "file")
        yield case(f"{kind}: zeros for its first bytes", bytes(64) + good[64:], "file")
        yield Case(f"{kind}: good", run, arrange=lambda folder, good=good: (folder / "file").write_bytes(good),
                   works=lambda folder, prior: prior.event_shape == (3, 8, 8))  # fmt: skip


CASES = [
    *cases(),
    case("a zip with a bomb", with_bomb(torch_file, lambda bomb: {**adm(), "more": bomb}), "nothing in it was run"),
    case("an old file with a bomb", with_bomb(lambda root: torch_file(root, legacy=True), lambda bomb: [bomb]),
         "nothing in it was run"),
    case("a bomb beside EDM's network", with_bomb(edm_pickle, lambda bomb: {"ema": persistent({}), "loss": bomb}),
         "nothing in it was run"),
    case("a bomb in the state of EDM's network", with_bomb(edm_pickle, in_state), "nothing in it was run"),
    case("a bomb in the bytes of a storage", in_storage, "nothing in it was run"),
    case("an extension of pickle", b"\x80\x02\x82\x01.", "file"),
    case("a pickle of ten thousand lists", b"\x80\x04" + b"]" * 10**4 + b".", "file"),
    case("a pickle that ends nowhere", b"\x80\x04" + b"}" * 100, "file"),
    case("a tensor larger than its storage", zipped(("a/data.pkl", huge(2**40)), ("a/data/0", bytes(4))), "storage"),
    case("a tensor of -1 elements", zipped(("a/data.pkl", huge(-1)), ("a/data/0", bytes(4))), "file"),
    case("a storage that is not there", zipped(("a/data.pkl", huge(1))), "file"),
    case("a storage of another size", zipped(("a/data.pkl", huge(1)), ("a/data/0", bytes(8))), "size"),
    case("a compressed zip", zipped(("a/data.pkl", bytes(10**7)), compressed=True), "zip"),
    case("a zip of something else", zipped(("word/document.xml", b"<a/>")), "zip"),
    case("a script of torch", zipped(("a/data.pkl", called("__torch__ Net")), ("a/code/a.py", b"")), "run"),
    case("EDM's network by another preconditioning", edm_pickle({"ema": persistent({}, "VPPrecond")}), "VPPrecond"),
    case("EDM's network without weights", edm_pickle({"ema": persistent({})}), "kind"),
    case("EDM's network whose state is a text", edm_pickle({"ema": persistent({}, _modules="x")}), "kind|weights"),
    case("a pickle of numbers", torch_file([1, 2]), "weights"),
    case("a pickle of None", edm_pickle(None), "weights"),
    case("an empty file", b"", "file"),
    case("a text", b"weights", "file"),
    case("a header of 2^60 bytes", struct.pack("<Q", 2**60) + b"{}", "file"),
    case("a weight that is NaN", save({**adm(), "out.2.bias": torch.full((3,), float("nan"))}), "NaN"),
    case("a weight of whole numbers", save({**adm(), "out.2.bias": torch.zeros(3).long()}), "float|whole|I64"),
    case("a weight without dimensions", save({**adm(), "out.2.weight": torch.zeros(())}), "wrong|shape|missing"),
    case("a network of no channels", save({**adm(), "input_blocks.0.0.weight": torch.zeros(0, 0, 3, 3)}), "file"),
    case("a block with a number of 10^9", save({**adm(), f"input_blocks.{10**9}.0.op.weight": torch.zeros(1)}), "file"),
    case("a hundred blocks", save({**adm(), **{f"input_blocks.{i}.0.op.weight": torch.zeros(1) for i in range(99)}}),
         "file"),
    Case("a folder as the file", run, "file", lambda folder: (folder / "file").mkdir()),
    Case("no file", run, "exist"),
    Case("the folder is not empty", run, "empty", lambda folder: [(folder / "out").mkdir(), (folder / "out/a").touch(),
                                                                  (folder / "file").write_bytes(save(adm()))]),
    Case("the folder is a file", run, "empty", lambda folder: (folder / "out").touch()),
    Case("an unknown kind", lambda f: convert(f / "file", f / "out", kind="gan"), "edm"),
    Case("a device for a configuration", lambda f: convert(f / "file", f / "out", config=Path("/dev/null")),
         "exist|null", lambda folder: (folder / "file").write_bytes(save(adm()))),
]  # fmt: skip
