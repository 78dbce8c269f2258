"""Where each loss sends its gradient, parameter by parameter, and that autograd's values are the equations'."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from reference_losses import Frozen, State
from reference_sequences import Event
from torch import Tensor
from worlds import World

from syncrec_model import ModelConfig, SyNCRec

CONFIG = ModelConfig(
    channels=4, max_length=5, n_experts=5, n_cross_experts=3, n_layers=2, n_heads=2, dropout=0.0, correction="paper"
)
ALL = slice(None)
CROSS = 0


# Domains of each user's events: longer and shorter than the window, every route in use in every domain.
VISITS = ([1, 2, 3, 1, 2, 3, 1, 2, 3], [1, 2, 3], [3, 1, 2, 3, 1], [2, 3, 3, 2, 1], [1, 1, 2])


def world(n_domains: int = 3, **changes) -> World:
    config = dataclasses.replace(CONFIG, **changes)
    sizes = (5, 4, 6)[:n_domains] if config.loss == "softmax" else (2, 2, 2)[:n_domains]
    rng, log = np.random.default_rng(3), []
    for user, visits in enumerate(VISITS):
        for visit in visits:
            domain = (visit - 1) % n_domains + 1
            log.append(Event(user, int(rng.integers(1, sizes[domain - 1] + 1)), domain, 0.0, len(log)))
    return World(config, sizes, len(VISITS), 5, tuple(log), 3)


def prediction_losses(one: World) -> dict[str, Tensor]:
    """Softmax losses from the model's views, summed per family and domain: "cross 1", "single 1", ..."""
    tables, batch = one.model.embedding.tables(), one.batch
    families = {
        "cross": (one.model.views(batch.cross), batch.cross_targets_N, batch.cross_domains_N),
        "single": (one.model.views(batch.single), batch.single_targets_N, batch.single_domains_N),
    }
    losses = {}
    for family, (y_NC, target_N, domain_N) in families.items():
        for d, table_VC in enumerate(tables, start=1):
            mine = domain_N == d
            log_p = (y_NC[mine] @ table_VC.T).log_softmax(-1)
            losses[f"{family} {d}"] = -log_p.gather(1, target_N[mine, None] - 1).sum()
    return losses


def reached(one: World, loss: Tensor) -> dict[str, Tensor]:
    """Return per parameter which rows (first axis; the whole where it is a scalar) the loss sends gradient to."""
    model = one.model
    model.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    found = {}
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found[name] = gradient.reshape(len(gradient) if gradient.dim() else 1, -1).abs().amax(1) > 0
    return found


def route(name: str, one: World) -> dict[str, slice]:
    """Return which prediction losses reach a parameter, and which rows of it: MODEL.md section 3, name by name."""
    domains = range(1, len(one.sizes) + 1)
    cross = {f"cross {d}": CROSS for d in domains}
    single = {f"single {d}": d for d in domains}
    part, *rest = name.split(".")
    if name in ("embedding.items_VC", "embedding.positions_TC"):
        return dict.fromkeys(cross | single, ALL)
    if name == "embedding.sos_DC" or part == "gates":  # each task its own row
        return {loss: slice(task, task + 1) for loss, task in (cross | single).items()}
    if part == "cross_experts":  # experts 1..j, every one of them
        return dict.fromkeys(cross if one.config.stop_gradient else cross | single, ALL)
    if part == "single_experts":  # experts j+1..K, every one of them
        return dict.fromkeys(single if one.config.stop_gradient else cross | single, ALL)
    if part == "towers":
        return {loss: ALL for loss, task in (cross | single).items() if task == int(rest[1])}
    if part in ("correction", "mutual_information"):
        return {}
    raise AssertionError(f"{name} is new: say here which losses may reach it")


@pytest.mark.parametrize("gate", ["step", "sequence"])
@pytest.mark.parametrize("stop_gradient", [True, False])
def test_each_prediction_loss_reaches_exactly_its_own_parameters(gate: str, stop_gradient: bool):
    one = world(gate=gate, stop_gradient=stop_gradient)
    names = [name for name, _ in one.model.named_parameters()]
    routes = {name: route(name, one) for name in names}  # raises for a parameter without a route
    for loss_name, loss in prediction_losses(one).items():
        found = reached(one, loss)
        assert set(found) == set(names)
        for name in names:
            rows = routes[name].get(loss_name)
            where = f"{loss_name} -> {name}"
            if rows is None:
                assert not found[name].any(), f"{where}: no gradient may arrive"
                continue
            expected = torch.zeros_like(found[name])
            expected[rows] = True
            if name in ("embedding.items_VC", "embedding.positions_TC"):
                assert found[name].any(), f"{where}: gradient must arrive"
            else:
                assert torch.equal(found[name], expected), f"{where}: rows {found[name].tolist()}"


