"""The domains of the generated databases: tables, columns, and the words that questions use for them.

A domain is data only; `generate` fills its tables and `questions` asks about them, both without knowing any domain by
name. Invariant: every table has a key `id` that counts from 1, a link points to a table that stands before its own, and
the table with the share 1.0 is the largest.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

LEAST_ROWS = 3
"""Of any table."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column beside `id`."""

    name: str
    words: str = ""
    """What questions call it; the name where empty."""
    missing: float = 0.0
    """Highest share of NULL; each database draws its own below it."""

    @property
    def label(self) -> str:
        return self.words or self.name

    @property
    def sql_type(self) -> str:
        return "TEXT"


@dataclass(frozen=True, slots=True)
class Choice(Column):
    """One of a few texts; how often each occurs is drawn for each database."""

    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Text(Column):
    """A name or title: a word of each list."""

    parts: tuple[tuple[str, ...], ...] = ()

    @property
    def pool(self) -> list[str]:
        return [" ".join(words) for words in product(*self.parts)]


@dataclass(frozen=True, slots=True)
class Day(Column):
    """A date in ISO form."""

    first: int = 2018
    last: int = 2024
    """Years, both included."""


@dataclass(frozen=True, slots=True)
class Whole(Column):
    """An integer, uniform."""

    low: int = 0
    high: int = 100

    @property
    def sql_type(self) -> str:
        return "INTEGER"


@dataclass(frozen=True, slots=True)
class Amount(Column):
    """A number of two decimals, log-normal around `middle`; each database has its own scale."""

    middle: float = 50.0
    spread: float = 0.6

    @property
    def sql_type(self) -> str:
        return "REAL"


@dataclass(frozen=True, slots=True)
class Link(Column):
    """A foreign key."""

    table: str = ""
    verb: str = ""
    """Between the two: "orders *placed by* customers"."""

    @property
    def sql_type(self) -> str:
        return "INTEGER"


@dataclass(frozen=True, slots=True)
class Table:
    """A table; its name is the plural of what a row is."""

    name: str
    one: str
    """What a row is."""
    share: float
    """Rows, as a share of the largest table's."""
    columns: tuple[Column, ...]

    def of(self, kind: type[Column], *, complete: bool = False) -> list[Column]:
        """The columns of a kind; with `complete` only those that are never NULL."""
        return [column for column in self.columns if isinstance(column, kind) and not (complete and column.missing)]

    def size(self, rows: int) -> int:
        """Its rows in a database whose largest table has `rows`."""
        return max(min(LEAST_ROWS, rows), round(rows * self.share))


@dataclass(frozen=True, slots=True)
class Domain:
    """A database's plan."""

    name: str
    main: str
    """The table of the short questions."""
    tables: tuple[Table, ...]

    def table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)

    def links(self) -> list[tuple[Table, Link, Table]]:
        """(child, foreign key, parent) for every foreign key."""
        return [
            (table, column, self.table(column.table))
            for table in self.tables
            for column in table.columns
            if isinstance(column, Link)
        ]


_FIRST = tuple(
    "Ada Ben Cleo Dan Eva Finn Gita Hugo Ines Jan Kira Leo Mona Nils Olga Paul Rosa Sven Tara Uwe".split()  # noqa: SIM905
)
_LAST = tuple(
    "Abel Berg Cruz Dahl Egan Falk Gray Holm Ivo Jung Kent Lind Moss Nash Ortiz Pohl Reyes Stone Weber".split()  # noqa: SIM905
)
_ADJECTIVES = tuple("Amber Blue Calm Dark Early Far Green High Iron Late Quiet Red Silver Small White".split())  # noqa: SIM905
_THINGS = tuple("Bridge Cloud Door Engine Field Garden Harbour Island Kettle Lamp Mirror River Tower".split())  # noqa: SIM905
_CITIES = ("Oslo", "Paris", "Rome", "Lima", "Cairo", "Delhi", "Kyoto", "Quito")
_PEOPLE = (_FIRST, _LAST)
_TITLES = (_ADJECTIVES, _THINGS)

