from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from colocam_dist.config import dump, load
from colocam_dist.errors import RunError
from colocam_dist.runs.folder import RunFolder
from colocam_dist.runs.weights import save_weights
from colocam_dist.training.checkpoint import main
from colocam_dist.training.checkpoint_files import seal_folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two checkpoints and best weights of its localizer."""
    folder = RunFolder.create(load(None, [f"run.folder={tmp_path}", "run.name=r", "data.shards=x"]))
    folder.write_json("classes.json", ["cat", "dog"])
    for step in (4, 9):
        place = folder.checkpoints("localizer") / f"step-{step:08d}"
        place.mkdir(parents=True)
        (place / "state.pt").write_bytes(np.random.default_rng(step).bytes(3000))
        seal_folder(place, step)
    module = torch.nn.Linear(64, 32)
    facts = {"epoch": 3, "step": 9, "criterion": "corloc", "score": 71.5}
    save_weights(folder.weights("localizer", "best-localization"), module, facts)
    return folder.path


def test_list(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoints/localizer/step-00000004/state.pt").unlink()
    assert main(["list", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "localizer/step-00000009",
        "localizer/step-00000004",
        "localizer/best-localization.pt",
    ]
    assert lines[0].endswith("all files are there")
    assert lines[1].endswith("state.pt is missing")


def test_verify_reads_every_byte(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run)]) == 0
    said = capsys.readouterr().out
    assert said.count("every byte is as written") == 2
    assert "every tensor is as written; epoch 3, corloc 71.5" in said
    path = run / "checkpoints/localizer/step-00000009/state.pt"
    data = bytearray(path.read_bytes())
    data[1234] ^= 4
    path.write_bytes(data)
    assert main(["verify", str(run)]) == 1
    assert "state.pt has changed" in capsys.readouterr().out


def test_verify_notices_flipped_bytes_of_weights(run: Path) -> None:
    path = run / "checkpoints/localizer/best-localization.pt"
    data = path.read_bytes()
    at = data.index(torch.load(path, weights_only=True)["state_dict"]["weight"].numpy().tobytes())
    for place in range(at, at + 8192, 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert main(["verify", str(run)]) == 1


def test_export_is_one_plain_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run)]) == 0
    assert capsys.readouterr().out == f"localizer (best-localization) is in {run / 'localizer.pt'}\n"
    content = torch.load(run / "localizer.pt", weights_only=True)
    assert content["classes"] == ["cat", "dog"]
    assert (content["stage"], content["epoch"], content["score"]) == ("localizer", 3, 71.5)
    assert content["state_dict"]["weight"].shape == (32, 64)
    assert content["config"] == dump(load(run / "config.yaml"))
    with pytest.raises(RunError, match=r"no such weights(.|\n)*got: best-localization"):
        main(["export", str(run), "--criterion", "best-classification"])


def test_export_as_safetensors(run: Path) -> None:
    assert main(["export", str(run), "--output", str(run / "out.safetensors")]) == 0
    plain = torch.load(run / "checkpoints/localizer/best-localization.pt", weights_only=True)["state_dict"]
    with safe_open(run / "out.safetensors", framework="pt") as file:
        assert set(file.keys()) == plain.keys()
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in plain.items())
        facts = file.metadata()
    assert json.loads(facts["classes"]) == ["cat", "dog"]
    assert (facts["stage"], facts["score"]) == ("localizer", "71.5")
    assert facts["config"] == dump(load(run / "config.yaml"))


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        main(["list", str(tmp_path)])
