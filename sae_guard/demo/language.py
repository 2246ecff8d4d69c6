"""The language of the demo's text: draw documents, and compute the probability of each word.

A document is drawn from a `DocumentKind` of `sae_guard.demo.grammar`: first a topic, then one
sentence after another. A reader of the document does not know its topic, nor, within a sentence,
which of the sentences with this beginning it is; everything else is visible. So the probability of
a word, given the kind and all words before it, is a sum over these few hidden states: the forward
algorithm of hidden Markov models (Rabiner 1989). Its negative logarithm is the word's surprisal,
and the mean surprisal estimates the entropy rate: a lower bound of the cross-entropy that any
language model can have on such text, up to sampling error.

The only source of randomness is `random.Random.random`, which returns the same numbers in every
version of Python.
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
_NEW_LINE_CHANCE = 0.15
"""Probability that a sentence is followed by a line break."""
_OPTION_CHANCE = 0.5
"""Probability that an optional part of a sentence, in brackets, is present."""
_TOPIC_WEIGHT, _OTHER_TOPIC_WEIGHT = 4.0, 0.15
"""Weights of a word of the document's topic, and of another topic; words of no topic have 1."""
_PUNCTUATION = frozenset(".,;:?")
_LINE_ENDED = 1_000_000
"""`State.position` after a sentence whose line break has also been written."""


class Atom(NamedTuple):
    """One element of a sentence: a word, a list to draw a word from, or an optional part."""

    word: str = ""
    """The word itself; empty if it is drawn."""
    list: str = ""
    """Name of the list in `WORDS` to draw from."""
    key: str = ""
    """``*``: drawn once per document; ``=``: the word drawn last; ``@list``: drawn once for each
    word of that other list; empty: drawn each time."""
    skip: int = 0
    """Atoms to skip, this one included, to leave out the optional part that starts here; else 0."""


class FixedWords(NamedTuple):
    """Words of a document that are fixed for the rest of it, as a hashable mapping.

    Keys are ``last LIST``, ``* LIST`` and ``@OTHER LIST WORD``.
    """

    pairs: tuple[tuple[str, str], ...] = ()

    def get(self, key: str) -> str | None:
        """Return the word at ``key``, or None."""
        return next((word for name, word in self.pairs if name == key), None)

    def with_(self, key: str, word: str) -> FixedWords:
        """Return a copy that also holds ``word`` at ``key``."""
        return FixedWords(tuple(sorted({**dict(self.pairs), key: word}.items())))


class State(NamedTuple):
    """Hidden state of a document: its topic, the position in its sentence, and its fixed words."""

    topic: str
    sentence: int
    """Index of the sentence in `DocumentKind.all_sentences`; -1 before the first."""
    position: int
    """Index of the next atom in the sentence; at the number of atoms or above, it is complete."""
    memory: FixedWords


@dataclass(frozen=True)
class DrawnDocument:
    """A document of the demo's text."""

    name: str
    kind: str
    """The source of the document: the name of its `DocumentKind`."""
    words: tuple[str, ...]
    """Words, punctuation and line breaks, in order."""

    @property
    def text(self) -> str:
        """Text of the document, with spaces before words and none before punctuation."""
        return "".join(pieces(self.words))


def pieces(words: Sequence[str]) -> Iterator[str]:
    """Yield each word with the space before it, if it has one; each should be one token."""
    previous = NEW_LINE
    for word in words:
        no_space = previous == NEW_LINE or word == NEW_LINE or word in _PUNCTUATION
        yield word if no_space else f" {word}"
        previous = word


@cache
def parse(sentence: str) -> tuple[Atom, ...]:
    """Parse a sentence of the grammar, whose notation `sae_guard.demo.grammar` describes."""
    atoms: list[Atom] = []
    bracket = None
    for part in sentence.split():
        if part == "[":
            bracket = len(atoms)
            atoms.append(Atom())
        elif part == "]":
            assert bracket is not None, f"`]` without `[` in {sentence!r}"
            atoms[bracket] = Atom(skip=len(atoms) - bracket)
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
    """Map each word of a list to its probability in a document of a topic; they sum to 1."""
    weights: dict[str, float] = {}
    for topic_of_words, words in WORDS[list_].items():
        if not topic_of_words:
            factor = 1.0
        else:
            factor = _TOPIC_WEIGHT if topic_of_words == topic else _OTHER_TOPIC_WEIGHT
        for rank, word in enumerate(words.split()):
            # A power law, as in natural text (Zipf), but flatter.
            weights[word] = factor * (rank + 1) ** -0.25
    total = math.fsum(weights.values())
    return {word: weight / total for word, weight in weights.items()}


def _draw_word(chances: Mapping[str, float], random: Random) -> str:
    remainder = random.random()
    for word, chance in chances.items():
        remainder -= chance
        if remainder < 0:
            return word
    return word  # the sum of the chances may round to a little less than 1


def _followers(kind: DocumentKind, previous: int) -> Sequence[int]:
    """Return the sentences that may follow the sentence ``previous`` (-1: begin a document)."""
    first, count = len(kind.first), len(kind.all_sentences)
    return range(first) if previous < 0 else [i for i in range(first, count) if i != previous]


