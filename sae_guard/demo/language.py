"""The language of the demo's text: draws documents, and knows how probable each of their words is.

A document is drawn from a `DocumentKind` of `sae_guard.demo.grammar`: a topic, then one sentence
after the other. All that a reader of the document cannot see is its topic and, in the middle of a
sentence, which of the sentences that begin alike it is. So the probability of each word, given the
kind and all words before it, is a sum over those few possibilities (the forward algorithm of hidden
Markov models). Its negative logarithm is the surprisal of the word, and the mean surprisal the
entropy rate: no language model can have a lower cross-entropy on such text, but by chance.

Only `random.Random.random` is used, which gives the same numbers under every version of Python.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from sae_guard.demo.grammar import KINDS, WORDS, DocumentKind

NEW_LINE = "\n"
_NEW_LINE_CHANCE = 0.15  # after a sentence
_OPTION_CHANCE = 0.5  # of a part in brackets
_OF_TOPIC, _OF_OTHERS = 4.0, 0.15  # weights of a word of the topic and of other topics; of none: 1
_PUNCTUATION = frozenset(".,;:?")
_LINE_ENDED = 1_000_000  # the position in a sentence after which its line was ended, too


class Atom(NamedTuple):
    """One place in a sentence: a word, or a list that a word is drawn from."""

    word: str = ""
    list: str = ""
    key: str = ""
    """``*``: drawn once in a document; ``=``: the last one drawn; ``@list``: once for each word of
    that list that comes last; empty: drawn anew."""
    skip: int = 0
    """Atoms that may be left out from here on, if this begins an optional part."""


class FixedWords(NamedTuple):
    """What the words of a document so far have fixed, as pairs (a mapping that can be a key)."""

    pairs: tuple[tuple[str, str], ...] = ()

    def get(self, key: str) -> str | None:
        """Return the word at ``key``, or None."""
        return next((word for name, word in self.pairs if name == key), None)

    def with_(self, key: str, word: str) -> FixedWords:
        """Return a memory that also holds ``word`` at ``key``."""
        return FixedWords(tuple(sorted({**dict(self.pairs), key: word}.items())))


class State(NamedTuple):
    """Where in which sentence the document is, in which topic, and what is fixed."""

    topic: str
    sentence: int
    """Index among the kind's sentences, the first ones before the others; -1 before any."""
    position: int
    """Of the next atom; past the last one, the sentence is over."""
    memory: FixedWords


@dataclass(frozen=True)
class DrawnDocument:
    """A document of the demo's text."""

    name: str
    kind: str
    """The source of the document: the name of its `DocumentKind`."""
    words: tuple[str, ...]
    """Words, punctuation and line ends, in order."""

    @property
    def text(self) -> str:
        """The document as it is read: blanks before words, none before punctuation."""
        return "".join(pieces(self.words))


def pieces(words: Sequence[str]) -> Iterator[str]:
    """Yield each word with the blank before it, if it has one: what a tokenizer should not cut."""
    after = NEW_LINE
    for word in words:
        bare = after == NEW_LINE or word == NEW_LINE or word in _PUNCTUATION
        yield word if bare else f" {word}"
        after = word


@cache
def parse(sentence: str) -> tuple[Atom, ...]:
    """Read a sentence of the grammar (see `sae_guard.demo.grammar`)."""
    atoms: list[Atom] = []
    opened = None
    for part in sentence.split():
        if part == "[":
            opened = len(atoms)
            atoms.append(Atom())
        elif part == "]":
            assert opened is not None, f"no bracket is open in {sentence!r}"
            atoms[opened] = Atom(skip=len(atoms) - opened)
        elif part.startswith("{"):
            name = part.strip("{}")
            list_, at, other = name.partition("@")
            key = f"@{other}" if at else name[-1] if name[-1] in "*=" else ""
            atoms.append(Atom(list=list_.rstrip("*="), key=key))
        else:
            atoms.append(Atom(word=part))
    return tuple(atoms)


@cache
def probabilities(list_: str, topic: str) -> Mapping[str, float]:
    """Return the probability of each word of a list in a topic; they sum to 1."""
    weights: dict[str, float] = {}
    for of, words in WORDS[list_].items():
        factor = 1.0 if not of else _OF_TOPIC if of == topic else _OF_OTHERS
        for rank, word in enumerate(words.split()):
            weights[word] = factor * (rank + 1) ** -0.25
    total = math.fsum(weights.values())
    return {word: weight / total for word, weight in weights.items()}


def _choose(chances: Mapping[str, float], random: Random) -> str:
    left = random.random()
    for word, chance in chances.items():
        left -= chance
        if left < 0:
            return word
    return word  # what rounding leaves over


def _followers(kind: DocumentKind, before: int) -> Sequence[int]:
    """Return the sentences that may follow the sentence ``before`` (-1: begin a document)."""
    first, count = len(kind.first), len(kind.all_sentences)
    return range(first) if before < 0 else [i for i in range(first, count) if i != before]


