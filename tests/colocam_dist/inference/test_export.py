"""Exported files compute what the network does, for every shipped encoder, and a bad one never gets its name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import colocam_dist
from colocam_dist.errors import ConfigError, RunError
from colocam_dist.inference import export
from colocam_dist.inference.api import Localizer
from colocam_dist.inference.export import export_localizer, onnx_program, torch_program

pytestmark = pytest.mark.patient

SIZE = 40
slow, long = pytest.mark.slow, pytest.mark.long
ENCODERS = [
    "resnet18",
    pytest.param("resnet50", marks=slow),
    pytest.param("vgg16", marks=long),
    pytest.param("inceptionv3", marks=long),
    pytest.param("efficientnet_lite0", marks=long),
]


@pytest.fixture(scope="module")
def images(picture: Callable[[int, int, int], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Noise, clouds, black, white: uint8 [9, 3, 40, 40]."""
    noise = np.random.default_rng(3).integers(0, 256, (4, 3, SIZE, SIZE), np.uint8)
    clouds = np.stack([picture(seed, SIZE, SIZE).transpose(2, 0, 1) for seed in range(3)])
    return np.concatenate(
        [noise, clouds, np.zeros((1, 3, SIZE, SIZE), np.uint8), np.full((1, 3, SIZE, SIZE), 255, np.uint8)]
    )


def largest_difference(localizer: Localizer, program: export.Program, images: NDArray[np.uint8]) -> tuple[float, float]:
    """Of maps and of class probabilities from the network's own, in batches of several sizes."""
    found = []
    for batch in (1, 2, 3, 5, 9):
        part = images[-batch:]
        with torch.no_grad():
            output = localizer.network(torch.from_numpy(part))
        maps = torch.sigmoid((output.map_logits_B2HW[:, 1] - output.map_logits_B2HW[:, 0]).double()).numpy()
        classes = output.class_logits_BK.double().softmax(1).numpy()
        got_maps, got_classes = program(part)
        assert (got_maps.shape, got_maps.dtype) == ((batch, SIZE, SIZE), np.float32)
        assert (got_classes.shape, got_classes.dtype) == ((batch, 3), np.float32)
        assert 0.0 <= got_maps.min() <= got_maps.max() <= 1.0
        assert maps.max() - maps.min() > 0.05, "a flat map would hide differences"
        found.append((np.abs(got_maps - maps).max(), np.abs(got_classes - classes).max()))
    return max(a for a, _ in found), max(b for _, b in found)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_both_formats_agree_with_the_network(
    encoder: str, make_run: Callable[..., Path], images: NDArray[np.uint8], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", f"model.encoder={encoder}", "model.decoder_channels=null")
    localizer = Localizer.load(run, device="cpu")
    facts = {
        "classes": ["bird", "cat", "train"],
        "size": SIZE,
        "threshold": 0.7,
        "encoder": encoder,
        "weights_sha256": localizer.weights_sha256,
        "version": colocam_dist.__version__,
    }
    for form, read, limit in (("torch", torch_program, 1e-5), ("onnx", onnx_program, 1e-4)):
        target = (tmp_path / "localizer").with_suffix(export.SUFFIXES[form])  # type: ignore[index]
        assert export_localizer(localizer, target, form) <= limit  # type: ignore[arg-type]
        program, metadata = read(target)
        assert metadata == facts
        maps, classes = largest_difference(localizer, program, images)
        assert maps < limit, form
        assert classes < limit, form
        assert str(Path(colocam_dist.__file__).parent).encode() not in target.read_bytes(), "no path of this machine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["localizer.onnx", "localizer.pt2", "run"]


ALONE = """
import json, sys, numpy, torch
sys.modules["colocam_dist"] = None  # importing it is an error
extra = {"colocam_dist.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra).module()
images = torch.from_numpy(numpy.load(sys.argv[2]))
maps, probabilities = program(images)
print(json.dumps([json.loads(extra["colocam_dist.json"])["classes"], maps.double().mean().item()]))
"""


def test_a_torch_program_runs_where_the_project_is_not(
    small_run: Path, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    localizer = Localizer.load(small_run, device="cpu")
    export_localizer(localizer, tmp_path / "localizer.pt2", "torch")
    np.save(tmp_path / "images.npy", images)
    words = [sys.executable, "-c", ALONE, str(tmp_path / "localizer.pt2"), str(tmp_path / "images.npy")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    classes, mean = json.loads(done.stdout)
    assert classes == ["bird", "cat", "train"]
    with torch.no_grad():
        wanted = localizer.network(torch.from_numpy(images)).map_logits_B2HW.double().softmax(1)[:, 1].mean()
    assert mean == pytest.approx(wanted.item(), abs=1e-6)


def test_a_file_that_computes_something_else_gets_no_name(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    localizer = Localizer.load(small_run, device="cpu")
    target = tmp_path / "localizer.pt2"
    target.write_bytes(b"older")
    real = torch.export.save

    def damage(program: Any, *given: Any, **more: Any) -> None:
        with torch.no_grad():
            program.state_dict["network.decoder.head.bias"] += torch.tensor([0.0, 1e-3])
        real(program, *given, **more)
        with torch.no_grad():
            program.state_dict["network.decoder.head.bias"] -= torch.tensor([0.0, 1e-3])

    monkeypatch.setattr(torch.export, "save", damage)
    with pytest.raises(RunError, match="does not compute what the network does"):
        export_localizer(localizer, target, "torch")
    assert target.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [target]


def test_no_number_is_no_agreement(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_largest_difference", lambda *_: float("nan"))
    with pytest.raises(RunError, match="nan"):
        export_localizer(Localizer.load(small_run, device="cpu"), tmp_path / "localizer.pt2", "torch")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_torch_would_not_read_is_refused(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.pt2 for torch"):
        export_localizer(Localizer.load(small_run, device="cpu"), tmp_path / "localizer.pt", "torch")


def test_missing_packages_are_named(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_PACKAGES", ("onnx", "onnxstranger"))
    with pytest.raises(ConfigError, match="onnxstranger") as caught:
        export_localizer(Localizer.load(small_run, device="cpu"), tmp_path / "localizer.onnx", "onnx")
    assert "[export]" in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        export_localizer(Localizer.load(small_run, device="cpu"), tmp_path / "file" / "localizer.pt2", "torch")
