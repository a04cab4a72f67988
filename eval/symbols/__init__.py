"""What each idea of the entropy coder buys: the same integers of the same images, coded in different ways.

static.py     code lengths of static tables, by counting
general.py    general compressors: lossless JPEG XL, zstd
speed.py      how fast the entropy coder is, and what share of compressing is the network
measure.py    images to integers to bits
table.py      the figures as text
command.py    `python -m eval symbols`
"""
