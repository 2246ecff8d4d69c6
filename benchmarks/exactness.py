"""What sae_guard measures beside a slow pass in float64 that shares no code with it.

    make bench-exactness

The slow pass (`exactness_slow`) runs the Hugging Face model in float64, whole for every run, with
the reconstruction put in by torch's own hooks at patched positions; the SAE's formula, KL and CE
are written out. Two differences from it are shown, both with a bound:

- *after the logits*: from the same definitions in float64 of what sae_guard's float32 model and
  SAE give, run whole. It is what the engine adds: at most 1e-6 of a mean, 1e-4 of a token.
- *float64*: from float64 throughout. It includes what float32 rounds in the whole model. In the
  demo's 4 layers that is within the same bounds. Of the 30 layers of SmolLM2 it is not: plain
  Hugging Face in float32 is off by 3e-6 (mean) and 3e-4 (a token) by itself, and these bounds are
  10 times as wide. They catch what the first difference cannot see: a model that is loaded wrongly.

TopK and JumpReLU are steps. A token whose pre-activation is nearer to the step than float32 is
exact has one reconstruction or another, which moves the mean of 4,000 tokens by 3e-5. The second
difference leaves out the windows with such a token, as the slow pass in float64 and in float32
tells; the column "windows" counts those that are kept. The first has them all.

Means are over windows of text, each token alike; the score is a ratio of them. "Worst window" is of
the means of each window the one that is farthest off. "Worst token" is of windows in which one
token is scored: BOS, this token, the next.

The SAEs: the demo's own, and ones whose latents are the principal components of the activation, in
both directions, of which the k largest are kept: a reconstruction that is neither good nor absurd.
Exits 1 when a difference is above its bound.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import smollm2
import torch
from exactness_slow import (
    Case,
    PerToken,
    SlowModel,
    activations,
    decided,
    losses,
    patched_positions,
    reconstruction,
)
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils import logging

from sae_guard.checkpoints.load import load
from sae_guard.core.measurement import Measurement
from sae_guard.corpus import Corpus
from sae_guard.demo import MODEL, SAES, held_out_texts
from sae_guard.engine import measure
from sae_guard.model import load_model
from sae_guard.sae import SAE, SaeSource
from sae_guard.sae.activations import TopK

MEAN_BOUND, TOKEN_BOUND = 1e-6, 1e-4
COLUMNS = (
    "model", "hook point", "SAE", "figure", "sae_guard", "float64",
    "after the logits", "at most", "from float64", "at most", "windows",
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model, and what is measured on it."""

    name: str
    folder: Path
    texts: Sequence[str]
    """The first half is measured on; of the second half SAEs are made."""
    clean_ce: tuple[float, float]
    """Nats; what a model that works has."""
    context: int
    sequences: int
    short: int
    """Windows in which one token is scored."""
    k: int
    hooks: Sequence[str]
    """Where there are SAEs of principal components."""
    saes: Sequence[tuple[str, str]] = ()
    """Hook point and name of the demo's."""
    rounding: float = 1.0
    """Of its float32: how much wider the bounds beside float64 are."""

    def corpus(self, texts: Sequence[str], *, context: int, sequences: int) -> Corpus:
        """Windows of the texts, each with the BOS token."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        return Corpus.from_texts(
            texts, tokenizer, context=context, sequences=sequences, prepend_bos=True
        )


def subjects() -> Iterator[Subject]:
    """The demo model, and a real one."""
    yield Subject(
        "demo", MODEL, held_out_texts(), (2.8, 3.8), context=128, sequences=32, short=500,
        k=16, hooks=["blocks.1.hook_resid_pre"],
        saes=[("blocks.2.hook_resid_post", "v1"), ("blocks.3.hook_resid_pre", "v2")],
    )  # fmt: skip
    yield Subject(
        smollm2.NAME, smollm2.folder(), list(smollm2.english()), (2.5, 4.0), context=64,
        sequences=8, short=300, k=64, rounding=10.0,
        hooks=[f"blocks.{layer}.hook_resid_pre" for layer in (3, 27)],
    )  # fmt: skip


class Figure(NamedTuple):
    """One number, measured and computed slowly."""

    name: str
    windows: str
    engine: float
    slow: float
    difference: float
    """From float64; of the windows that float32 decides."""
    bound: float
    after_logits: float
    """The other difference, of all windows."""
    its_bound: float

    @property
    def within(self) -> bool:
        """Whether both differences are within their bounds; NaN is not."""
        return self.difference <= self.bound and self.after_logits <= self.its_bound

    def __str__(self) -> str:
        first, second = (
            f"{value:.1e} | {bound:.0e}" if value <= bound else f"**{value:.1e}** | {bound:.0e}"
            for value, bound in (
                (self.after_logits, self.its_bound),
                (self.difference, self.bound),
            )
        )
        name = f"{self.name} | {self.engine:.7f} | {self.slow:.7f}"
        return f"{name} | {first} | {second} | {self.windows}"


@dataclass(frozen=True)
class Beside:
    """A measurement, and what was computed slowly on the same windows."""

    measured: Measurement
    slow: PerToken
    after_logits: PerToken
    kept: Bool[Tensor, " sequence"]
    """The windows that float32 decides."""
    rounding: float
    """Of the float32 model: how much wider the bounds beside float64 are."""

    def __post_init__(self) -> None:
        if not bool(self.kept.any()):
            raise SystemExit("float32 decides no window: nothing can be compared")
        for values in (self.slow, self.after_logits):
            for name, value in values.items():
                if not torch.equal(self.n, value.isfinite().sum(dim=1).to(self.n)):
                    raise SystemExit(f"{name} is not finite at just the tokens that are scored")

    @property
    def n(self) -> Float[Tensor, " sequence"]:
        """Scored tokens of each window."""
        return self._column("n_tokens")

    def means(self) -> Iterator[Figure]:
        """The means, and the score."""
        mine, slow = self._pooled(self.slow, self.kept)
        mine_of_all, after = self._pooled(self.after_logits, torch.ones_like(self.kept))
        for name in self.slow:
            yield self._figure(
                f"{name}, mean", (mine[name], slow[name]), (mine_of_all[name], after[name]),
                MEAN_BOUND,
            )  # fmt: skip
        pairs = (_score(mine), _score(slow)), (_score(mine_of_all), _score(after))
        yield self._figure("reconstruction score", *pairs, MEAN_BOUND)

    def worst(self, of: str) -> Iterator[Figure]:
        """The windows whose means are farthest off."""
        some = self.n > 0  # of a window whose tokens are all excluded there is no mean
        for name in self.slow:
            pairs = []
            for values, rows in ((self.slow, some & self.kept), (self.after_logits, some)):
                mine, theirs = (self._column(name) / self.n)[rows], values[name][rows].nanmean(1)
                at = int((mine - theirs).abs().argmax())  # a NaN, where there is one
                pairs.append((float(mine[at]), float(theirs[at])))
            yield self._figure(f"{name}, worst {of}", pairs[0], pairs[1], TOKEN_BOUND)

    def _figure(
        self, name: str, whole: tuple[float, float], after: tuple[float, float], bound: float
    ) -> Figure:
        return Figure(
            name, f"{int(self.kept.sum())} of {len(self.kept)}", *whole, abs(whole[0] - whole[1]),
            self.rounding * bound, abs(after[0] - after[1]), bound,
        )  # fmt: skip

    def _pooled(
        self, slowly: PerToken, rows: Bool[Tensor, " sequence"]
    ) -> tuple[dict[str, float], dict[str, float]]:
        n = self.n[rows].sum()
        mine = {name: float(self._column(name)[rows].sum() / n) for name in slowly}
        return mine, {name: float(values[rows].nanmean()) for name, values in slowly.items()}

    def _column(self, name: str) -> Float[Tensor, " sequence"]:
        return torch.from_numpy(self.measured.sums[name])


def _score(mean: dict[str, float]) -> float:
    return (mean["ce_zero"] - mean["ce_patched"]) / (mean["ce_zero"] - mean["ce_clean"])


def principal_components(x: Float[Tensor, "tokens d_in"], k: int) -> SAE:
    """A TopK SAE whose latents are the principal components, in both directions."""
    mean = x.double().mean(dim=0)
    components = torch.linalg.eigh((x - mean).T @ (x - mean)).eigenvectors.T
    W_dec = torch.cat([components, -components]).float()
    source = SaeSource(path=f"{k} principal components", format="benchmark")
    return SAE(
        W_dec.T.contiguous(), W_dec, torch.zeros(len(W_dec)), mean.float(), TopK(k), source,
        b_pre=mean.float(),
    )  # fmt: skip


def made(subject: Subject, model: SlowModel) -> list[Case]:
    """The SAEs of a subject, where there are none made by its model."""
    found = [Case(hook, load(SAES / name), name) for hook, name in subject.saes]
    half = subject.texts[len(subject.texts) // 2 :]
    corpus = subject.corpus(half, context=128, sequences=12)
    for hook, x in zip(subject.hooks, activations(model, corpus, subject.hooks), strict=True):
        sae = principal_components(x[corpus.patched], subject.k)
        found.append(Case(hook, sae, f"PCA, k={subject.k}"))
    return found


def compared(subject: Subject) -> Iterator[tuple[str, Figure]]:
    """The figures of a subject, and what each is of."""
    half = subject.texts[: len(subject.texts) // 2]
    windows = subject.corpus(half, context=subject.context, sequences=subject.sequences)
    short = subject.corpus(half, context=3, sequences=subject.short)
    slow, slow_float32 = (
        SlowModel(subject.folder, dtype) for dtype in (torch.float64, torch.float32)
    )
    cases, model = made(subject, slow_float32), load_model(subject.folder)
    besides: list[list[Beside]] = []
    for corpus in (windows, short):
        zero, hooks = corpus is windows, [case.hook for case in cases]
        found = zip(
            cases,
            losses(slow, reconstruction, corpus, cases, zero=zero),
            losses(model, lambda sae, x: sae(x).reconstruction, corpus, cases, zero=zero),
            activations(slow, corpus, hooks),
            activations(slow_float32, corpus, hooks),
            strict=True,
        )
        besides.append([
            Beside(
                measure(model, case.sae, corpus, case.hook,
                    expect_clean_ce=subject.clean_ce if zero else None),
                slowly, after,
                decided(case.sae, x, x32, patched_positions(corpus.tokens, corpus)),
                subject.rounding,
            )
            for case, slowly, after, x, x32 in found
        ])  # fmt: skip
    for case, of_windows, of_short in zip(cases, *besides, strict=True):
        of = f"{subject.name} | {case.hook} | {case.name}"
        for figure in (*of_windows.means(), *of_windows.worst("window"), *of_short.worst("token")):
            yield of, figure


def main() -> None:
    """Measure, compute slowly, print a Markdown table; exit 1 when a bound is broken."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)  # noqa: T201
    broken = 0
    for subject in subjects():
        for of, figure in compared(subject):
            print(f"| {of} | {figure} |", flush=True)  # noqa: T201
            broken += not figure.within
    if broken:
        sys.exit(f"{broken} figures are off by more than their bounds")


if __name__ == "__main__":
    main()
