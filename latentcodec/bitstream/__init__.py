"""Images to bytes and back (.lvc), through the latents of any VAE that was prepared for it.

    image -> mean latents -> transform -> integers -> context model + ANS -> container

errors.py      the one error of everything that reads bytes
transform.py   latents to decorrelated coefficients in which equal steps do equal harm to the image
quality.py     quality 1 ... 100 to one of 1024 steps
lattice.py     the order in which integers are coded, and what is known when
context.py     what is known -> expected value and spread of the next integers; integer arithmetic
tables.py      integer probability tables for every spread
entropy.py     integers to payload and back
container.py   header, checksums, limits
model.py       all of that together, as files beside a VAE
prepare.py     measure and train a model for a VAE; context_training.py
codec.py       ImageCodec: compress and decompress

Nothing that decides an integer on the decoder's side is computed in floating point that rounds: the networks of the
context model hold integers, and what they compute in float64 are integers below 2^53, which is exact in any order.
"""
