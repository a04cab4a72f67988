"""Which type to compute in on a machine."""

import torch

SUPPORTED = (torch.float32, torch.bfloat16, torch.float16)


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware (AVX512-BF16, AMX, NVIDIA since Ampere), else float32.

    float16 is never chosen: the activations of some VAEs, SDXL's among them, leave its range.
    """
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    elif device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = False
    return torch.bfloat16 if native else torch.float32
