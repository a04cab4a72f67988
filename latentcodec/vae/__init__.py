"""The network, which is `diffusers.AutoencoderKL`, and its files.

presets      one aligned table of named architectures
ecosystems   which programs can load a geometry, or why they cannot
families     known families of latents, by channels, scale and shift
cost         parameters and multiply-accumulates of a geometry
loading      load_vae and save_vae: diffusers folder, hub name, single file, shipped name
hub          files of a repository on the Hugging Face hub
weights      tensors in files: read, cast, written aside and renamed
geometry     an AutoencoderKL config from the shapes of its tensors
ldm          names and shapes of LDM/CompVis single files <-> diffusers, both ways
fingerprint  sha256 of the weights, the same for every file format
inspection   all of that about one VAE, as text or JSON
calibration  measured scaling_factor, shift_factor, latents_mean and latents_std

Nothing is imported here, so that `latentcodec.vae.presets` costs no torch.
"""
