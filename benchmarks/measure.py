"""Time a training step, count its matrix products, read the process's peak memory: the same for every row.

torch alone, and no syncrec_model: other libraries' environments import this file, too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, mm_flop, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.memory import resident_peak_gib

Step = Callable[[int], object]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
MOST_SECONDS = 5.0


@dataclass(frozen=True)
class Measured:
    """What one process measured. seconds: of a step, the median pass. gflop: matrix products of one step.

    peak_gib: resident memory of the process on a CPU, allocated memory on a GPU. note: what to know of the row.
    """

    seconds: float
    peak_gib: float
    gflop: float
    passes: int
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure(
    step: Step, *, warm: int, timed: int, seconds: float, device: torch.device, note: str = "", count: bool = True
) -> Measured:
    """Run step(0) to step(warm - 1), then passes over the `timed` batches that follow, for `seconds` or longer.

    Every pass is over the same batches, so that rows are measured on the same users however fast they are.
    """
    for number in range(warm):
        step(number)
    batches = range(warm, warm + timed)
    passes: list[float] = []
    while not passes or sum(passes) < seconds:
        _finish(device)
        began = time.perf_counter()
        for number in batches:
            step(number)
        _finish(device)
        passes.append(time.perf_counter() - began)
    peak = peak_gib(device)
    gflop = flop_of(lambda: step(batches[0])) / 1e9 if count else 0.0
    return Measured(statistics.median(passes) / timed, peak, gflop, len(passes), note)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gib(device: torch.device) -> float:
    """Return the highest memory use of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resident_peak_gib()


def _attention_forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad_out: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad_out, query, key, value))


def _product_in_place(total: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
    return int(mm_flop(left, right))


# torch counts neither products that add in place nor its CPU kernel of attention. Causal or not, the whole square
# is counted, as on GPUs.
_UNCOUNTED = {
    torch.ops.aten.addmm_: _product_in_place,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def flop_of(work: Callable[[], object]) -> int:
    """Return the floating point operations of the matrix products (and attention) that `work` executes."""
    with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
        work()
    return int(counter.get_total_flops())


def matrix_peak(
    device: torch.device,
    precisions: Iterable[str] = tuple(PRECISIONS),
    sizes: Sequence[int] | None = None,
    repeats: int = 7,
) -> dict[str, float]:
    """Return the GFLOP/s of large matrix products by precision: the median of `repeats`, of the best size.

    precisions: ask for those that are compared with, for a processor that does not multiply bfloat16 computes such
    products one by one: 1024 square took 2.8 s on a Xeon at 2.5 GHz. Repeats end after MOST_SECONDS.
    """
    sizes = sizes or ((8192,) if device.type == "cuda" else (1024, 2048))
    return {
        name: max(_product_rate(size, PRECISIONS[name], device, repeats) for size in sizes) for name in precisions
    }


def _product_rate(size: int, kind: torch.dtype, device: torch.device, repeats: int) -> float:
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    out = torch.mm(a, b)
    seconds = []
    for _ in range(repeats):
        _finish(device)
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        _finish(device)
        seconds.append(time.perf_counter() - began)
        if sum(seconds) > MOST_SECONDS:
            break
    return float(2 * size**3 / statistics.median(seconds) / 1e9)
