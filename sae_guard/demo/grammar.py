"""The words and sentences of the demo's text: four kinds of documents, each with its topics.

This module is data. `sae_guard.demo.language` parses it, draws documents from it and computes their
probability.

A sentence is a sequence of atoms, separated by spaces:

* ``boat`` and ``,`` stand for themselves;
* ``{food}`` is a word of the list ``food`` of `WORDS`, drawn at random each time;
* ``{person*}`` is drawn once per document: every ``{person*}`` in it is the same word;
* ``{food=}`` is the word of the list ``food`` that was drawn last in the document;
* ``{price@good}`` is drawn once per document for each word of ``good``: it is the price of the good
  that was drawn last, and stays the same when the document returns to that good;
* ``[ ... ]`` is optional, and left out half of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

WORDS: Mapping[str, Mapping[str, str]] = {
    "person": {
        "": "Anna Jonas Mira Peter Clara Simon Ruth Oscar Nora Felix Ida Hugo Vera Paul Ella Karl "
        "Lena Otto Rosa Emil Greta Anton Marta Leo",
    },
    "place": {
        "": "Harwick Dunmore Selby Ashford Kilburn Norwood Eastport Marlow Linden Westgate Oakham "
        "Redcliff Stonebridge Fairhaven",
    },
    "day": {"": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"},
    "month": {"": "January March April May June August October November"},
    "time": {"": "morning evening noon night dawn afternoon"},
    "number": {"": "two three four five six seven eight nine ten twelve twenty thirty"},
    "price": {"": "2 3 4 5 6 7 8 9 12 15 18 20 24 30 36 40 48 60"},
    "direction": {"": "north south east west"},
    "color": {"": "white red blue green black brown yellow grey"},
    # The kitchen.
    "food": {
        "bread": "flour yeast butter milk rye barley oats seeds",
        "soup": "onions carrots beans leeks potatoes cabbage peas turnips",
        "fish": "herring cod salmon trout mussels crab eel shrimp",
        "fruit": "apples pears plums cherries berries figs lemons grapes",
        "": "salt water oil eggs cream cheese honey sugar",
    },
    "spice": {
        "bread": "caraway anise",
        "soup": "thyme parsley",
        "fish": "dill mustard",
        "fruit": "cinnamon ginger",
        "": "pepper garlic vinegar mint",
    },
    "cook": {
        "bread": "knead fold bake",
        "soup": "boil simmer chop",
        "fish": "fry smoke clean",
        "fruit": "peel slice stew",
        "": "mix stir warm cool press cover",
    },
    "vessel": {
        "bread": "oven tray",
        "soup": "pot ladle",
        "fish": "pan grill",
        "fruit": "jar basket",
        "": "bowl dish cup plate",
    },
    "manner": {"": "slowly gently well quickly often twice carefully evenly"},
    "taste": {"": "sweet sour bitter fresh mild sharp rich plain thick thin warm soft"},
    # Letters.
    "relation": {
        "family": "mother father sister brother aunt uncle cousin grandmother",
        "school": "teacher pupil master student",
        "illness": "doctor nurse patient",
        "farm": "farmer shepherd miller",
        "": "friend neighbour guest child",
    },
    "feeling": {
        "family": "proud glad",
        "school": "curious eager",
        "illness": "weak pale",
        "farm": "busy hungry",
        "": "happy tired sad quiet lonely calm angry afraid",
    },
    "thing": {
        "family": "ring cradle photograph piano",
        "school": "book letter pencil map",
        "illness": "blanket bottle candle pillow",
        "farm": "plough cart ladder fence",
        "": "house garden table window door road clock coat lamp bridge",
    },
    "deed": {
        "family": "married kissed missed",
        "school": "read copied learned",
        "illness": "washed visited nursed",
        "farm": "planted mended fed",
        "": "found lost sold bought saw carried painted kept",
    },
    "size": {"": "small large new worn long broken heavy narrow lovely plain tiny strange"},
    # The logbook of a ship.
    "sky": {
        "calm": "clear bright still",
        "storm": "dark stormy wild",
        "fishing": "misty cold",
        "trade": "hot dry",
        "": "cloudy rainy mixed",
    },
    "sea": {
        "calm": "gulls dolphins islands stars",
        "storm": "waves lightning rocks hail",
        "fishing": "nets whales seals bait",
        "trade": "barrels crates ropes silk",
        "": "boats birds clouds harbours lights anchors",
    },
    "sail": {
        "calm": "drift rest",
        "storm": "reef shelter",
        "fishing": "haul salt",
        "trade": "load unload",
        "": "sail turn wait anchor steer row",
    },
    "crew": {"": "captain mate cook carpenter pilot sailor boy gunner"},
    "part": {"": "mast sail rudder deck hull pump keel cabin"},
    # The market.
    "good": {
        "grain": "wheat maize rice malt hay straw",
        "cloth": "wool linen cotton lace velvet thread",
        "animals": "horses goats sheep geese pigs oxen",
        "metal": "iron copper tin lead silver nails",
        "": "wood coal wax glass paper soap",
    },
    "unit": {
        "grain": "sack bushel",
        "cloth": "yard roll",
        "animals": "head pair",
        "metal": "bar pound",
        "": "crate load box",
    },
    "trade": {"": "rose fell doubled dropped held slipped climbed recovered"},
    "buyer": {
        "grain": "bakers brewers",
        "cloth": "tailors weavers",
        "animals": "butchers carters",
        "metal": "smiths builders",
        "": "merchants strangers farmers sailors",
    },
    "mood": {"": "strong weak slow lively poor good quiet uneven"},
}
"""List → topic → words, the most frequent first; the words of topic ``""`` belong to all topics."""


@dataclass(frozen=True)
class DocumentKind:
    """A kind of document: its name, its topics and its sentences."""

    name: str
    """Name, which is also the source of its documents."""
    topics: tuple[str, ...]
    first: tuple[str, ...]
    """Sentences that a document may begin with."""
    sentences: tuple[str, ...]
    """Sentences that may follow, in any order, but none twice in a row."""

    @cached_property
    def all_sentences(self) -> tuple[str, ...]:
        """``first`` and then ``sentences``; other modules refer to a sentence by its index here."""
        return self.first + self.sentences


KINDS = (
    DocumentKind(
        "kitchen",
        ("bread", "soup", "fish", "fruit"),
        (
            "This dish of {food*} and {food} serves {number*} .",
            "{person*} of {place*} makes this dish every {day} with {food*} .",
            "A {taste} dish for {month} : {food*} with {spice} and {food} .",
        ),
        (
            "Take {number} cups of {food} and {cook} them {manner} .",
            "Put the {food} into the {vessel*} [ with some {spice} ] and {cook} it .",
            "Then {cook} the {food} in the {vessel*} for {number} minutes .",
            "Add {food} , {food} and {spice} , and {cook} [ {manner} ] .",
            "Do not {cook} the {food} , or it will be {taste} .",
            "When the {food} is {taste} , {cook} it [ once more ] with the {food} .",
            "The {food*} must be {taste} and [ very ] {taste} .",
            "{person*} likes it {taste} , with {food} and a little {spice} .",
            "In {month} the {food} is {taste} ; use {food} [ or {food} ] instead .",
            "Serve the {food*} [ in a {color} {vessel} ] with {food} for {number*} .",
            "If there is no {food} , take {number} {food} and {cook} the {food=} {manner} .",
            "Let it {cook} until {time} and then {cook} it in the {vessel*} .",
            "Some {cook} the {food*} with {spice} , some with {spice} .",
        ),
    ),
    DocumentKind(
        "letters",
        ("family", "school", "illness", "farm"),
        (
            "Dear {person*} , I write to you from {place*} , where my {relation*} is {feeling} .",
            "Dear {person*} , your letter of {day*} made me {feeling} .",
            "My dear {person*} , we came to {place*} on {day*} with the {relation*} .",
        ),
        (
            "The {relation*} {deed} a {size} {thing} [ in {place*} ] .",
            "I {deed} the {thing} that you {deed} last {month} .",
            "On {day*} my {relation} came with a {size} [ {color} ] {thing} .",
            "We were {feeling} [ and {feeling} ] when {person} {deed} the {thing} .",
            "{person} is {feeling} and asks for the {thing} .",
            "Tell the {relation} of {person*} that the {thing} is {size} .",
            "The {thing} by the {size} {thing} is {color} [ now ] .",
            "Every {time} the {relation*} sits by the {thing} and is {feeling} .",
            "You know , {person*} , that I never {deed} the {color} {thing} .",
            "In {month} we go to {place} to see the {relation} .",
            "My {relation*} says that {person} {deed} the {thing} [ and the {thing} ] .",
            "Do you still have the {size} {thing} from {place*} ?",
            "I am {feeling} , for {person} has {deed} my {thing} .",
            "{person*} , please send the {thing} before {day} .",
        ),
    ),
    DocumentKind(
        "logbook",
        ("calm", "storm", "fishing", "trade"),
        (
            "{day*} , {number} miles {direction*} of {place*} , the sky {sky} .",
            "Left {place*} on {day*} at {time} with wind from the {direction*} .",
            "Log of the {color*} ship , {month} , {number} days out of {place*} .",
        ),
        (
            "At {time} we saw {sea} and {sea} to the {direction} .",
            "The {crew*} told us to {sail} [ until {time} ] .",
            "Wind from the {direction*} , sky {sky} , sea [ very ] {sky} .",
            "The {crew} mended the {part} and the {crew} the {part} .",
            "We {sail*} and {sail} , {number} miles in all .",
            "No {sea} today ; the {crew} is {feeling} .",
            "We could not {sail} because of the {sea} [ to the {direction} ] .",
            "Counted {number} {sea} , {number} {sea} and {number} {sea} .",
            "The {part*} is broken again ; the {crew*} had to {sail} .",
            "First {number} hours of {sky} weather , then {sea} .",
            "Turned {direction} at {time} , as {person*} wished , to {sail} near {place} .",
            "{person*} , the {crew*} , keeps watch by the {part} [ at {time} ] .",
            "Bought a new {part} in {place} for {price} coins .",
        ),
    ),
    DocumentKind(
        "market",
        ("grain", "cloth", "animals", "metal"),
        (
            "Market of {place*} , {day*} : {good} at {price@good} , {good} at {price@good} .",
            "Prices at {place*} in {month*} : {good} {price@good} , {good} {price@good} , "
            "{good} {price@good} .",
            "The market of {place*} was {mood} on {day*} .",
        ),
        (
            "Today {good} is at {price@good} [ and {good} at {price@good} ] .",
            "The {buyer} paid {price@good} for {good} [ from {place} ] .",
            "A {unit} of {good} costs {price@good} , a {unit} of {good} {price@good} .",
            "Trade in {good} was {mood} [ , in {good} {mood} ] .",
            "By {time} {good} {trade} , while {good} {trade} .",
            "{person*} sold {number} loads of {good} at {price@good} to the {buyer} .",
            "{person} of {place} bought {good} by the {unit} for {price@good} each .",
            "Few {buyer} came for {good} and {good} , as roads from {place} were {mood} .",
            "The price of {good} {trade} to {price@good} .",
            "On {day} {good} {trade} [ again ] ; the {buyer} wait for {month*} .",
            "The {buyer} ask for {color} {good} and for {good} .",
            "Some {number} loads of {good} went {direction} to {place} at {price@good} .",
        ),
    ),
)