_SHOP = Domain(
    "shop",
    "orders",
    (
        Table(
            "customers",
            "customer",
            0.2,
            (
                Text("name", parts=_PEOPLE),
                Choice("city", values=_CITIES),
                Choice("segment", values=("private", "business", "public", "school")),
                Day("joined", "joining date"),
                Amount("credit", missing=0.3, middle=200.0),
            ),
        ),
        Table(
            "products",
            "product",
            0.1,
            (
                Text("name", parts=_TITLES),
                Choice("category", values=("books", "garden", "kitchen", "music", "sport", "toys")),
                Amount("price", middle=25.0),
                Whole("stock", low=0, high=500),
                Amount("weight", missing=0.2, middle=2.0),
            ),
        ),
        Table(
            "orders",
            "order",
            0.5,
            (
                Link("customer_id", table="customers", verb="placed by"),
                Choice("status", values=("open", "paid", "packed", "shipped", "returned", "cancelled")),
                Day("ordered", "order date"),
                Amount("total", middle=80.0),
                Amount("discount", missing=0.6, middle=6.0),
            ),
        ),
        Table(
            "items",
            "item",
            1.0,
            (
                Link("order_id", table="orders", verb="in"),
                Link("product_id", table="products", verb="for"),
                Whole("quantity", low=1, high=12),
                Amount("price", middle=25.0),
            ),
        ),
        Table(
            "reviews",
            "review",
            0.3,
            (
                Link("product_id", table="products", verb="of"),
                Link("customer_id", table="customers", verb="written by"),
                Whole("stars", low=1, high=5),
                Whole("votes", low=0, high=60, missing=0.3),
                Day("posted", "posting date"),
            ),
        ),
    ),
)

_LIBRARY = Domain(
    "library",
    "books",
    (
        Table(
            "branches",
            "branch",
            0.02,
            (
                Choice("district", values=("north", "south", "east", "west", "centre")),
                Whole("seats", low=20, high=300),
                Day("opened", "opening date", first=1960, last=2015),
            ),
        ),
        Table(
            "members",
            "member",
            0.2,
            (
                Text("name", parts=_PEOPLE),
                Link("branch_id", table="branches", verb="registered at"),
                Choice("kind", values=("adult", "child", "student", "senior")),
                Whole("age", low=6, high=90, missing=0.2),
                Day("joined", "joining date"),
            ),
        ),
        Table(
            "books",
            "book",
            0.4,
            (
                Text("title", parts=_TITLES),
                Choice("genre", values=("crime", "drama", "fantasy", "history", "poetry", "science", "travel")),
                Whole("year", low=1950, high=2024),
                Whole("pages", low=60, high=900),
                Amount("price", missing=0.3, middle=18.0),
            ),
        ),
        Table(
            "loans",
            "loan",
            1.0,
            (
                Link("member_id", table="members", verb="taken by"),
                Link("book_id", table="books", verb="of"),
                Day("loaned", "loan date"),
                Whole("days", low=1, high=60),
                Amount("fine", missing=0.7, middle=4.0),
            ),
        ),
        Table(
            "reservations",
            "reservation",
            0.2,
            (
                Link("member_id", table="members", verb="made by"),
                Link("book_id", table="books", verb="of"),
                Choice("state", values=("waiting", "ready", "collected", "expired")),
                Day("made", "reservation date"),
            ),
        ),
    ),
)

