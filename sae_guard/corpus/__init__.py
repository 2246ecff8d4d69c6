"""Text or token ids → a fixed set of token windows with two masks and a hash."""

from sae_guard.corpus.build import build_corpus
from sae_guard.corpus.decoding import excerpts
from sae_guard.corpus.windows import Corpus, Document

__all__ = ["Corpus", "Document", "build_corpus", "excerpts"]
