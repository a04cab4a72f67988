"""Encode and decode in tiles without seams: the whole network's result, in memory that does not grow with the image.

A tile knows too little of the image in two ways. Its *neighbourhood* ends at its border; that is cured by reading as
much more of the input as the convolutions reach (exactly, layer by layer, with zero padding only where the image
itself ends). And two kinds of layers look at the *whole* map: GroupNorm, at its mean and variance, and attention, at
its keys and values. So those facts are surveyed first: sweep over all tiles up to that layer, keep only the facts,
and from then on the layer works on any tile as if it saw everything.

A survey costs a sweep. If the map at that layer fits into a budget of bytes it is kept, and later sweeps start from
there; if not, it is computed again from the last map that was kept. The rule is greedy and has one knob. Deep maps are
small (1/64 of the image's positions in a VAE of factor 8) and are always kept, the few large ones near the image are
computed several times, and the peak of memory is about two budgets plus a tile, whatever the image's size.

`exact` does just that, and differs from the whole network by rounding alone. `fast` approximates twice: statistics of
maps that are not kept come from 16 of every 128 rows, and attention looks at an even grid of at most
`max_keys` of the positions. Every tile uses the same facts in both, so neither has seams.

boxes.py     rectangles of positions, and what a layer has to read for them
layers.py    the layers of a VAE on a rectangle of their maps
network.py   an AutoencoderKL's encoder and decoder as flat lists of such layers
sweep.py     the sweeps
"""
