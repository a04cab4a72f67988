"""Reading latent stores: how fast rows come in random order, and what opening a large store takes.

synthetic.py  stores of random values, and the same values as the usual .npy file for each image
workloads.py  reading both, one by one and in batches
opening.py    opening a store with many rows, in a new process
command.py    `python -m eval reading`: the tables and the JSON
"""