def _after_brackets(kind: DocumentKind, state: State) -> Iterator[tuple[float, State]]:
    """Yield the states at which the next word is drawn, with their probabilities.

    That is ``state`` itself where it is at a word. At an optional part it is the first word of the
    part, or what comes after the part.
    """
    atoms = parse(kind.all_sentences[state.sentence])
    if state.position < len(atoms) and (skip := atoms[state.position].skip):
        yield _OPTION_CHANCE, state._replace(position=state.position + 1)
        past = state._replace(position=state.position + skip)
        for chance, next_state in _after_brackets(kind, past):
            yield (1 - _OPTION_CHANCE) * chance, next_state
    else:
        yield 1.0, state


def _fixed_word(atom: Atom, memory: FixedWords) -> tuple[str | None, str]:
    """Return the word that an atom has to be, None if it is free, and its key in the memory."""
    if atom.word:
        return atom.word, ""
    key = f"last {atom.list}" if atom.key == "=" else f"{atom.key} {atom.list}" if atom.key else ""
    # The key of a price includes its good.
    if atom.key.startswith("@"):
        key += f" {memory.get(f'last {atom.key[1:]}')}"
    return (memory.get(key) if key else None), key


def _state_after(state: State, atom: Atom, key: str, word: str) -> State:
    """Return the state after an atom became ``word``, which its list and key remember."""
    memory = state.memory
    if atom.list:
        memory = memory.with_(f"last {atom.list}", word)
        if key:
            memory = memory.with_(key, word)
    return state._replace(position=state.position + 1, memory=memory)


def draw(kind: DocumentKind, name: str, sentences: int, random: Random) -> DrawnDocument:
    """Draw a document.

    Args:
        kind: Kind of document.
        name: Name of the document.
        sentences: Number of sentences.
        random: Source of random numbers; the same state gives the same document.
    """
    topic = kind.topics[int(random.random() * len(kind.topics))]
    state = State(topic, -1, 0, FixedWords())
    words: list[str] = []
    for count in range(sentences):
        # The order of the calls of `random` is part of the text: each moves all that follow.
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
            word, key = _fixed_word(atom, state.memory)
            if word is None:
                word = _draw_word(probabilities(atom.list, topic), random)
            words.append(word)
            state = _state_after(state, atom, key, word)
    return DrawnDocument(name, kind.name, tuple(words))


class Reader:
    """Reads a document word by word and predicts the next word as well as the grammar allows."""

    def __init__(self, kind: DocumentKind) -> None:
        self.kind = kind
        # Hidden state → its probability given the words so far.
        self._states = {
            State(topic, -1, 0, FixedWords()): 1 / len(kind.topics) for topic in kind.topics
        }

    def probability(self, word: str) -> float:
        """Return the probability that the next word is ``word``, given that there is a next word.

        The end of a document is not predicted: the windows of tokens that a model sees have none.
        """
        return math.fsum(self._states_after(word).values())

    def read(self, word: str) -> float:
        """Read the next word, and return the probability that it had.

        Raises:
            ValueError: The grammar does not allow the word here.
        """
        states = self._states_after(word)
        probability = math.fsum(states.values())
        if probability <= 0:
            raise ValueError(
                f"the grammar does not allow {word!r} here in a document of kind {self.kind.name}"
            )
        # Normalised at each word, so that long documents do not underflow.
        self._states = {state: weight / probability for state, weight in states.items()}
        return probability

    def _states_after(self, word: str) -> dict[State, float]:
        """Map each state after ``word`` to the joint probability of the state and the word."""
        states: dict[State, float] = {}
        for state, weight in self._states.items():
            for chance, next_state in _emit(self.kind, state, word):
                states[next_state] = states.get(next_state, 0.0) + weight * chance
        return states


def surprisals(document: DrawnDocument) -> list[float]:
    """Return −log p(word | kind, all words before it) of each word, in nats.

    Raises:
        ValueError: The grammar does not allow one of the words.
    """
    reader = Reader(next(kind for kind in KINDS if kind.name == document.kind))
    return [-math.log(reader.read(word)) for word in document.words]


def _emit(kind: DocumentKind, state: State, word: str) -> Iterator[tuple[float, State]]:
    """Yield each state after ``word``, with the probability of the word and that state."""
    complete = state.sentence < 0 or state.position >= len(
        parse(kind.all_sentences[state.sentence])
    )
    if not complete:
        yield from _emit_atom(kind, state, word)
        return
    # After a sentence comes a line break, at most one, or the next sentence.
    may_break_line = state.sentence >= 0 and state.position < _LINE_ENDED
    if may_break_line and word == NEW_LINE:
        yield _NEW_LINE_CHANCE, state._replace(position=_LINE_ENDED)
        return
    followers = _followers(kind, state.sentence)
    sentence_chance = (1 - _NEW_LINE_CHANCE if may_break_line else 1.0) / len(followers)
    for sentence in followers:
        sentence_start = state._replace(sentence=sentence, position=0)
        for bracket_chance, first_word in _after_brackets(kind, sentence_start):
            for word_chance, next_state in _emit_atom(kind, first_word, word):
                yield sentence_chance * bracket_chance * word_chance, next_state


def _emit_atom(kind: DocumentKind, state: State, word: str) -> Iterator[tuple[float, State]]:
    atom = parse(kind.all_sentences[state.sentence])[state.position]
    fixed, key = _fixed_word(atom, state.memory)
    if fixed is not None:
        chance = float(fixed == word)
    else:
        chance = probabilities(atom.list, state.topic).get(word, 0.0)
    if chance > 0:
        after_word = _state_after(state, atom, key, word)
        for bracket_chance, next_state in _after_brackets(kind, after_word):
            yield chance * bracket_chance, next_state
