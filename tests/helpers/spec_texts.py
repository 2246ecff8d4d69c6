"""Texts of spec files: a short one, one with every key, and edits that make the short malformed."""

from __future__ import annotations

from pathlib import Path

GOOD = """\
model: gpt2
hook: blocks.8.hook_resid_pre
data: {text: a.txt, prepend_bos: true}
thresholds:
  kl: {max: 0.1}
"""
WHOLE = """\
# a comment
name: layer 8
model:
  name: ../models/tiny
  dtype: bfloat16
  processing: hooked
  revision: main
  aliases: [tiny, tiny-2]
  device_map: {model: 0, lm_head: "cuda:1"}
hook: blocks.8.hook_resid_pre
data:
  dataset: {path: some/pile, split: "train[:1%]"}
  field: body
  source_field: meta.set
  context: 64
  sequences: 32
  prepend_bos: false
  special_tokens: [0, 2]
  seed: 7
  expect_clean_ce: [3, 3.6]
checkpoint: releases/v2
sae: {architecture: topk, k: 32, pre_bias: true, normalize: layer_norm}
thresholds:
  kl: {max: 0.1, warn: 0.08}
  reconstruction_score: {min: 0.95}
  l0: {min: 20, max: 60, warn: {max: 50}}
  ce_increase:
    p99.9: {max: 9, confidence: 0.99, on_undecided: warn}
    max: 0.5
    worst_sequence: {max: 2}
  cosine: {p1: {min: 0.5}}
slices:
  - position: ..8
    thresholds:
      kl: {p50: {max: 1}}
  - {entropy: 2.5.., thresholds: {reconstruction_score: {min: 0.9}}}
  - {source: "arxiv*", thresholds: {explained_variance: {min: 0.7}, kl: {max: 1}}}
---
model: gpt2
hook: blocks.0.hook_mlp_out
data: {modules: [argparse, csv], prepend_bos: true}
thresholds: {"reconstruction_score[mean]": {min: 0.9}}
"""


