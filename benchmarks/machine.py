"""What this machine can do at most, and what it is."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from detectron2 import __version__ as detectron2_version

from transfer_maskrcnn.modeling.precision import cpu_has_bf16


def peaks() -> dict[str, dict[str, float]]:
    """By device, operations a second in fp32 and in the fastest type, and bytes a second."""
    fast = torch.bfloat16 if cpu_has_bf16() else torch.float32
    found = {
        "cpu": {
            "fp32": peak_flops("cpu", torch.float32),
            "fast": peak_flops("cpu", fast),
            "bytes": peak_bytes("cpu"),
        }
    }
    if torch.cuda.is_available():
        found["cuda"] = {
            "fp32": peak_flops("cuda", torch.float32),
            "fast": peak_flops("cuda", torch.bfloat16),
            "bytes": peak_bytes("cuda"),
        }
    return found


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of the fastest large operation: products, convolutions."""
    side = 2048 if device == "cpu" else 8192
    matrix = torch.randn(side, side, device=device).to(dtype)
    product = 2 * side**3 / _best(lambda: matrix @ matrix)
    conv = torch.nn.Conv2d(256, 256, 3, padding=1, bias=False).to(device, dtype)
    conv.to(memory_format=torch.channels_last)
    pixels = torch.randn(2, 256, 120, 160, device=device).to(dtype)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    flops = 2 * pixels.numel() * 256 * 9
    with torch.no_grad():
        convolution = flops / _best(lambda: conv(pixels))
    return max(product, convolution)


def peak_bytes(device: str) -> float:
    """Bytes a second of copying a large block within the device's memory, read and written."""
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source))


def _best(action: Callable[[], Any], runs: int = 7) -> float:
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def describe() -> dict[str, Any]:
    """Processor, cores, instruction sets and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((li.partition(":")[2].strip() for li in lines if "model name" in li), "unknown")
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "bf16 instructions": cpu_has_bf16(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": detectron2_version,
        "python": platform.python_version(),
    }
