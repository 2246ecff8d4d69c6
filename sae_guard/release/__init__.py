"""A release: the SAEs of one version, how they are named, and which earlier ones they follow.

Nothing here imports torch.
"""
