"""MODEL.md sections 2, 3 and 7 in plain numpy, one sequence, expert, head and step at a time.

What SyNCRec must compute, written from the equations; it shares no code with syncrec_model. `w` maps the model's
parameter names to float64 arrays, the only thing both sides must agree on. `sizes` lists V_d.

Shapes: n steps of one sequence, C channels, K experts, V_d items of domain d.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reference_sequences import CROSS, Event
from reference_sequences import Sequence as Steps

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    raised = np.exp(x - max(x))
    return raised / sum(raised)


def gelu(x: Array) -> Array:
    """x times the chance that a standard normal draw lies below x."""
    return np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def layer_norm(x: Array, scale: Array, shift: Array) -> Array:
    centred = x - sum(x) / len(x)
    return centred / np.sqrt(sum(centred**2) / len(x) + 1e-5) * scale + shift


def item_vector(w: Weights, sizes: Sequence[int], domain: int, item: int) -> Array:
    """M(x): the tables M^1, M^2, ... are stacked below the one padding row."""
    return w["embedding.items_VC"][1 + sum(sizes[: domain - 1]) + item - 1]


def embedding(w: Weights, sizes: Sequence[int], steps: Steps) -> Array:
    """E = M[X] + P, [n, C]; positions count back from the newest step, [SOS] is the task's own vector."""
    rows = []
    for t, event in enumerate(steps.inputs):
        steps_before_newest = len(steps.inputs) - 1 - t
        if event is None:
            content = w["embedding.sos_DC"][steps.task]
        else:
            content = item_vector(w, sizes, event.domain, event.item)
        rows.append(content + w["embedding.positions_TC"][steps_before_newest])
    return np.array(rows)


def expert(w: Weights, stack: str, k: int, e: Array, n_layers: int, n_heads: int) -> Array:
    """f^k(E), [n, C]: causal attention and FFN, each on the normed input and added to it; a norm at the end."""
    x = e
    for layer in range(n_layers):
        prefix = f"{stack}.layers.{layer}."
        normed = [_expert_norm(w, prefix + "attention_norm", k, row) for row in x]
        attended = attention([_expert_linear(w, prefix + "qkv", k, row) for row in normed], n_heads)
        attended = [_expert_linear(w, prefix + "attention_out", k, row) for row in attended]
        x = x + np.array(attended)
        hidden = [_expert_linear(w, prefix + "ffn_in", k, _expert_norm(w, prefix + "ffn_norm", k, r)) for r in x]
        x = x + np.array([_expert_linear(w, prefix + "ffn_out", k, gelu(row)) for row in hidden])
    return np.array([_expert_norm(w, stack + ".norm", k, row) for row in x])


def _expert_norm(w: Weights, name: str, k: int, x: Array) -> Array:
    return layer_norm(x, w[name + ".scale_KC"][k], w[name + ".shift_KC"][k])


def _expert_linear(w: Weights, name: str, k: int, x: Array) -> Array:
    return x @ w[name + ".weight_KIO"][k] + w[name + ".bias_KO"][k]


def attention(qkv: list[Array], n_heads: int) -> list[Array]:
    """Every head of every step looks at the steps up to itself; qkv: per step the 3 C values q, k, v."""
    out = []
    split = [[np.split(part, n_heads) for part in np.split(row, 3)] for row in qkv]
    for t in range(len(qkv)):
        heads = []
        for h in range(n_heads):
            query = split[t][0][h]
            keys = [split[s][1][h] for s in range(t + 1)]
            values = [split[s][2][h] for s in range(t + 1)]
            weight = softmax(np.array([query @ key for key in keys]) / math.sqrt(len(query)))
            heads.append(sum(weight[s] * values[s] for s in range(t + 1)))
        out.append(np.concatenate(heads))
    return out


def gate(w: Weights, kind: str, task: int, e: Array) -> Array:
    """g(E), [n, K]. step: softmax(W e_t). sequence: softmax(W flatten(E)), the same at every step."""
    if kind == "step":
        return np.array([softmax(w["gates.weight_DKC"][task] @ row) for row in e])
    per_position = w["gates.weight_DTKC"][task]
    logits = sum(per_position[len(e) - 1 - t] @ row for t, row in enumerate(e))
    return np.array([softmax(logits)] * len(e))


def mixture(w: Weights, config: Any, sizes: Sequence[int], steps: Steps, stopped: Weights) -> Array:
    """f^c(E) or f^d(E), [n, C]. Experts of the other task family, and the E they read, come from `stopped`.

    As values `stopped` equals w. Whoever moves w alone sees what the gradient sees: SG as a frozen value.
    """
    e = embedding(w, sizes, steps)
    e_stopped = e if stopped is w else embedding(stopped, sizes, steps)
    g = gate(w, config.gate, steps.task, e)
    mixed = np.zeros_like(e)
    j = config.n_cross_experts
    for k in range(config.n_experts):
        stack, index = ("cross_experts", k) if k < j else ("single_experts", k - j)
        learns = not config.stop_gradient or (k < j) == (steps.task == CROSS)
        source, read = (w, e) if learns else (stopped, e_stopped)
        f = expert(source, stack, index, read, config.n_layers, config.n_heads)
        mixed += np.array([g[t, k] * f[t] for t in range(len(e))])
    return mixed


def tower(w: Weights, task: int, x: Array) -> Array:
    """h(x) = LN(x + FFN(x)) of one step, [C]."""
    name = f"towers.towers.{task}."
    hidden = gelu(w[name + "ffn.0.weight"] @ x + w[name + "ffn.0.bias"])
    out = w[name + "ffn.2.weight"] @ hidden + w[name + "ffn.2.bias"]
    return layer_norm(x + out, w[name + "norm.weight"], w[name + "norm.bias"])


def view(w: Weights, config: Any, sizes: Sequence[int], steps: Steps, stopped: Weights | None = None) -> Array:
    """Y_cross of X or Y^d_single of X^d, [n, C]."""
    mixed = mixture(w, config, sizes, steps, w if stopped is None else stopped)
    return np.array([tower(w, steps.task, row) for row in mixed])


def scores(w: Weights, sizes: Sequence[int], y: Array, domain: int) -> Array:
    """s = y . M(x) of every item of the domain, [V_d]."""
    return np.array([y @ item_vector(w, sizes, domain, x) for x in range(1, sizes[domain - 1] + 1)])


def last_view(w: Weights, config: Any, sizes: Sequence[int], steps: Steps) -> Array:
    """Y after the newest step, [C]: what serving scores with."""
    return view(w, config, sizes, steps)[-1]


def served_scores(w: Weights, config: Any, sizes: Sequence[int], cross: Steps, single: Steps, kind: str) -> Array:
    """The scores [V_d] of one user in the domain of `single`: view cross, single or blend (section 7)."""
    domain = single.task
    by_cross = scores(w, sizes, last_view(w, config, sizes, cross), domain)
    by_single = scores(w, sizes, last_view(w, config, sizes, single), domain)
    weights_F = w["blend.weights_DF"][domain - 1]
    blended = weights_F[0] * by_cross + weights_F[1] * by_single
    return {"cross": by_cross, "single": by_single, "blend": blended}[kind]


def other_item(event: Event, sizes: Sequence[int]) -> int:
    """The only negative that a domain of two items leaves; a domain of one item has but the target itself."""
    return min(3 - event.item, sizes[event.domain - 1])