def write(folder: Path, text: str) -> Path:
    """Write ``spec.yaml`` into a folder and return its path."""
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# Old text in GOOD, new text, line of the error, and a part of its message.
MALFORMED: list[tuple[str, str, int, str]] = [
    ("hook:", "hoook:", 2, "unknown key 'hoook'; did you mean hook or hook_out? allowed: alpha"),
    ("hook: blocks.8.hook_resid_pre\n", "", 1, "`hook` is missing: Hook point"),
    ("blocks.8.hook_resid_pre", "8", 2, "`hook` is 8, allowed: text"),
    ("blocks.8.hook_resid_pre", "", 2, "`hook` is empty, allowed: text"),
    ("model: gpt2", "model: {dtype: float32}", 1, "`model.name` is missing"),
    ("gpt2", "{name: g, device_map: al}", 1, "`model.device_map` is 'al', allowed: auto, balanced"),
    ("gpt2", "{name: g, device_map: 1}", 1, "`model.device_map` is 1, allowed: auto, balanced"),
    ("gpt2", "{name: g, device_map: {}}", 1, "`model.device_map` is {}, allowed: auto, balanced"),
    ("gpt2", "{name: g, device_map: [a]}", 1, "`model.device_map` is ['a'], allowed: auto"),
    ("gpt2", "{name: g, device_map: {a: meta}}", 1,
     "`model.device_map` puts 'a' on 'meta', allowed: the number of a GPU"),
    ("gpt2", "{name: g, device_map: {a: -1}}", 1, "puts 'a' on -1, allowed: the number"),
    ("gpt2", "{name: g, device_map: {a: true}}", 1, "puts 'a' on True, allowed: the number"),
    ("model: gpt2", "model: {name: gpt2, dtype: fp16}", 1, "`model.dtype` is 'fp16', allowed: 'fl"),
    ("model: gpt2", "model: [gpt2]", 1, "`model` is ['gpt2'], allowed: a mapping"),
    ("model: gpt2", "model: {name: gpt2, processing: hook}", 1, "allowed: 'raw' or 'hooked'"),
    ("model: gpt2", "model: {name: gpt2, revison: x}", 1, "'revison' in `model`; did you mean rev"),
    (", prepend_bos: true", "", 3, "`data.prepend_bos` is missing: Whether each window starts"),
    ("prepend_bos: true", "prepend_bos: 1", 3, "`data.prepend_bos` is 1, allowed: true or false"),
    ("prepend_bos: true", "prepend_bos: off", 3, "'off' is read as false; write true or false"),
    ("kl: {max: 0.1}", "kl.p99: {max: 1}\n  kl: {p99: {max: 2}}", 4, "bounds kl.p99 twice"),
    ("kl: {max: 0.1}", "kl: {p99: 0.1}", 5, "`thresholds.kl.p99` is 0.1, allowed: a mapping"),
    ("kl: {max: 0.1}", "kl: {p99: {max: x}}", 5, "`thresholds.kl.p99.max` is 'x', allowed: a num"),
    ("kl: {max: 0.1}", "kl: {p999: {max: 1}}", 5, "unknown key 'p999' in `thresholds.kl`; did yo"),
    ("kl: {max: 0.1}", "kl: {p99: {}}", 5, "kl.p99 has no bound; allowed: max"),
    ("kl: {max: 0.1}", "kl: {p99: {min: 1}}", 5, "kl.p99 has min 1, which is the wrong side"),
    ("kl: {max: 0.1}", "fvu: {p99: {max: 1}}", 5, "fvu.p99: fvu is a ratio of sums"),
    ("kl: {max: 0.1}", "l0: {worst_sequence: {max: 1}}", 5, "l0.worst_sequence: l0 has no worst"),
    ("kl: {max: 0.1}", "kl: {max: 1, confidence: 99}", 5, "confidence` is 99, allowed: below 1"),
    ("kl: {max: 0.1}", "kl: {max: 1, on_undecided: warn}", 5, "kl has on_undecided warn but no c"),
    ("kl: {max: 0.1}", "kl: {worst_sequence: {max: 1, confidence: 0.9}}", 5, "has no interval"),
    ("kl: {max: 0.1}\n", "kl: {max: 1}\nslices: [{thresholds: {kl: {max: 1}}}]\n", 6,
     "`slices.0` has to have exactly one of position, entropy, source"),
    ("kl: {max: 0.1}\n", "kl: {max: 1}\nslices: [{source: a, position: ..8, thresholds: {kl: "
     "{max: 1}}}]\n", 6, "`slices.0` has to have exactly one of position, entropy, source"),
    ("kl: {max: 0.1}\n", "kl: {max: 1}\nslices: [{source: '', thresholds: {kl: {max: 1}}}]\n", 6,
     "`slices.0.source` is '', expected a name or a glob such as arxiv*"),
    ("kl: {max: 0.1}\n", "kl: {max: 1}\nslices: [{source: 'a::b', thresholds: {kl: {max: 1}}}]",
     6,
     "`slices.0.source` is 'a::b', expected a name or a glob"),
    ("kl: {max: 0.1}\n", 'kl: {max: 1}\nslices: [{source: "a\\nb", thresholds: {kl: {max: 1}}}]',
     6,
     "`slices.0.source` is 'a\\nb', expected a name or a glob"),
    ("kl: {max: 0.1}\n", "kl: {max: 1}\nslices: [{source: 3, thresholds: {kl: {max: 1}}}]\n", 6,
     "`slices.0.source` is 3, expected a name or a glob"),
    ("kl: {max: 0.1}\n", "kl: {max: 1}\nslices: [{source: 'b*', thresholds: {kl: {max: 1}}}]\n", 6,
     "`slices.0.source` 'b*' matches no source of the data; allowed: a.txt"),
    ("kl: {max: 0.1}\n", "kl: {max: 1}\nslices: [{source: a*, thresholds: {fvu: {p9: {max: 1}}}}]",
     6, "fvu.p9@source=a*: fvu is a ratio of sums"),
    ("kl: {max: 0.1}\n", "kl: {max: 1}\nslices: [{position: ..8, thresholds: {kl: {max: 1}}}, "
     "{position: 0..8, thresholds: {kl: {max: 2}}}]\n", 6,
     "kl@position=0..8 is bounded in `slices.0` already"),

    ("kl: {max: 0.1}\n", "kl: {max: 1}\nslices: [{position: 8, thresholds: {kl: {max: 1}}}]\n", 6,
     "`slices.0.position` is 8, expected a range such as 0..8"),
    ("kl: {max: 0.1}\n", "kl: {max: 1}\nslices: [{position: 8..4, thresholds: {kl: {max: 1}}}]\n",
     6, "low below high"),
    ("kl: {max: 0.1}\n", "kl: {max: 1}\nslices: [{position: ..4, thresholds: {fvu: {max: 1}}}]\n",
     6, "fvu@position=0..4: fvu needs the mean activation"),
    ("text: a.txt, ", "", 3, "`data` has no source, expected exactly one of text, jsonl"),
    ("text: a.txt", "text: a.txt, jsonl: b", 3, "`data` has text and jsonl, expected exactly one"),
    ("text: a.txt", "text: []", 3, "`data.text` is [], expected text or a list of texts"),
    ("text: a.txt", "text: a.txt, field: b", 3, "`data` has a field, but text has no fields"),
    ("text: a.txt", "text: a.txt, source_field: b", 3, "`data` has a source_field, but text has"),
    ("text: a.txt", "text: a.txt, context: 2", 3, "`data.context` is 2, allowed: 3 or more"),
    ("text: a.txt", "text: a.txt, sequences: 0", 3, "`data.sequences` is 0, allowed: 1 or more"),
    ("text: a.txt", "text: a.txt, seed: 0.5", 3, "`data.seed` is 0.5, allowed: a whole number"),
    ("text: a.txt", "text: a.txt, special_tokens: no-bos", 3, "allowed: exclude, include, or a"),
    ("text: a.txt", "text: a.txt, special_tokens: [-1]", 3, "is [-1], allowed: exclude"),
    ("text: a.txt", "text: a.txt, expect_clean_ce: [3, 2]", 3, "expected [low, high] in nats"),
    ("text: a.txt", "dataset: {split: test}", 3, "`data.dataset.path` is missing"),
    ("model:", "name: a::b\nmodel:", 1, "`name` is 'a::b', allowed: letters, digits"),
    ("model:", "checkpoint: [a]\nmodel:", 1, "`checkpoint` is ['a'], allowed: text"),
    ("model:", "sae: {k: 0}\nmodel:", 1, "`sae.k` is 0, allowed: 1 or more"),
    ("model:", "sae: {architecture: relu}\nmodel:", 1, "allowed: 'standard', 'tanh_relu', 'topk'"),
    ("  kl: {max: 0.1}", "  {}", 4, "`thresholds` is {}, allowed: at least one"),
    ("kl: {max: 0.1}", "kll: {max: 0.1}", 5, "unknown metric 'kll'; did you mean kl? allowed:"),
    ("kl: {max: 0.1}", "kl: 0.1", 5, "`thresholds.kl` is 0.1, allowed: a mapping"),
    ("max: 0.1", "", 5, "kl has no bound; allowed: max"),
    ("max: 0.1", "max: 1e-3", 5, "'1e-3' is read as text; write the number as 0.001"),
    ("max: 0.1", "max: '0.1'", 5, "`thresholds.kl.max` is '0.1', allowed: a number"),
    ("max: 0.1", "max: true", 5, "`thresholds.kl.max` is true, allowed: a number"),
    ("max: 0.1", "max: 0.1, max: 0.2", 5, "key 'max' appears twice, first on line 5"),
    ("max: 0.1", "min: 0.1", 5, "kl has min 0.1, which is the wrong side: lower is better"),
    ("max: 0.1", "maximum: 0.1", 5, "unknown key 'maximum' in `thresholds.kl`; did you mean max?"),
    ("max: 0.1", "max: -0.1", 5, "kl has max -0.1, which cannot pass: its values are at least 0"),
    ("max: 0.1", "max: .inf", 5, "'.inf' is no finite decimal number"),
    ("max: 0.1", "max: 0.1, warn: 0.2", 5, "kl has warn 0.2 and max 0.1; a warn bound has to lie"),
    ("max: 0.1", "max: 0.1, warn: {min: 0}", 5, "kl warns at min 0, but has no min"),
    ("max: 0.1", "max: 0.1, warn: {mx: 0}", 5, "unknown key 'mx' in `thresholds.kl.warn`"),
    ("max: 0.1", "max: 0.1, warn: a", 5, "`thresholds.kl.warn` is 'a', expected a number, or"),
    ("kl: {max: 0.1}", "l0: {min: 9, max: 3}", 5, "l0 has min 9 above max 3"),
    ("kl: {max: 0.1}", "l0: {min: 1, max: 3, warn: 2}", 5, "say which: `warn: {max: …}`"),
    ("kl: {max: 0.1}", "cosine: {min: -1}", 5, "cannot fail: its values are between -1 and 1"),
    ("kl: {max: 0.1}", "explained_variance: {min: 2}", 5, "cannot pass: its values are at most 1"),
    ("kl: {max: 0.1}", "dead_latents: {max: 1}", 5, "dead_latents has max 1, which cannot fail"),
]  # fmt: skip
