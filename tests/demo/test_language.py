"""Probabilities of the words of the demo's text equal a slow sum over all their derivations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

import pytest

from sae_guard.demo.grammar import KINDS, WORDS, DocumentKind
from sae_guard.demo.language import (
    DrawnDocument,
    Reader,
    draw,
    parse,
    pieces,
    probabilities,
    surprisals,
)

VOCABULARY = sorted(
    {word for lists in WORDS.values() for words in lists.values() for word in words.split()}
    | {a.word for k in KINDS for s in k.all_sentences for a in parse(s) if a.word}
    | {"\n"}
)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def document(request: pytest.FixtureRequest) -> DrawnDocument:
    """Draw a document of two sentences, of each kind."""
    return draw(request.param, "short", 2, Random(7))


def kind_of(document: DrawnDocument) -> DocumentKind:
    return next(kind for kind in KINDS if kind.name == document.kind)


def derivations(
    kind: DocumentKind, topic: str, words: tuple[str, ...], previous: int, fixed: dict[str, str]
) -> Iterator[float]:
    """Yield the probability of each way to derive ``words`` as complete sentences.

    ``previous`` is the index of the sentence before them, -1 at the start of a document.
    """
    if not words:
        yield 1.0
        return
    chance = 1.0
    if previous >= 0:
        chance = 0.85
        if words[0] == "\n":
            chance, words = 0.15, words[1:]
    sentences = kind.all_sentences
    allowed = range(len(kind.first)) if previous < 0 else range(len(kind.first), len(sentences))
    followers = [i for i in allowed if i != previous]
    for sentence in followers:
        for atoms, share in variants(sentences[sentence].split()):
            memory, probability = dict(fixed), chance * share / len(followers)
            for atom, word in zip(atoms, words, strict=False):
                probability *= emitted(atom, word, topic, memory)
            if probability and len(atoms) <= len(words):
                for rest in derivations(kind, topic, words[len(atoms) :], sentence, memory):
                    yield probability * rest


def variants(atoms: list[str]) -> Iterator[tuple[list[str], float]]:
    """Yield the sentence with and without each of its optional parts, and the probability."""
    if "[" not in atoms:
        yield atoms, 1.0
        return
    start, end = atoms.index("["), atoms.index("]")
    for inside in (atoms[start + 1 : end], []):
        for rest, share in variants(atoms[end + 1 :]):
            yield atoms[:start] + inside + rest, share / 2


def emitted(atom: str, word: str, topic: str, memory: dict[str, str]) -> float:
    """Return the probability that an atom, in the notation of the grammar, becomes this word."""
    if not atom.startswith("{"):
        return float(atom == word)
    name = atom[1:-1]
    list_ = name.split("@")[0].rstrip("*=")
    if name.endswith("="):
        key = f"{list_}="
    elif name.endswith("*"):
        key = f"{list_}*"
    else:
        key = f"{name} {memory[name.split('@')[1] + '=']}" if "@" in name else ""
    chance = (
        float(memory[key] == word) if key in memory else probabilities(list_, topic).get(word, 0.0)
    )
    if key:
        memory[key] = word
    memory[f"{list_}="] = word
    return chance


def test_a_document_is_as_probable_as_all_its_derivations(document: DrawnDocument) -> None:
    kind = kind_of(document)
    expected = math.fsum(
        probability / len(kind.topics)
        for topic in kind.topics
        for probability in derivations(kind, topic, document.words, -1, {})
    )
    assert math.fsum(surprisals(document)) == pytest.approx(-math.log(expected), abs=1e-9)


def test_probabilities_of_the_next_word_sum_to_one(document: DrawnDocument) -> None:
    reader = Reader(kind_of(document))
    for number, word in enumerate(document.words):
        if number % 4 == 0:
            total = math.fsum(map(reader.probability, VOCABULARY))
            assert total == pytest.approx(1.0, abs=1e-9)
        assert reader.probability(word) == reader.read(word)


def test_a_word_that_the_grammar_does_not_allow_is_an_error(document: DrawnDocument) -> None:
    broken = DrawnDocument("broken", document.kind, (*document.words[:4], "SAE"))
    with pytest.raises(ValueError, match=f"'SAE' here in a document of kind {document.kind}"):
        surprisals(broken)


def test_the_price_of_a_good_stays_the_same_in_a_document() -> None:
    words = [
        "Market",
        "of",
        "Selby",
        ",",
        "Monday",
        ":",
        "wheat",
        "at",
        "3",
        ",",
        "tin",
        "at",
        "9",
        ".",
        "Today",
        "wheat",
        "is",
        "at",
        "3",
    ]
    assert surprisals(DrawnDocument("m", "market", tuple(words)))[-1] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="does not allow '9' here"):
        surprisals(DrawnDocument("m", "market", (*words[:-1], "9")))


@pytest.mark.parametrize("list_", sorted(WORDS))
def test_no_word_stands_twice_in_a_list(list_: str) -> None:
    words = [word for part in WORDS[list_].values() for word in part.split()]
    assert len(set(words)) == len(words)
    for topic in ("", "storm"):
        assert math.fsum(probabilities(list_, topic).values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_grammar_refers_only_to_lists_and_topics_that_exist(kind: DocumentKind) -> None:
    lists = {atom.list for sentence in kind.all_sentences for atom in parse(sentence)}
    assert lists <= WORDS.keys() | {""}
    topics = {topic for words_by_topic in WORDS.values() for topic in words_by_topic}
    assert set(kind.topics) <= topics
    for sentence in kind.all_sentences:
        assert sentence.count("[") == sentence.count("]")
        assert sentence[-1] in ".?"


def test_text_has_spaces_before_words_and_none_before_punctuation() -> None:
    words = ("Take", "two", "eggs", ",", "salt", ".", "\n", "Add", "milk", ".")
    assert "".join(pieces(words)) == "Take two eggs, salt.\nAdd milk."
