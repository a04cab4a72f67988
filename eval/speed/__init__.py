"""Speed of the library against the plain way, paired: both sides work in turns, each in a process of its own.

sides.py      a piece of work in its own process, and two of them in turns
rows.py       what is measured: each row names our way and the plain way
workloads.py  encoding and decoding; store.py: datasets into latent stores; bitstream.py: files
matrix.py     the matrix multiplication rate that the machine reaches, which shares are taken of
table.py      a row as a record and as a line
command.py    `python -m eval speed`: the table and the JSON
"""
