"""SAE files of every format → `SAE`: one module per family, one recogniser in `load`.

`locate` and `options` import no torch: they serve collection, which is done before any of it.
"""
