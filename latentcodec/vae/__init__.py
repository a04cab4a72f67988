"""The network, which is `diffusers.AutoencoderKL`, and its files.

presets      one aligned table of named architectures
ecosystems   which programs can load a geometry, or why they cannot
families     known families of latents, by channels, scale and shift
blueprint    every layer of a config, by name, shape and resolution, without building it
cost         parameters and multiply-accumulates of a geometry
sources      find and read: diffusers folder, hub name, single file, shipped name
stored       tensors of a safetensors file without torch
weights      tensors in files with torch: read, cast
hub          files of a repository on the Hugging Face hub
loading      load_vae: a network from any source
saving       save_vae: a diffusers folder, whole or not at all
geometry     an AutoencoderKL config from the shapes of its tensors
ldm          names and shapes of LDM/CompVis single files <-> diffusers, both ways
fingerprint  sha256 of the weights, the same for every file format
inspection   all of that about one VAE, as text or JSON
ranges       the largest activations, and what float16 and bfloat16 make of the picture
card         the model card: README.md of a repository on the hub
publish      push_vae: a folder with its card to the hub, in one commit
calibration  measured scaling_factor, shift_factor, latents_mean and latents_std
divergence   KL of the posterior from the unit normal distribution
equivariance scalings and quarter turns of images and latents

Nothing is imported here, so that `latentcodec.vae.presets` costs no torch.
"""
