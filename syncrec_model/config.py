"""What a model is and how it is trained: two typed records that refuse contradictory values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

ARCHITECTURES = ("syncrec", "released")
GATES = ("step", "sequence")
LOSSES = ("softmax", "pairwise", "bce")
CORRECTIONS = ("uniform", "bounded", "paper")
STARTS = ("cooccurrence", "random")
MIM_SCORES = ("sigmoid", "cosine")
PRESETS = ("default", "paper", "released")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16")
# What the released code computes and cannot be told to leave: field, its only value, in words.
_RELEASED = {
    "gate": ("sequence", "a noisy gate over the whole window"),
    "loss": ("bce", "the bce of one negative from all domains"),
    "correction": ("paper", "the lambda recursion with alpha and beta at their random start"),
    "ffn_multiplier": (4, "feed-forward nets of 4 x channels"),
    "stop_gradient": (True, "one expert module whose copies are detached by turns"),
    "mim_score": ("sigmoid", "SC-MIM as a sigmoid pair loss"),
    "mim_others_only": (True, "SC-MIM against another user's items"),
    "eta": (0.5, "the plain sum of its losses"),
}

# What the published and the released model do not have.
_PLAIN: dict[str, Any] = {"start": "random", "neighbours": 0, "fit_blend": False}


class _Record:
    """JSON form shared by both configurations."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values; an unknown name is refused with the list of known ones."""
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in values:
            if name not in known:
                raise ValueError(f"{cls.__name__}: unknown setting {name!r}; known settings are {', '.join(known)}")
        return cls(**values)

    def _refuse(self, name: str, why: str) -> ValueError:
        return ValueError(f"{type(self).__name__}.{name} = {getattr(self, name)!r}: {why}")

    def _whole(self, name: str, low: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise self._refuse(name, f"give a whole number at least {low}")

    def _real(self, name: str, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._refuse(name, "give a finite number")
        if value < low or value > high or (open_low and value == low):
            raise self._refuse(name, f"give a number {'above' if open_low else 'from'} {low:g} up to {high:g}")

    def _one_of(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise self._refuse(name, f"choose one of {', '.join(choices)}")

    def _flag(self, name: str) -> None:
        if not isinstance(getattr(self, name), bool):
            raise self._refuse(name, "give true or false")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Record):
    """The shape of SyNCRec and which of its parts are on.

    architecture: "syncrec", or "released" for what the released research code computes instead (released.py).
    channels, max_length, n_experts: r, T and K of the paper. n_cross_experts: j, the experts 1..j that learn
    from the cross task alone (the others learn from the single tasks alone).
    gate: "step" mixes experts per step and is causal; "sequence" is the paper's gate over the whole window,
    which looks ahead at future steps of the window in training (use it to reproduce, not to serve): see `causal`.
    loss: "softmax" over the target's domain; "pairwise" is the paper's; "bce" the released code's.
    full_softmax_items: a domain with more items takes the sampled softmax, over the target and sampled_negatives
    items of the domain, drawn once a batch by popularity and corrected by logQ; the item table then learns by
    rows (optimizer.py). Both are for loss = "softmax".
    correction: what multiplies each domain's cross loss. "uniform": 1. "bounded": lambda scaled to mean 1, fed
    with the smoothed gap of the steps before, drawn towards 1 until all lie in
    [correction_floor, 2 - correction_floor].
    "paper": lambda itself. Lambda is tracked and reported whatever this says.
    temperature: delta of the lambda recursion. eta: share of the prediction losses against SC-MIM.
    mim_score: rho of SC-MIM, the paper's sigmoid of a bilinear form or a scaled cosine.
    mim_others_only: leave the user's own view out of the contrast sum, as the paper prints it. mim = false makes
    both, and eta's share, idle.
    start: where item vectors start. "cooccurrence": factors of the training sequences' PPMI matrix
    (cooccurrence.py); "random": small random numbers.
    neighbours: near items that the blend knows of each item, per domain (neighbours.py); 0: views alone.
    fit_blend: fit the blend's weights per domain on validation; otherwise it is the sum of both views.
    stop_gradient: false lets both tasks teach every expert. Without ACMoE altogether: n_experts = 1,
    n_cross_experts = 0, stop_gradient = false.
    """

    architecture: str = "syncrec"
    channels: int = 64
    max_length: int = 50
    n_experts: int = 4
    n_cross_experts: int = 2
    n_layers: int = 1
    n_heads: int = 1
    ffn_multiplier: int = 2
    dropout: float = 0.5
    gate: str = "step"
    loss: str = "softmax"
    full_softmax_items: int = 20_000
    sampled_negatives: int = 4096
    correction: str = "uniform"
    correction_floor: float = 0.5
    correction_momentum: float = 0.9
    temperature: float = 1.0
    mim: bool = True
    mim_score: str = "sigmoid"
    mim_others_only: bool = False
    stop_gradient: bool = True
    eta: float = 0.9
    start: str = "cooccurrence"
    neighbours: int = 100
    fit_blend: bool = True

    @property
    def causal(self) -> bool:
        """Whether no output of a training row depends on later events of the row.

        False for gate = "sequence", and so for the preset "paper": its gate looks ahead. In evaluation and
        serving a row ends before its target, so there nothing leaks.
        """
        return self.gate == "step"

    def __post_init__(self) -> None:
        for name in ("channels", "max_length", "n_experts", "n_layers", "n_heads", "ffn_multiplier"):
            self._whole(name, 1)
        for name in ("full_softmax_items", "sampled_negatives"):
            self._whole(name, 1)
        if self.n_experts == 1 and (self.stop_gradient or self.n_cross_experts):
            raise self._refuse(
                "n_experts",
                "one expert cannot be divided; for the model without ACMoE give n_cross_experts = 0 and "
                "stop_gradient = false as well, otherwise at least 2 experts",
            )
        self._whole("n_cross_experts", 0)
        if self.n_cross_experts > self.n_experts:
            most = self.n_experts - 1 if self.stop_gradient else self.n_experts
            raise self._refuse(
                "n_cross_experts",
                f"they are among n_experts = {self.n_experts}: give at most {most}, or more n_experts",
            )
        self._real("dropout", 0.0, 0.95)
        self._real("correction_floor", 0.0, 1.0)
        self._real("correction_momentum", 0.0, 0.9999)
        self._real("temperature", 0.0, open_low=True)
        self._real("eta", 0.0, 1.0, open_low=True)
        self._one_of("architecture", ARCHITECTURES)
        self._one_of("gate", GATES)
        self._one_of("loss", LOSSES)
        self._one_of("correction", CORRECTIONS)
        self._one_of("mim_score", MIM_SCORES)
        self._one_of("start", STARTS)
        self._whole("neighbours", 0)
        for name in ("mim", "mim_others_only", "stop_gradient", "fit_blend"):
            self._flag(name)
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        if self.channels % self.n_heads:
            raise self._refuse("n_heads", f"channels ({self.channels}) must be a multiple of the heads")
        if self.max_length < 2:
            raise self._refuse("max_length", "a window of one step has no history; give at least 2")
        if self.stop_gradient and not 1 <= self.n_cross_experts < self.n_experts:
            raise self._refuse(
                "n_cross_experts",
                f"with stop_gradient each side needs an expert of its own: give 1 to n_experts - 1 "
                f"({self.n_experts - 1}), or set stop_gradient = false",
            )
        readers = (
            ("loss", "softmax", ("full_softmax_items", "sampled_negatives")),
            ("correction", "bounded", ("correction_floor", "correction_momentum")),
        )
        for reader, value, names in readers:
            chosen = getattr(self, reader)
            for name in names:
                if chosen != value and getattr(self, name) != getattr(type(self), name):
                    raise self._refuse(
                        name, f'only {reader} = "{value}" reads it, and {reader} is {chosen!r}; leave it out'
                    )
        if self.sampled_negatives > self.full_softmax_items:
            raise self._refuse(
                "sampled_negatives",
                f"a domain of full_softmax_items ({self.full_softmax_items}) or fewer items is never sampled; "
                "give at most that many negatives",
            )
        if self.neighbours and not self.fit_blend:
            raise self._refuse("neighbours", "only a fitted blend reads them; give 0, or fit_blend = true")
        if self.mim and self.eta == 1:
            raise self._refuse("eta", "SC-MIM would have no weight; give eta below 1 or set mim = false")
        if self.architecture == "released":
            for name, (only, words) in _RELEASED.items():
                if getattr(self, name) != only:
                    raise self._refuse(
                        name, f"the released code computes {words}: give {only!r}, or architecture = 'syncrec'"
                    )

    @classmethod
    def preset(cls, name: str) -> ModelConfig:
        """Return a named configuration.

        "default" is what measured best so far. "paper" is the published equations; it differs from the printed
        text only in signs, means for sums, pooling in SC-MIM and phi on shared targets (MODEL.md section 7);
        its sequence gate looks ahead in training. Sizes, dropout, temperature and eta are free in its equations.
        "released" is what the released code computes, with the numbers of its training command (channels apart,
        512 there). Change single fields with `dataclasses.replace`.
        """
        if name == "default":
            return cls()
        if name == "paper":
            return cls(
                n_experts=5, n_cross_experts=4, gate="sequence", loss="pairwise", correction="paper",
                mim_others_only=True, **_PLAIN,
            )  # fmt: skip
        if name == "released":
            fixed: dict[str, Any] = {field: value for field, (value, _) in _RELEASED.items()}
            return cls(
                architecture="released", n_experts=5, n_cross_experts=4, n_layers=2, dropout=0.5, **_PLAIN, **fixed
            )  # fmt: skip
        raise ValueError(f"ModelConfig.preset: unknown preset {name!r}; known presets are {', '.join(PRESETS)}")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(_Record):
    """How one model is trained.

    batch_size: users of one step, over all ranks. patience: epochs without a better validation before training
    stops. average_epochs: time constant, in epochs, of the moving average of the weights that is measured and kept
    (averaging.py); 0: the last weights. precision: "bf16" computes products in bfloat16, weights stay as they are.
    deterministic: only algorithms that give the same bits every time; on a GPU slower, and the process must have
    been started with CUBLAS_WORKSPACE_CONFIG=:4096:8. compile: let torch.compile generate code for this machine.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    warmup_steps: int = 20
    clip_norm: float = 5.0
    average_epochs: float = 0.7
    patience: int = 3
    seed: int = 0
    threads: int = 0
    device: str = "auto"
    precision: str = "fp32"
    deterministic: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            self._whole(name, 1)
        for name in ("warmup_steps", "seed", "threads"):
            self._whole(name, 0)
        self._real("learning_rate", 0.0, open_low=True)
        self._real("weight_decay", 0.0)
        self._real("clip_norm", 0.0, open_low=True)
        self._real("average_epochs", 0.0)
        self._one_of("device", DEVICES)
        self._one_of("precision", PRECISIONS)
        self._flag("deterministic")
        self._flag("compile")
