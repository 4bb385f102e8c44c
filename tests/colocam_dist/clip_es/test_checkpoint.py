"""Checkpoints are loaded from a folder alone, and everything that is no whole CLIP is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from colocam_dist.clip_es.checkpoint import import_transformers, load_clip
from colocam_dist.errors import ConfigError, WeightsError


def no_network(*_: object, **__: object) -> None:
    raise AssertionError("the network was asked")


def test_texts_are_embedded_as_by_the_model_itself_without_a_network(
    tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    clip = load_clip(tiny_clip)
    assert clip.patch == 8
    assert not any(weight.requires_grad for weight in clip.model.parameters())
    texts = ["a cat.", "a clean origami bird avian.", "sea"]
    embedded_PD = clip.embed(texts)
    model: Any = import_transformers().CLIPModel.from_pretrained(tiny_clip, local_files_only=True).double()
    for text, embedding_D in zip(texts, embedded_PD, strict=True):
        tokens = clip.tokenizer([text], return_tensors="pt")
        wanted_D = model.get_text_features(**tokens).pooler_output[0]
        torch.testing.assert_close(embedding_D.double(), wanted_D / wanted_D.norm(), atol=1e-5, rtol=0)
    assert float((embedded_PD[0] - embedded_PD[2]).norm()) > 0.1
    assert tokens["input_ids"][0].tolist() == [56, 18, 4, 28, 57]  # start, s, e, a at a word's end, end


def test_another_end_in_old_configurations(tiny_clip: Path, tmp_path: Path) -> None:
    folder = copy(tiny_clip, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(load_clip(folder).embed(["a cat."]), load_clip(tiny_clip).embed(["a cat."]))


def test_vocabulary_and_merges_alone_are_a_tokenizer(tiny_clip: Path, tmp_path: Path) -> None:
    folder = copy(tiny_clip, tmp_path)
    without("tokenizer.json", "tokenizer_config.json")(folder)
    torch.testing.assert_close(load_clip(folder).embed(["a cat."]), load_clip(tiny_clip).embed(["a cat."]))


def copy(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder / "copy"))


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def configuration(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "config.json").write_text(text) and None


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_damage(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("config.json"), "no config.json"),
        (configuration("{"), "cannot be read"),
        (configuration("[]"), "cannot be read"),
        (configuration('{"model_type": "siglip"}'), "not a CLIP with a vision transformer"),
        (without("model.safetensors"), "no weights"),
        (without("tokenizer.json", "vocab.json"), "no tokenizer"),
        (without_a_weight, "no visual_projection.weight"),
        (with_damage, "cannot load this checkpoint"),
    ],
)
def test_incomplete_checkpoints_are_refused(
    tiny_clip: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    folder = copy(tiny_clip, tmp_path)
    change(folder)
    with pytest.raises(WeightsError, match=message) as refusal:
        load_clip(folder)
    assert str(folder) in str(refusal.value)


def test_no_folder_and_a_file_are_refused(tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such folder"):
        load_clip(tmp_path / "absent")
    with pytest.raises(WeightsError, match="is a folder, not a file"):
        load_clip(tiny_clip / "model.safetensors")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'needs the package transformers[\s\S]*-e "\.\[clip\]" -c constraints\.txt'):
        load_clip(tmp_path)


def test_texts_that_do_not_fit_and_strange_tokenizers_are_refused(tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long") as refusal:
        load_clip(tiny_clip).embed(["cat", "c" * 76])
    assert "78 tokens" in str(refusal.value)
    folder = copy(tiny_clip, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="tokenizer is not that of the model"):
        load_clip(folder).embed(["cat"])
