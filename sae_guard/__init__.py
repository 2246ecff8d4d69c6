"""Gate releases of sparse autoencoders: ``pytest --sae checkpoint.pt``.

From Python, ``sae_guard.run_gate(...)`` runs the same gate, and ``sae_guard.measure(...)`` measures
without any spec. `__init__.pyi` lists the public names. They, `sae_guard.errors` and
`sae_guard.testing` are public (`docs/reference/api.md`); every other module is private and may
change.
"""

import lazy_loader

# Resolved on first use: the pytest plugin imports this package in every pytest run.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
