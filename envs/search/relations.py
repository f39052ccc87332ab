"""What the articles of the generated world say: kinds of entities, and the facts of each kind.

Every fact has one value, and stands in the article of its subject alone. Invariant: in the templates `{s}` is the
subject's name or a pronoun at a sentence's beginning, `{n}` its name, `{o}` the value; each sentence has a word of the
relation's `query`, so that a search for the name and that word finds the sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["person", "city", "company", "book", "river", "school"]
SHARES: dict[Kind, float] = {"person": 0.4, "city": 0.12, "company": 0.18, "book": 0.2, "river": 0.05, "school": 0.05}
"""Of all documents."""


@dataclass(frozen=True)
class Relation:
    """A fact that every entity of a kind has."""

    kind: Kind
    """Of the subject."""
    name: str
    target: Kind | tuple[int, int]
    """Kind of the value, or the range of a number."""
    phrase: str
    """What the value is called within a longer question."""
    questions: tuple[str, ...]
    """Ask for the value; the first is the shortest."""
    query: str
    """Words that find the sentence."""
    label: str
    """In a short article."""
    sentences: tuple[str, ...]


def _year(kind: Kind, question: str, query: str, label: str, sentences: tuple[str, ...]) -> Relation:
    return Relation(kind, "year", (1300, 1990), "", (question,), query, label, sentences)


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "person",
        "birthplace",
        "city",
        "the birthplace of {}",
        ("Where was {} born?", "In which city was {} born?", "What is the birthplace of {}?"),
        "born birthplace",
        "Born in",
        (
            "{s} was born in {o}.",
            "{o} is the birthplace of {n}.",
            "{s} was born to a family of weavers in {o}.",
        ),
    ),
    Relation(
        "person",
        "school",
        "school",
        "the school where {} studied",
        ("At which school did {} study?", "Which school did {} study at?"),
        "studied school",
        "Studied at",
        (
            "{s} studied at {o}.",
            "{s} studied at the school of {o} and left it with honours.",
            "The school that shaped {n} most was {o}.",
        ),
    ),
    Relation(
        "person",
        "teacher",
        "person",
        "the teacher of {}",
        ("Who taught {}?", "Who was the teacher of {}?"),
        "teacher taught",
        "Teacher",
        (
            "{s} was taught by {o}.",
            "The teacher to whom {n} owed most was {o}.",
            "{s} often spoke of {o}, who taught with patience.",
        ),
    ),
    _year(
        "person",
        "In which year was {} born?",
        "year",
        "Birth year",
        (
            "The year of birth was {o}.",
            "{s} came to the world in the year {o}.",
            "The parish book gives the year {o}.",
        ),
    ),
    Relation(
        "city",
        "river",
        "river",
        "the river on which {} lies",
        ("On which river does {} lie?", "Which river does {} lie on?"),
        "lies river",
        "River",
        (
            "{s} lies on the river {o}.",
            "The old town lies where the river {o} bends to the south.",
            "Barges reach {n} by the river {o}.",
        ),
    ),
    Relation(
        "city",
        "mayor",
        "person",
        "the mayor of {}",
        ("Who is the mayor of {}?", "Who governs {} as its mayor?"),
        "mayor",
        "Mayor",
        ("The mayor is {o}.", "{s} elected {o} as its mayor.", "As mayor of {n}, {o} opened the new market."),
    ),
    Relation(
        "city",
        "architect",
        "person",
        "the architect of the town hall of {}",
        ("Who built the town hall of {}?", "Who was the architect of the town hall of {}?"),
        "town hall architect built",
        "Town hall",
        (
            "The town hall was built by {o}.",
            "{o} was the architect of the town hall.",
            "Its town hall, with two towers, is the work of the architect {o}.",
        ),
    ),
    _year(
        "city",
        "In which year was {} founded?",
        "founded year charter",
        "Founded",
        ("{s} was founded in {o}.", "The charter was granted in the year {o}.", "Its first wall was founded in {o}."),
    ),
    Relation(
        "company",
        "founder",
        "person",
        "the founder of {}",
        ("Who founded {}?", "Who was the founder of {}?"),
        "founder founded",
        "Founder",
        ("{s} was founded by {o}.", "Its founder was {o}.", "{o} founded {n} in a rented workshop."),
    ),
    Relation(
        "company",
        "director",
        "person",
        "the director of {}",
        ("Who directs {}?", "Who is the director of {}?"),
        "director directs",
        "Director",
        ("The director is {o}.", "{o} directs {n} today.", "{s} has had {o} as its director for a long time."),
    ),
    Relation(
        "company",
        "seat",
        "city",
        "the city where {} is based",
        ("Where is {} based?", "In which city is {} based?"),
        "based offices",
        "Based in",
        ("{s} is based in {o}.", "Its offices are in {o}.", "Most of its people work at the offices in {o}."),
    ),
    _year(
        "company",
        "In which year did {} open?",
        "opened year doors",
        "Opened",
        ("{s} opened in {o}.", "The doors opened in {o}.", "The first ledger begins with the year {o}."),
    ),
    Relation(
        "book",
        "author",
        "person",
        "the author of {}",
        ("Who wrote {}?", "Who is the author of {}?"),
        "author written wrote",
        "Author",
        ("{s} was written by {o}.", "Its author is {o}.", "{o} wrote {n} within a winter."),
    ),
    Relation(
        "book",
        "translator",
        "person",
        "the translator of {}",
        ("Who translated {}?", "Who was the translator of {}?"),
        "translator translated",
        "Translator",
        ("{s} was translated by {o}.", "The translator {o} kept the old metre.", "{o} translated {n} twice."),
    ),
    Relation(
        "book",
        "publisher",
        "company",
        "the publisher of {}",
        ("Who published {}?", "Which company published {}?"),
        "published publisher",
        "Publisher",
        ("{s} was published by {o}.", "The publisher was {o}.", "After two refusals {o} published {n}."),
    ),
    _year(
        "book",
        "In which year did {} appear?",
        "appeared year print",
        "Appeared",
        ("{s} appeared in {o}.", "The first edition appeared in {o}.", "It went to print in the year {o}."),
    ),
    Relation(
        "river",
        "surveyor",
        "person",
        "the first surveyor of {}",
        ("Who first surveyed {}?", "Who was the first surveyor of {}?"),
        "surveyor surveyed",
        "Surveyor",
        (
            "{s} was first surveyed by {o}.",
            "Its first surveyor was {o}.",
            "{o} surveyed the whole course of {n} on foot.",
        ),
    ),
    Relation(
        "river",
        "mouth",
        "river",
        "the river into which {} flows",
        ("Into which river does {} flow?", "Which river does {} flow into?"),
        "flows mouth",
        "Flows into",
        ("{s} flows into the {o}.", "Below the last mill it flows into the {o}.", "At its mouth {n} joins the {o}."),
    ),
    Relation(
        "river",
        "length",
        (21, 4999),
        "",
        ("How many kilometres long is {}?",),
        "long length kilometres",
        "Length",
        ("{s} is {o} kilometres long.", "Its length is {o} kilometres.", "From source to sea it runs {o} kilometres."),
    ),
    Relation(
        "school",
        "head",
        "person",
        "the head of {}",
        ("Who is the head of {}?", "Who heads {}?"),
        "head heads",
        "Head",
        ("The head of the school is {o}.", "{o} heads {n} with a light hand.", "{s} chose {o} as its head."),
    ),
    Relation(
        "school",
        "city",
        "city",
        "the city where {} stands",
        ("In which city is {}?", "In which city does {} stand?"),
        "stands city",
        "City",
        ("{s} stands in {o}.", "The school stands by the east gate of {o}.", "Its city is {o}."),
    ),
    _year(
        "school",
        "In which year was {} founded?",
        "founded year pupils",
        "Founded",
        ("{s} was founded in {o}.", "The first pupils came in {o}.", "The deed that founded it is of the year {o}."),
    ),
)

OF_KIND: dict[Kind, tuple[Relation, ...]] = {
    kind: tuple(relation for relation in RELATIONS if relation.kind == kind) for kind in SHARES
}
OPENINGS: dict[Kind, tuple[str, ...]] = {
    "person": (
        "{n} is remembered as a physician.",
        "{n} was a painter and maker of maps.",
        "{n} is known for essays on trade.",
        "{n} worked as an engineer of bridges.",
        "{n} spent a long life in public service.",
    ),
    "city": (
        "{n} is a market town with a harbour.",
        "{n} is a city of bridges and steep lanes.",
        "{n} is known for its glass and its fairs.",
        "{n} grew around a salt works.",
    ),
    "company": (
        "{n} is a company that makes instruments.",
        "{n} is a trading house.",
        "{n} is a maker of paper and printing presses.",
        "{n} is a company known for its clocks.",
    ),
    "book": (
        "{n} is a novel in three parts.",
        "{n} is a collection of travel letters.",
        "{n} is a history told by a ferryman.",
        "{n} is a long poem about the sea.",
    ),
    "river": (
        "{n} is a river with many weirs.",
        "{n} is a river of the uplands.",
        "{n} is a slow river with broad meadows.",
    ),
    "school": (
        "{n} is a school for the sciences.",
        "{n} is a school of music and drawing.",
        "{n} is a school with a large library.",
    ),
}
FILLERS: dict[Kind, tuple[str, ...]] = {
    "person": (
        "Letters to friends show a dry sense of humour.",
        "A portrait hangs in a private collection.",
        "Contemporaries praised a clear and patient manner.",
        "Several notebooks have survived, though none is complete.",
        "Later critics were less kind about the early work.",
    ),
    "city": (
        "Every autumn a fair fills the main square.",
        "A fire destroyed the lower quarter, which was rebuilt in stone.",
        "The climate is mild, with fog in the mornings.",
        "Visitors come for the gardens above the walls.",
        "A tram line connects the station with the old quays.",
    ),
    "company": (
        "Its catalogue was famous for careful engravings.",
        "A strike in the early days led to better wages.",
        "It exports most of what it makes.",
        "Old products are sought by collectors.",
        "A small museum shows the first machines.",
    ),
    "book": (
        "Critics praised its calm tone.",
        "A stage version was given for one season only.",
        "The manuscript was thought lost for a generation.",
        "Its last chapter has been read in many ways.",
        "Schoolchildren still learn its opening by heart.",
    ),
    "river": (
        "Floods in spring feed the meadows.",
        "Otters have returned to the upper reaches.",
        "A towpath follows most of its course.",
        "Its water drives a dozen mills.",
    ),
    "school": (
        "Its library is open to everybody.",
        "Former scholars meet every summer in the courtyard.",
        "Lessons begin at sunrise, by an old custom.",
        "The observatory on the roof is still in use.",
    ),
}
CONFUSIONS = (
    "It is often mistaken for {}, with which it has nothing in common.",
    "Not to be confused with {}.",
    "Catalogues sometimes mix up the entry with that of {}.",
)
