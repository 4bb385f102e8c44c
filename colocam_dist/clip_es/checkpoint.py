"""A CLIP checkpoint from a local folder in the format of ``transformers``; nothing is ever downloaded.

Shape suffixes: P prompts, D the size of the space that images and texts share.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from colocam_dist.errors import ConfigError, WeightsError
from colocam_dist.models.encoders.timm_pyramid import declare_torchvision_operators

__all__ = ["ClipCheckpoint", "import_transformers", "load_clip"]

INSTALL = 'pip install -e ".[clip]" -c constraints.txt (without the constraints pip may replace torch)'
WANTED = "a folder with config.json, weights and tokenizer, as transformers saves a CLIPModel (clip-vit-base-patch16)"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
LEGACY_END = 2
"""``eos_token_id`` of old configurations, which means: the end of a text is its token of the highest number."""


@dataclass(frozen=True)
class ClipCheckpoint:
    """A CLIP model with its tokenizer, in float32 and eval mode on the CPU, without gradients for its weights.

    Attributes:
        model: the ``CLIPModel``.
        tokenizer: its tokenizer.
        folder: where they come from.
    """

    model: nn.Module
    tokenizer: Any
    folder: Path

    @property
    def patch(self) -> int:
        """Side of a patch in pixels; sides of images are multiples of it."""
        config: Any = self.model.config
        return int(config.vision_config.patch_size)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts.

        Args:
            texts: P texts.

        Returns:
            float32 ``[P, D]``, each of length one.

        Raises:
            ConfigError: a text has more tokens than the model takes.
            WeightsError: the tokenizer is not that of the model.
        """
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        model: Any = self.model
        config = model.config.text_config
        lengths_P = tokens["attention_mask"].sum(1)
        if int(lengths_P.max()) > config.max_position_embeddings:
            longest = int(lengths_P.argmax())
            raise ConfigError(
                "a text is too long for CLIP",
                where=repr(texts[longest]),
                got=f"{int(lengths_P[longest])} tokens",
                wanted=f"at most {config.max_position_embeddings}",
                fix="use fewer words for this class",
            )
        end = self.tokenizer.eos_token_id if config.eos_token_id == LEGACY_END else config.eos_token_id
        ids_PT = tokens["input_ids"]
        if int(ids_PT.max()) >= config.vocab_size or not bool((ids_PT == end).any(1).all()):
            raise WeightsError(
                "the tokenizer is not that of the model",
                where=self.folder,
                got=f"token numbers up to {int(ids_PT.max())}, texts end with {self.tokenizer.eos_token_id}",
                wanted=f"numbers below {config.vocab_size}, end {end}",
                fix="take all files from the same checkpoint",
            )
        with torch.no_grad():
            pooled_PC = model.text_model(input_ids=ids_PT, attention_mask=tokens["attention_mask"]).pooler_output
            return functional.normalize(model.text_projection(pooled_PC), dim=1)


def import_transformers() -> Any:
    """The module ``transformers``, which imports torchvision where that is installed.

    Raises:
        ConfigError: it is not installed, or cannot be imported.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("the CLIP-ES baseline needs the package transformers", where="extra clip", fix=INSTALL)
    declare_torchvision_operators()
    try:
        transformers = importlib.import_module("transformers")
        transformers.CLIPModel  # noqa: B018 - imported when it is asked for
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"transformers cannot be imported beside torch {torch.__version__}: {error}",
            where="extra clip",
            fix=INSTALL,
        ) from error
    return transformers


def load_clip(folder: Path) -> ClipCheckpoint:
    """Load a checkpoint.

    Args:
        folder: holds ``config.json``, weights (safetensors or ``pytorch_model.bin``) and the tokenizer's files. Its
            image tower is a vision transformer of any size; CLIP-ES was published with ViT-B/16.

    Raises:
        ConfigError: the extra ``clip`` is not installed.
        WeightsError: no such folder, something is missing in it, or it is another kind of model.
    """
    transformers = import_transformers()
    _check_files(folder)
    transformers.utils.logging.disable_progress_bar()
    try:
        model, found = transformers.CLIPModel.from_pretrained(
            folder,
            local_files_only=True,
            attn_implementation="eager",  # the others do not give the attention weights
            dtype=torch.float32,
            output_loading_info=True,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # file formats, shapes and settings fail in many ways inside of transformers
        raise WeightsError(
            f"transformers cannot load this checkpoint: {type(error).__name__}: {error}", where=folder, wanted=WANTED
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise WeightsError(
            "the checkpoint lacks weights of a CLIPModel, which would stay random",
            where=folder,
            got=f"no {', '.join(missing[:3])}" + (f" and {len(missing) - 3} more" if len(missing) > 3 else ""),
            wanted=WANTED,
        )
    return ClipCheckpoint(model.eval().requires_grad_(False), tokenizer, folder)


def _check_files(folder: Path) -> None:
    """Refuse what transformers would take for something else, or would ask the network for."""
    if not folder.is_dir():
        what = "a CLIP checkpoint is a folder, not a file" if folder.exists() else "there is no such folder"
        fix = "save it once with transformers' CLIPModel and its tokenizer: model.save_pretrained(FOLDER)"
        raise WeightsError(what, where=folder, wanted=WANTED, fix=fix)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except FileNotFoundError:
        raise WeightsError("the folder has no config.json", where=folder, wanted=WANTED) from None
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError("config.json cannot be read", where=folder, got=str(error), wanted=WANTED) from None
    if kind != "clip":
        raise WeightsError(
            "this is not a CLIP with a vision transformer and a text tower",
            where=folder / "config.json",
            got=f"model_type {kind!r}",
            wanted="model_type 'clip'",
        )
    if not any(file for pattern in WEIGHTS for file in folder.glob(pattern)):
        raise WeightsError("the folder has no weights", where=folder, got="no " + " and no ".join(WEIGHTS))
    words = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    if not (words or (folder / "tokenizer.json").is_file()):
        raise WeightsError(
            "the folder has no tokenizer", where=folder, wanted="tokenizer.json, or vocab.json and merges.txt"
        )