_CLINIC = Domain(
    "clinic",
    "visits",
    (
        Table(
            "doctors",
            "doctor",
            0.05,
            (
                Text("name", parts=_PEOPLE),
                Choice("specialty", values=("cardiology", "dermatology", "neurology", "paediatrics", "surgery")),
                Day("hired", "hiring date", first=1995),
                Amount("salary", middle=6000.0, spread=0.3),
            ),
        ),
        Table(
            "patients",
            "patient",
            0.3,
            (
                Text("name", parts=_PEOPLE),
                Choice("city", values=_CITIES),
                Choice("blood", "blood group", values=("A", "B", "AB", "O")),
                Day("born", "birth date", first=1940, last=2015),
                Amount("weight", missing=0.3, middle=68.0, spread=0.25),
            ),
        ),
        Table(
            "visits",
            "visit",
            1.0,
            (
                Link("patient_id", table="patients", verb="made by"),
                Link("doctor_id", table="doctors", verb="to"),
                Choice("reason", values=("check", "fever", "injury", "pain", "test", "vaccine")),
                Day("visited", "visit date"),
                Amount("fee", middle=90.0),
                Whole("rating", low=1, high=10, missing=0.4),
            ),
        ),
        Table(
            "prescriptions",
            "prescription",
            0.6,
            (
                Link("visit_id", table="visits", verb="written at"),
                Choice("drug", values=("aspirin", "codeine", "ibuprofen", "insulin", "morphine", "penicillin")),
                Whole("dose", low=5, high=500),
                Whole("days", low=1, high=30),
                Amount("price", missing=0.2, middle=15.0),
            ),
        ),
    ),
)

_FLIGHTS = Domain(
    "flights",
    "flights",
    (
        Table(
            "airlines",
            "airline",
            0.03,
            (
                Text("name", parts=_TITLES),
                Choice("country", values=("Chile", "Egypt", "France", "India", "Japan", "Kenya", "Norway")),
                Whole("founded", "founding year", low=1930, high=2015),
                Amount("revenue", missing=0.2, middle=800.0),
            ),
        ),
        Table(
            "aircraft",
            "aircraft",
            0.1,
            (
                Link("airline_id", table="airlines", verb="operated by"),
                Choice("model", values=("A220", "A320", "A350", "B737", "B787", "E190")),
                Whole("seats", low=70, high=380),
                Day("built", "construction date", first=1998),
            ),
        ),
        Table(
            "flights",
            "flight",
            0.5,
            (
                Link("aircraft_id", table="aircraft", verb="flown with"),
                Choice("origin", values=_CITIES),
                Choice("status", values=("landed", "delayed", "diverted", "cancelled")),
                Day("departed", "departure date"),
                Whole("distance", low=150, high=9000),
                Whole("delay", low=1, high=240, missing=0.5),
            ),
        ),
        Table(
            "bookings",
            "booking",
            1.0,
            (
                Link("flight_id", table="flights", verb="on"),
                Text("passenger", parts=_PEOPLE),
                Choice("cabin", values=("economy", "premium", "business", "first")),
                Amount("fare", middle=240.0),
                Day("booked", "booking date"),
                Whole("bags", low=0, high=4, missing=0.3),
            ),
        ),
    ),
)

_SCHOOL = Domain(
    "school",
    "students",
    (
        Table(
            "teachers",
            "teacher",
            0.06,
            (
                Text("name", parts=_PEOPLE),
                Choice("subject", values=("art", "biology", "chemistry", "history", "maths", "physics")),
                Day("hired", "hiring date", first=1990),
                Amount("salary", middle=4000.0, spread=0.25),
            ),
        ),
        Table(
            "courses",
            "course",
            0.12,
            (
                Text("title", parts=_TITLES),
                Link("teacher_id", table="teachers", verb="taught by"),
                Choice("room", values=("R1", "R2", "R3", "R4", "R5", "R6")),
                Whole("credits", low=1, high=12),
                Amount("fee", missing=0.3, middle=120.0),
            ),
        ),
        Table(
            "students",
            "student",
            0.4,
            (
                Text("name", parts=_PEOPLE),
                Choice("town", values=_CITIES),
                Choice("year", values=("first", "second", "third", "fourth")),
                Day("born", "birth date", first=1998, last=2008),
                Whole("points", low=0, high=400),
            ),
        ),
        Table(
            "enrolments",
            "enrolment",
            1.0,
            (
                Link("student_id", table="students", verb="of"),
                Link("course_id", table="courses", verb="in"),
                Choice("term", values=("autumn", "winter", "spring", "summer")),
                Day("enrolled", "enrolment date"),
                Amount("score", missing=0.4, middle=60.0, spread=0.25),
            ),
        ),
    ),
)

DOMAINS: dict[str, Domain] = {domain.name: domain for domain in (_SHOP, _LIBRARY, _CLINIC, _FLIGHTS, _SCHOOL)}
"""By name."""