def _entered(kind: DocumentKind, state: State) -> Iterator[tuple[float, State]]:
    """Yield where a document in ``state`` can be, past the brackets, and how probable each is."""
    atoms = parse(kind.all_sentences[state.sentence])
    if state.position < len(atoms) and (skip := atoms[state.position].skip):
        inside = state._replace(position=state.position + 1)
        yield _OPTION_CHANCE, inside
        for chance, after in _entered(kind, state._replace(position=state.position + skip)):
            yield (1 - _OPTION_CHANCE) * chance, after
    else:
        yield 1.0, state


def _fixed(atom: Atom, memory: FixedWords) -> tuple[str | None, str]:
    """Return the word that an atom has to be, if that is fixed, and the key that fixes it."""
    if atom.word:
        return atom.word, ""
    key = f"last {atom.list}" if atom.key == "=" else f"{atom.key} {atom.list}" if atom.key else ""
    if atom.key.startswith("@"):
        key += f" {memory.get(f'last {atom.key[1:]}')}"
    return (memory.get(key) if key else None), key


def _after(state: State, atom: Atom, key: str, word: str) -> State:
    memory = state.memory
    if atom.list:
        memory = memory.with_(f"last {atom.list}", word)
        if key:
            memory = memory.with_(key, word)
    return state._replace(position=state.position + 1, memory=memory)


def draw(kind: DocumentKind, name: str, sentences: int, random: Random) -> DrawnDocument:
    """Draw a document of ``sentences`` sentences."""
    topic = kind.topics[int(random.random() * len(kind.topics))]
    state = State(topic, -1, 0, FixedWords())
    words: list[str] = []
    for count in range(sentences):
        if count and random.random() < _NEW_LINE_CHANCE:
            words.append(NEW_LINE)
        followers = _followers(kind, state.sentence)
        sentence = followers[int(random.random() * len(followers))]
        state = state._replace(sentence=sentence, position=0)
        atoms = parse(kind.all_sentences[sentence])
        while state.position < len(atoms):
            atom = atoms[state.position]
            if atom.skip:
                step = 1 if random.random() < _OPTION_CHANCE else atom.skip
                state = state._replace(position=state.position + step)
                continue
            word, key = _fixed(atom, state.memory)
            if word is None:
                word = _choose(probabilities(atom.list, topic), random)
            words.append(word)
            state = _after(state, atom, key, word)
    return DrawnDocument(name, kind.name, tuple(words))


class Reader:
    """What one knows of the next word of a document, with the grammar, its kind and all before."""

    def __init__(self, kind: DocumentKind) -> None:
        self.kind = kind
        self._states = {
            State(topic, -1, 0, FixedWords()): 1 / len(kind.topics) for topic in kind.topics
        }

    def probability(self, word: str) -> float:
        """Return the probability that the next word is this one, given that the document goes on.

        Where it ends is not counted: a window of tokens shows no end.
        """
        return math.fsum(self._after(word).values())

    def read(self, word: str) -> float:
        """Go on by a word, and return its probability.

        Raises:
            ValueError: The word cannot stand there.
        """
        states = self._after(word)
        probability = math.fsum(states.values())
        if probability <= 0:
            raise ValueError(f"{word!r} cannot stand there in a document of kind {self.kind.name}")
        self._states = {state: weight / probability for state, weight in states.items()}
        return probability

    def _after(self, word: str) -> dict[State, float]:
        states: dict[State, float] = {}
        for state, weight in self._states.items():
            for chance, after in _emit(self.kind, state, word):
                states[after] = states.get(after, 0.0) + weight * chance
        return states


def surprisals(document: DrawnDocument) -> list[float]:
    """Return −log p(word | kind, all words before it) of each word, in nats.

    Raises:
        ValueError: The document is none of this language.
    """
    reader = Reader(next(kind for kind in KINDS if kind.name == document.kind))
    return [-math.log(reader.read(word)) for word in document.words]


def _emit(kind: DocumentKind, state: State, word: str) -> Iterator[tuple[float, State]]:
    """Yield the states in which a document can be after ``word``, with their probabilities."""
    over = state.sentence < 0 or state.position >= len(parse(kind.all_sentences[state.sentence]))
    if not over:
        yield from _emit_atom(kind, state, word)
        return
    started = state.sentence >= 0 and state.position < _LINE_ENDED
    if started and word == NEW_LINE:
        yield _NEW_LINE_CHANCE, state._replace(position=_LINE_ENDED)
        return
    followers = _followers(kind, state.sentence)
    chance = (1 - _NEW_LINE_CHANCE if started else 1.0) / len(followers)
    for sentence in followers:
        begun = state._replace(sentence=sentence, position=0)
        for share, entered in _entered(kind, begun):
            for more, after in _emit_atom(kind, entered, word):
                yield chance * share * more, after


def _emit_atom(kind: DocumentKind, state: State, word: str) -> Iterator[tuple[float, State]]:
    atom = parse(kind.all_sentences[state.sentence])[state.position]
    fixed, key = _fixed(atom, state.memory)
    if fixed is not None:
        chance = float(fixed == word)
    else:
        chance = probabilities(atom.list, state.topic).get(word, 0.0)
    if chance > 0:
        after = _after(state, atom, key, word)
        for share, entered in _entered(kind, after):
            yield chance * share, entered