def test_mutual_information_reaches_both_families_and_its_own_matrix():
    one = world()
    batch, model = one.batch, one.model
    losses_D, defined_D = model.mutual_information(model.views(batch.cross), model.views(batch.single), batch)
    assert defined_D.all()
    found = reached(one, losses_D.sum())
    silent = {name for name, rows in found.items() if not rows.any()}
    assert silent == {"correction.alpha", "correction.beta"}
    for name, rows in found.items():
        if name.startswith(("cross_experts", "single_experts", "gates", "embedding.sos")):
            assert rows.all(), name


def total_gradient(one: World, steps: int) -> dict[str, Tensor]:
    """Return the gradient of the total after `steps` updates of lambda."""
    for _ in range(steps):
        one.model(one.batch)
    one.model.zero_grad(set_to_none=True)
    one.model(one.batch).total.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in one.model.named_parameters()
    }


@pytest.mark.parametrize(("n_domains", "correction", "arrives"), [
    (1, "paper", False), (2, "paper", True), (3, "paper", True), (3, "uniform", False), (3, "bounded", False),
])  # fmt: skip
def test_alpha_and_beta_learn_by_the_papers_correction_alone(n_domains: int, correction: str, arrives: bool):
    gradient = total_gradient(world(n_domains, correction=correction), steps=1)
    for name in ("correction.alpha", "correction.beta"):
        assert (gradient[name].abs().item() > 1e-9) == arrives, name


def test_every_parameter_learns_from_the_total_of_the_paper():
    silent = [name for name, g in total_gradient(world(mim_score="cosine"), steps=1).items() if not g.any()]
    assert silent == []


def test_lambda_and_phi_are_state_and_not_parameters():
    model = world().model
    state = {"correction.lambda_D", "correction.phi_D", "correction.smooth_phi_D", "blend.weights_DF"}
    state |= {f"blend.neighbours.{name}" for name in ("starts", "items", "weights", "popularity")}
    assert state == set(model.state_dict()) - {name for name, _ in model.named_parameters()}
    losses = model(world().batch)
    assert not losses.gap_sum_D.requires_grad and not model.correction.lambda_D.requires_grad
    again = SyNCRec(model.config, model.domains, model.n_items).double()
    again.load_state_dict(model.state_dict())
    assert again.correction.lambda_D.tolist() == model.correction.lambda_D.tolist() != [1 / 3] * 3
    assert again.correction.phi_D.tolist() == model.correction.phi_D.tolist() != [0] * 3


VALUES = {
    "default": {"correction": "uniform", "gate": "step"},
    "paper": {"gate": "sequence", "loss": "pairwise", "correction": "paper", "mim_others_only": True},
    "bounded": {"loss": "bce", "correction": "bounded", "mim_score": "cosine"},
    "free": {"stop_gradient": False, "correction": "paper", "n_layers": 1},
}


def slopes(one: World, state: State, directions: dict[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    """Yield the slope of the reference's total along each parameter's direction; stopped values stand still."""
    start, h = one.weights, 1e-5
    frozen = Frozen(start, one.expected(state))
    for name, direction in directions.items():
        ends = []
        for sign in (1, -1):
            moved = dataclasses.replace(one)
            moved.__dict__["weights"] = {**start, name: start[name] + sign * h * direction}
            ends.append(moved.expected(state, frozen=frozen).total)
        yield name, (ends[0] - ends[1]) / (2 * h)


@pytest.mark.parametrize("name", VALUES)
def test_the_gradient_of_the_total_is_the_slope_of_the_equations(name: str):
    """Along a random direction of every parameter. SG and phi are frozen values in the reference, so a gradient
    that leaks through a stopped expert, into the embeddings behind it or into phi, shows here."""
    one = world(n_experts=3, n_cross_experts=2, **({"n_layers": 1} | VALUES[name]))
    state = one.expected(State.start(len(one.sizes))).state
    gradient = total_gradient(one, steps=1)
    rng = np.random.default_rng(1)
    directions = {key: rng.normal(size=g.shape) for key, g in gradient.items()}
    for key, slope in slopes(one, state, directions):
        along = float((gradient[key].numpy() * directions[key]).sum())
        assert along == pytest.approx(slope, rel=1e-6, abs=1e-8), key
