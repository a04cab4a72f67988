"""Train a small diffusion model on a latent store: all that a training script needs of `latentcodec`, and little else.

    latentcodec precompute photos latents --vae out/vae --size 256 --flip
    python examples/train_on_store.py latents --vae out/vae --out out/diffusion --steps 1000
    accelerate launch examples/train_on_store.py latents ...     # on several GPUs

The same command again with more steps goes on where it stopped: same rows, same draws, on any number of processes. The
model is a UNet of diffusers, the loss that of rectified flow (Liu et al., arXiv:2209.03003): noisy latents are
(1 - t) * latents + t * noise, and the network tells the velocity noise - latents. A store with labels makes it
class-conditional.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import UNet2DModel
from torch import Tensor

from latentcodec import BucketBatchSampler, LatentCodec, LatentDataset, LatentLoader
from latentcodec.store.samples import LatentBatch


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small diffusion model on a latent store.")
    parser.add_argument("store", help="folder or URL")
    parser.add_argument(
        "--vae", required=True, help="the VAE of the store: another one is refused; it decodes the samples"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for model, state and samples")
    parser.add_argument("--steps", type=int, default=1000, help="of all runs together")
    parser.add_argument("--batch_size", type=int, default=32, help="of each process")
    parser.add_argument("--width", type=int, default=64, help="channels of the UNet's first level")
    parser.add_argument("--classes", type=int, help="labels are 0 ... classes - 1; without it they are not used")
    parser.add_argument("--workers", type=int, default=2, help="processes that read")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def build_unet(dataset: LatentDataset, width: int, classes: int | None) -> UNet2DModel:
    channels = dataset.manifest.settings.channels
    return UNet2DModel(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        num_class_embeds=classes,
    )


def flow_loss(unet: torch.nn.Module, latents: Tensor, labels: Tensor | None) -> Tensor:
    """Mean squared error of the velocity, over all values. Times are drawn as in SD 3 (arXiv:2403.03206)."""
    noise = torch.randn_like(latents)
    time = torch.sigmoid(torch.randn(len(latents), device=latents.device))
    mixed = torch.lerp(latents, noise, time[:, None, None, None])
    velocity = unet(mixed, 1000 * time, class_labels=labels).sample
    return torch.nn.functional.mse_loss(velocity, noise - latents)


@torch.no_grad()
def draw_samples(unet: torch.nn.Module, like: Tensor, labels: Tensor | None, steps: int = 20) -> Tensor:
    """Latents of the shape of `like`, from noise by Euler's method."""
    latents = torch.randn_like(like)
    for step in range(steps, 0, -1):
        time = torch.full((len(latents),), step / steps, device=latents.device)
        latents = latents - unet(latents, 1000 * time, class_labels=labels).sample / steps
    return latents


def labels_of(batch: LatentBatch, classes: int | None, device: torch.device) -> Tensor | None:
    return None if classes is None else torch.as_tensor(batch["label"], device=device)


def main() -> None:
    options = parse_arguments()
    accelerator = Accelerator()
    device = accelerator.device
    set_seed(options.seed, device_specific=True)

    # Latents come scaled, drawn anew each epoch, mirrored half of the time if the store holds mirrored images.
    dataset = LatentDataset(options.store, vae=options.vae, seed=options.seed)
    # Knows rank and world size by itself, so it is not given to `accelerator.prepare`.
    sampler = BucketBatchSampler(dataset, options.batch_size, seed=options.seed, drop_last=True)
    loader = LatentLoader(dataset, sampler, num_workers=options.workers, pin_memory=device.type == "cuda")

    unet = build_unet(dataset, options.width, options.classes)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
    unet, optimizer = accelerator.prepare(unet, optimizer)
    accelerator.register_for_checkpointing(loader)  # the place in the data is saved and loaded with the rest

    state, step = options.out / "state", 0
    if state.is_dir():
        accelerator.load_state(str(state))
        step = int((options.out / "step.txt").read_text())
        accelerator.print(f"going on at step {step}, {loader.state_dict()['batches']} batches into the epoch")
    while step < options.steps:
        for batch in loader:  # what is left of the epoch, then the next
            labels = labels_of(batch, options.classes, device)
            loss = flow_loss(unet, batch["latents"].to(device, non_blocking=True), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % 50 == 0 or step == options.steps:
                accelerator.print(f"step {step}, loss {loss.item():.4f}")
            if step == options.steps:
                break

    accelerator.save_state(str(state))
    if accelerator.is_main_process:
        (options.out / "step.txt").write_text(f"{step}\n")
        trained = accelerator.unwrap_model(unet)
        trained.save_pretrained(options.out / "unet")
        samples = draw_samples(trained.eval(), batch["latents"][:4].to(device), None if labels is None else labels[:4])
        codec = LatentCodec.from_pretrained(options.vae, device=device)
        for number, picture in enumerate(codec.decode(samples).to_pil()):
            picture.save(options.out / f"sample-{number}.png")


if __name__ == "__main__":
    main()
