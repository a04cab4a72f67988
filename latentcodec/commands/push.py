"""`latentcodec push`: a VAE to the hub."""

from typing import Any


def push_vae_command(
    vae: str,
    repo: str,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    variant: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    norm_num_groups: int | None = None,
) -> None:
    """Publish a VAE on the Hugging Face hub, with a model card, and print the address.

    A diffusers folder goes up as it is; anything else is written as one first. The token is that of `hf auth login`
    or of the environment variable HF_TOKEN.

    Example:
        latentcodec push out/vae someone/my-vae --private

    Args:
        vae: A diffusers folder, a file of weights or a name on the Hugging Face hub.
        repo: Where to: owner/name. It is made if it does not exist.
        private: Make a new repository private.
        revision: A branch, made if it does not exist; the main one if not given.
        message: Message of the commit.
        variant: Publish only the weights of this variant of a folder, for example fp16.
        scaling_factor: Scaling factor of the latents, for a single file that does not say it.
        shift_factor: Shift factor of the latents, likewise.
        norm_num_groups: Groups of every GroupNorm, likewise; 32 if not given.
    """
    from latentcodec.vae.publish import push_vae

    options: dict[str, Any] = {
        "variant": variant,
        "scaling_factor": scaling_factor,
        "shift_factor": shift_factor,
        "norm_num_groups": norm_num_groups,
    }
    given = {name: value for name, value in options.items() if value is not None}
    print(push_vae(vae, repo, private=private, revision=revision, message=message, **given))
