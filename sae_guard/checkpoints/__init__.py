"""Loading of checkpoints: SAE files of every format → `SAE`; one module per format in `formats`.

Only `load` and the readers it uses import torch. The other modules serve test collection, which
must stay fast.
"""
