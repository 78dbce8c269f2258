"""A trained model as a folder: model.safetensors, config.json, vocabulary.json. No pickle anywhere.

Shapes: V items, C channels, T steps, K experts, D domains (of gates and [SOS]: tasks), F features of the blend.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .architectures import build_model
from .config import ModelConfig
from .model import SyNCRec
from .released import ReleasedSyNCRec
from .vocabulary import Vocabulary

FORMAT = 2  # 1: a share of the cross view for a blend


def save_model(
    directory: Path,
    model: SyNCRec,
    vocabulary: Vocabulary,
    views: Mapping[str, str],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the folder in one move: a reader sees the old folder or the whole new one."""
    if vocabulary.domains != model.domains or vocabulary.n_items != model.n_items:
        raise ValueError("save_model: model and vocabulary have different domains or item counts")
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:12]}"
    partial.mkdir()  # not mkdtemp: who may read the model is the process's umask to say
    try:
        weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(weights, partial / "model.safetensors")
        vocabulary.save(partial / "vocabulary.json")
        form = {
            "format": FORMAT,
            "model": model.config.to_dict(),
            "domains": list(model.domains),
            "n_items": list(model.n_items),
            "views": dict(views),
            "metadata": dict(metadata or {}),
        }
        (partial / "config.json").write_text(json.dumps(form, indent=2), encoding="utf-8")
        _replace_folder(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _replace_folder(partial: Path, directory: Path) -> None:
    if not directory.exists():
        os.rename(partial, directory)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old.", dir=directory.parent))
    os.rename(directory, old / "model")
    os.rename(partial, directory)
    shutil.rmtree(old)


def load_model(
    directory: Path, device: str | torch.device = "cpu"
) -> tuple[SyNCRec, Vocabulary, dict[str, str], dict[str, Any]]:
    """Return (model in evaluation mode, vocabulary, views, metadata); ValueError says which file is wrong."""
    directory = Path(directory)
    for name in ("config.json", "vocabulary.json", "model.safetensors"):
        if not (directory / name).is_file():
            raise ValueError(f"{directory} is no saved model: {name} is missing")
    try:
        form: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{directory / 'config.json'} is not JSON ({error}); save the model again") from error
    if form.get("format") not in (1, FORMAT):
        raise ValueError(
            f"{directory / 'config.json'}: format {form.get('format')!r}, this code reads formats up to {FORMAT}: "
            "use the newer code that saved it, or train again"
        )
    vocabulary = Vocabulary.load(directory / "vocabulary.json")
    if list(vocabulary.domains) != form["domains"] or list(vocabulary.n_items) != form["n_items"]:
        raise ValueError(f"{directory}: vocabulary.json and config.json name different domains or item counts")
    try:
        weights = load_file(directory / "model.safetensors")
        share_D = weights.pop("blend_D", None)
        if share_D is not None:  # a model of before the blend had neighbours: it is served on
            form["model"] |= {"start": "random", "neighbours": 0, "fit_blend": False}
        model = build_model(ModelConfig.from_dict(form["model"]), form["domains"], form["n_items"])
        if share_D is not None:
            weights["blend.weights_DF"] = model.blend.weights_DF.clone()
            weights["blend.weights_DF"][:, :2] = torch.stack([2 * share_D, 2 * (1 - share_D)], dim=1)
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{directory / 'model.safetensors'} does not fit config.json: {error}") from error
    return model.to(device).eval(), vocabulary, dict(form["views"]), dict(form["metadata"])


@torch.no_grad()
def warm_start(
    model: SyNCRec, vocabulary: Vocabulary, older_model: SyNCRec, older_vocabulary: Vocabulary
) -> list[str]:
    """Copy an older model's weights into `model`, in place; return the domains that are new.

    In every domain that both know, the older items must be a prefix of today's (indexes are append-only). New
    items and new domains keep their initialisation; positions align at the newest step.
    """
    for domain in older_vocabulary.domains:
        if domain in vocabulary.domains:
            today = vocabulary.item_ids[vocabulary.domains.index(domain)]
            older = older_vocabulary.item_ids[older_vocabulary.domains.index(domain)]
            if today[: len(older)] != older:
                raise ValueError(
                    f"warm_start: the older vocabulary of domain {domain!r} is not a prefix of today's; "
                    "train from the start"
                )
    if model.config.architecture != older_model.config.architecture:
        raise ValueError(
            f"warm_start: the older model is of architecture {older_model.config.architecture!r}, today's of "
            f"{model.config.architecture!r}; their weights mean different things: train from the start"
        )
    if differing := _differing_shape(model.config, older_model.config):
        raise ValueError(f"warm_start: the older model has another {', '.join(differing)}; train from the start")
    _copy_items(model, vocabulary, older_model, older_vocabulary)
    model.items_started = True
    shared = [domain for domain in vocabulary.domains if domain in older_vocabulary.domains]
    tasks = torch.tensor([0, *(vocabulary.domains.index(domain) + 1 for domain in shared)])
    older_tasks = torch.tensor([0, *(older_vocabulary.domains.index(domain) + 1 for domain in shared)])
    new = [domain for domain in vocabulary.domains if domain not in shared]
    if isinstance(model, ReleasedSyNCRec) and isinstance(older_model, ReleasedSyNCRec):
        model.start_from(older_model, tasks, older_tasks)
        return new
    steps = min(model.config.max_length, older_model.config.max_length)
    model.embedding.positions_TC[:steps] = older_model.embedding.positions_TC[:steps]
    model.embedding.sos_DC[tasks] = older_model.embedding.sos_DC[older_tasks]
    _copy_gates(model.gates, older_model.gates, tasks, older_tasks, steps)
    for today_tower, older_tower in zip(tasks.tolist(), older_tasks.tolist(), strict=True):
        _copy_all(model.towers.towers[today_tower], older_model.towers.towers[older_tower])
    _copy_all(model.cross_experts, older_model.cross_experts)
    _copy_all(model.single_experts, older_model.single_experts)
    if model.mutual_information is not None and older_model.mutual_information is not None:
        _copy_all(model.mutual_information, older_model.mutual_information)
    _copy_correction(model, older_model, tasks[1:] - 1, older_tasks[1:] - 1)
    return new


def _differing_shape(today: ModelConfig, older: ModelConfig) -> list[str]:
    names = ["channels", "n_experts", "n_cross_experts", "n_layers", "n_heads", "ffn_multiplier", "gate"]
    if today.architecture == "released":
        names.append("max_length")  # its gate has one weight for every step
    return [name for name in names if getattr(today, name) != getattr(older, name)]


def _copy_all(today: nn.Module, older: nn.Module) -> None:
    today.load_state_dict(older.state_dict())


def _copy_items(model: SyNCRec, vocabulary: Vocabulary, older_model: SyNCRec, older_vocabulary: Vocabulary) -> None:
    for domain, offset in zip(vocabulary.domains, vocabulary.offsets, strict=True):
        if domain in older_vocabulary.domains:
            place = older_vocabulary.domains.index(domain)
            start, count = older_vocabulary.offsets[place] + 1, older_vocabulary.n_items[place]
            rows = older_model.embedding.items_VC[start : start + count]
            model.embedding.items_VC[offset + 1 : offset + 1 + count] = rows


def _copy_gates(today: nn.Module, older: nn.Module, tasks: Tensor, older_tasks: Tensor, steps: int) -> None:
    for name, parameter in today.named_parameters():
        value = older.get_parameter(name)[older_tasks]
        if name == "weight_DTKC":
            parameter[tasks, :steps] = value[:, :steps]
        else:
            parameter[tasks] = value


def _copy_correction(model: SyNCRec, older: SyNCRec, domains: Tensor, older_domains: Tensor) -> None:
    correction, source = model.correction, older.correction
    correction.alpha.copy_(source.alpha)
    correction.beta.copy_(source.beta)
    for name in ("lambda_D", "phi_D", "smooth_phi_D"):
        correction.get_buffer(name)[domains] = source.get_buffer(name)[older_domains]
    correction.lambda_D.div_(correction.lambda_D.sum())
    model.blend.start_from(older.blend, domains, older_domains)
