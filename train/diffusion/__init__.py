"""A diffusion model on a latent store, end to end: `accelerate launch -m train diffusion --store STORE --vae VAE`.

config.py       its settings
model.py        the transformer, the noise schedule, and the folder that diffusers' DiTPipeline reads
denoising.py    the loss, and what a network leaves unexplained at each level of noise
data.py         batches of a store, and what is random in a step
job.py          one step, validation and record: what `train/driver.py` drives
proxy.py        several VAEs under one small budget: which latents are easier to learn?
"""
