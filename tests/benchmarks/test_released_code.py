"""The loader of the released code: refusals that say what to do; its id conventions, on a stand-in of its form."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.released_code import ReleasedCodeAbsent, find_released, load_released

MODULES = "SCALE = 10\n"
MODELS = """
import torch
from modules import SCALE

class CausalModel(torch.nn.Module):
    def __init__(self, args):
        super().__init__()
        self.args = args
        self.device = torch.device("cuda:" + str(args.local_rank))
        self.weight = torch.nn.Parameter(torch.ones(1))

    def pretrain_seq(self, item_input, item_pos, item_neg, test_neg, item_answer, type_input, type_pos):
        self.seen = [item_input, item_pos, item_neg, type_input, type_pos]
        return self.weight.sum() * SCALE, self.weight.sum(), self.weight.sum(), self.weight.sum()
"""
SHAPE = {"n_items": 20, "channels": 8, "max_length": 3}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "models.py").write_text(MODELS)
    (tmp_path / "src" / "modules.py").write_text(MODULES)
    return tmp_path


def test_absent_code_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ReleasedCodeAbsent, match="check out cpark88/SyNCRec beside and give --released PATH"):
        load_released(None, **SHAPE)
    with pytest.raises(ReleasedCodeAbsent, match=r"holds no models\.py and modules\.py"):
        load_released(tmp_path, **SHAPE)


def test_settings_that_the_code_cannot_compute_with_are_refused(checkout: Path) -> None:
    with pytest.raises(ValueError, match="n_domains = 3; the released code is written for 5"):
        load_released(checkout, **SHAPE, n_domains=3)
    with pytest.raises(ValueError, match="n_heads = 3 does not divide channels = 8"):
        load_released(checkout, **SHAPE, n_heads=3)


def test_the_checkout_or_its_source_folder_may_be_named(checkout: Path) -> None:
    assert find_released(checkout) == find_released(checkout / "src") == checkout / "src"


def test_ids_are_shifted_behind_the_special_ones_and_padding_stays(checkout: Path) -> None:
    marker = sys.modules.get("modules")
    model = load_released(checkout, **SHAPE)
    assert sys.modules.get("modules") is marker
    assert model.module.device == torch.device("cpu")  # though the code asks for cuda:0
    assert (model.module.args.item_size, model.module.args.type_size, model.module.args.task_num) == (25, 10, 6)
    items, domains = torch.tensor([[0, 1, 20]]), torch.tensor([[0, 1, 5]])
    losses = model.loss(items, domains, items, items, domains)
    seen = [ids.tolist() for ids in model.module.seen]
    assert seen == [[[0, 5, 24]]] * 3 + [[[0, 5, 9]]] * 2
    losses.total.backward()
    assert model.module.weight.grad.item() == 10
