"""What the latents of a VAE are like, and how hard they are for a diffusion model: figures that compare VAEs.

models        what is measured: anything that encodes and decodes
distribution  mean, deviation, kurtosis and correlation of channels, image by image in constant memory
posteriors    KL, active channels, posterior deviation, likewise
spectrum      power at each frequency of the latents, its slope, the share of high frequencies
equivariance  latents of a turned or scaled image against turned or scaled latents
disturbances  what decoding makes of noise on the latents, and of their highest frequencies missing
pictures      latents as colours, by principal components
measure       all of these of one model over many images
table         several VAEs side by side
command       `python -m eval latents`

All figures are of the posterior's mean, raw (unscaled). Those over all channels weigh a channel by its variance, as a
diffusion model does that is given one scaling factor.
"""
