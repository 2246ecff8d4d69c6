"""SAE files of every format → `SAE`: one module per format, listed in `formats`.

Only `load` and what it reads with imports torch: the rest serves collection, which is done before.
"""
