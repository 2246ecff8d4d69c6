"""Numbers of a record and of a new measurement, in lines."""

from __future__ import annotations

from dataclasses import replace

from sae_guard.history.confirmation import NumberCheck
from sae_guard.render.verification import confirmation_table, provenance_differences
from tests.helpers.recorded import ordinary


def test_a_row_for_each_number_and_why_it_differs() -> None:
    lines = confirmation_table(
        [
            NumberCheck("n_tokens", 32256, 32256, 0),
            NumberCheck("kl", 0.130621420, 0.130621428, 1e-5),
            NumberCheck("l0", 16.0, 17.5, 0.01),
            NumberCheck("fvu", 0.5, None, 0, "it is undefined now"),
            NumberCheck("dead_latents", None, None, 0),
        ]
    )
    assert [line.split() for line in lines] == [
        ["metric", "recorded", "measured", "difference"],
        ["n_tokens", "32,256", "32,256", "ok"],
        ["kl", "0.13062142", "0.13062143", "8.0e-09", "ok"],
        ["l0", "16", "17.5", "1.5e+00", "DIFFERS"],
        ["fvu", "0.5", "-", "DIFFERS:", "it", "is", "undefined", "now"],
        ["dead_latents", "-", "-", "ok"],
    ]


def test_other_devices_and_versions_are_listed() -> None:
    was = ordinary().provenance
    assert list(provenance_differences(was, was)) == []
    now = replace(was, device="cuda:0", versions={"python": "3.13.1"}, model={"name": "./gpt2"})
    assert list(provenance_differences(was, now)) == [
        "device: cpu in the record, cuda:0 now",
        "python: none in the record, 3.13.1 now",
        "torch: 2.13.0 in the record, none now",
        "model: gpt2 in the record, ./gpt2 now",
    ]
