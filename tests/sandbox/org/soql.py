"""SOQL as far as it is needed here: read strictly, then evaluated over rows.

What the real parser takes in silence and what it refuses is in the SOQL reference ("Condition Expression Syntax":
AND and OR do not mix without parentheses; a date or datetime is never quoted)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from tests.sandbox.org.schema import Field, Kind, SObject

MOST_CHARACTERS = 100_000
MOST_CHARACTERS_OF_A_STRING = 4_000
_TOKEN = re.compile(
    r"\s*(?:(?P<string>'(?:[^'\\]|\\[nrtbf\"'\\_%])*')"
    r"|(?P<datetime>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))"
    r"|(?P<date>\d{4}-\d\d-\d\d)|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<operator><=|>=|!=|<>|=|<|>)|(?P<mark>[(),])|(?P<word>[A-Za-z_][A-Za-z0-9_.]*))"
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}

Row = Mapping[str, object]
Value = object


class SoqlError(Exception):
    """The query is refused, with Salesforce's code for it."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True)
class Query:
    """A query that has been read: `columns` are field paths, ["COUNT()"] for a count."""

    columns: tuple[str, ...]
    sobject: str
    where: Callable[[Row], bool]
    order: tuple[tuple[str, bool], ...]
    limit: int | None
    offset: int


@dataclass
class Schema:
    """What the reader asks about names."""

    objects: Mapping[str, SObject]

    def sobject(self, name: str) -> SObject:
        found = self.objects.get(name.lower())
        if found is None:
            raise SoqlError("INVALID_TYPE", f"sObject type '{name}' is not supported.")
        return found

    def field(self, sobject: SObject, path: str) -> Field:
        """The field that a path like `Opportunity.Name` ends in."""
        *steps, name = path.split(".")
        for step in steps:
            through = next(
                (one for one in sobject.fields.values() if (one.relationship or "").lower() == step.lower()),
                None,
            )
            if through is None:
                raise SoqlError("INVALID_FIELD", f"Didn't understand relationship '{step}' in field path.")
            if len(through.refers_to) > 1:
                if name.lower() not in {"name", "type", "id"}:
                    raise SoqlError("INVALID_FIELD", f"No such column '{name}' on entity 'Name'.")
                return Field(name)
            sobject = self.sobject(through.refers_to[0])
        found = sobject.field(name)
        if found is None:
            raise SoqlError("INVALID_FIELD", f"No such column '{name}' on entity '{sobject.name}'.")
        return found


def read(text: str, schema: Schema, value_of: Callable[[Row, str], Value]) -> Query:
    """The query; `value_of` follows a path from a row. Raises SoqlError."""
    if len(text) > MOST_CHARACTERS:
        raise SoqlError(
            "MALFORMED_QUERY", f"SOQL statements cannot be longer than {MOST_CHARACTERS} characters."
        )
    return _Reader(text, schema, value_of).query()


class _Reader:
    def __init__(self, text: str, schema: Schema, value_of: Callable[[Row, str], Value]) -> None:
        self._tokens = list(_tokens(text))
        self._position = 0
        self._schema = schema
        self._value_of = value_of

    def query(self) -> Query:
        self._keyword("SELECT")
        columns = self._columns()
        self._keyword("FROM")
        sobject = self._schema.sobject(self._word())
        self._sobject = sobject
        for column in columns:
            if column != "COUNT()":
                self._schema.field(sobject, column)
        where: Callable[[Row], bool] = lambda _: True  # noqa: E731  the condition of a query without one
        if self._is("WHERE"):
            where = self._condition()
        order, limit, offset = self._order(), self._number("LIMIT"), self._number("OFFSET")
        if self._position < len(self._tokens):
            raise _unexpected(self._tokens[self._position][1])
        return Query(columns, sobject.name, where, order, limit, offset or 0)

    def _columns(self) -> tuple[str, ...]:
        columns = [self._column()]
        while self._is_mark(","):
            columns.append(self._column())
        if len({column.lower() for column in columns}) < len(columns):
            raise SoqlError("INVALID_FIELD", "duplicate field selected")
        return tuple(columns)

    def _column(self) -> str:
        word = self._word()
        if word.upper() == "COUNT" and self._is_mark("("):
            self._mark(")")
            return "COUNT()"
        return word

    def _condition(self) -> Callable[[Row], bool]:
        """One kind of connective on each level."""
        terms = [self._term()]
        connective = None
        while (found := self._peek()) in {"AND", "OR"}:
            if connective not in {None, found}:
                raise _unexpected(found or "")
            connective = found
            self._position += 1
            terms.append(self._term())
        together = any if connective == "OR" else all
        return lambda row: together(term(row) for term in terms)

    def _term(self) -> Callable[[Row], bool]:
        if self._is("NOT"):
            inner = self._term()
            return lambda row: not inner(row)
        if self._is_mark("("):
            inner = self._condition()
            self._mark(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Callable[[Row], bool]:
        path = self._word()
        field = self._schema.field(self._sobject, path)
        if not field.filterable:
            raise SoqlError("INVALID_FIELD", f"field '{field.name}' can not be filtered in a query call")
        if self._is("LIKE"):
            pattern = _pattern(str(self._literal(field)))
            return lambda row: pattern.fullmatch(str(self._value_of(row, path) or "")) is not None
        is_negated = self._is("NOT")
        if is_negated or self._peek() == "IN":
            self._keyword("IN")
            wanted = self._list(field)
            return lambda row: (_folded(self._value_of(row, path), field) in wanted) is not is_negated
        return self._compared(path, field)

    def _list(self, field: Field) -> set[Value]:
        self._mark("(")
        found = {_folded(self._literal(field), field)}
        while self._is_mark(","):
            found.add(_folded(self._literal(field), field))
        self._mark(")")
        return found

    def _compared(self, path: str, field: Field) -> Callable[[Row], bool]:
        kind, operator = self._next()
        if kind != "operator":
            raise _unexpected(operator)
        wanted = _folded(self._literal(field), field)
        if operator in {"=", "!=", "<>"}:
            return lambda row: (_folded(self._value_of(row, path), field) == wanted) is (operator == "=")
        if wanted is None or field.kind in {Kind.BOOLEAN, Kind.REFERENCE}:
            raise SoqlError("INVALID_QUERY_FILTER_OPERATOR", f"invalid operator on {field.kind.value} field")
        compare = {
            "<": lambda value: value < wanted, ">": lambda value: value > wanted,
            "<=": lambda value: value <= wanted, ">=": lambda value: value >= wanted,
        }[operator]  # fmt: skip

        def holds(row: Row) -> bool:
            value = _folded(self._value_of(row, path), field)
            return value is not None and compare(value)

        return holds

    def _literal(self, field: Field) -> Value:
        """A value in the way that the field's kind is written; anything else is refused."""
        kind, text = self._next()
        if kind in {"mark", "operator"}:
            raise _unexpected(text)
        if kind == "word" and text.upper() == "NULL":
            return None
        ways = {
            Kind.BOOLEAN: {"word"}, Kind.DATE: {"date"}, Kind.DATETIME: {"datetime"}, Kind.INT: {"number"},
        }.get(field.kind, {"string"})  # fmt: skip
        if kind not in ways:
            raise SoqlError(
                "INVALID_FIELD",
                f"value of filter criterion for field '{field.name}' must be of type {field.kind.value} and should "
                + ("not be" if kind == "string" else "be")
                + " enclosed in quotes",
            )
        if field.kind is Kind.BOOLEAN and text.upper() not in {"TRUE", "FALSE"}:
            raise _unexpected(text)
        if kind == "string" and len(text) - 2 > MOST_CHARACTERS_OF_A_STRING:
            raise SoqlError("MALFORMED_QUERY", "a string of the query is longer than 4000 characters")
        return _value(kind, text)

    def _order(self) -> tuple[tuple[str, bool], ...]:
        """Field paths, and whether each runs backwards."""
        if not self._is("ORDER"):
            return ()
        self._keyword("BY")
        found = []
        while True:
            path = self._word()
            field = self._schema.field(self._sobject, path)
            if field.kind in {Kind.TEXTAREA, Kind.ID_LIST}:
                raise SoqlError("INVALID_FIELD", f"field '{field.name}' can not be sorted in a query call")
            is_backwards = self._is("DESC")
            if not is_backwards:
                self._is("ASC")
            if self._is("NULLS") and not (self._is("FIRST") or self._is("LAST")):
                raise _unexpected(self._peek() or "end of query")
            found.append((path, is_backwards))
            if not self._is_mark(","):
                return tuple(found)

    def _number(self, word: str) -> int | None:
        if not self._is(word):
            return None
        kind, text = self._next()
        if kind != "number" or not text.isdecimal():
            raise _unexpected(text)
        return int(text)

    def _next(self) -> tuple[str, str]:
        if self._position >= len(self._tokens):
            raise _unexpected("<EOF>")
        self._position += 1
        return self._tokens[self._position - 1]

    def _peek(self) -> str | None:
        if self._position >= len(self._tokens) or self._tokens[self._position][0] != "word":
            return None
        return self._tokens[self._position][1].upper()

    def _is(self, word: str) -> bool:
        if self._peek() != word:
            return False
        self._position += 1
        return True

    def _keyword(self, word: str) -> None:
        if not self._is(word):
            raise _unexpected(
                self._tokens[self._position][1] if self._position < len(self._tokens) else "<EOF>"
            )

    def _word(self) -> str:
        kind, text = self._next()
        if kind != "word":
            raise _unexpected(text)
        return text

    def _is_mark(self, mark: str) -> bool:
        if self._position < len(self._tokens) and self._tokens[self._position] == ("mark", mark):
            self._position += 1
            return True
        return False

    def _mark(self, mark: str) -> None:
        if not self._is_mark(mark):
            raise _unexpected(
                self._tokens[self._position][1] if self._position < len(self._tokens) else "<EOF>"
            )


def _tokens(text):
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _unexpected(text[position : position + 20].strip())
        yield match.lastgroup, match.group(match.lastgroup)
        position = match.end()


def _unexpected(token: str) -> SoqlError:
    return SoqlError("MALFORMED_QUERY", f"unexpected token: {token}")


def _value(kind: str, text: str) -> Value:
    if kind == "string":
        return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match.group(1), match.group(1)), text[1:-1])
    if kind == "datetime":
        return datetime.fromisoformat(text).astimezone(UTC)
    if kind == "date":
        try:
            return date.fromisoformat(text)
        except ValueError as error:
            raise SoqlError("MALFORMED_QUERY", f"Invalid date: {text}") from error
    if kind == "number":
        return float(text) if "." in text else int(text)
    return text.upper() == "TRUE"


def _folded(value: Value, field: Field) -> Value:
    """Strings are compared without regard to case; ids by their first fifteen characters, with it."""
    if not isinstance(value, str):
        return value
    return value[:15] if field.kind in {Kind.ID, Kind.REFERENCE} else value.casefold()


def _pattern(like: str) -> re.Pattern[str]:
    escaped = "".join({"%": ".*", "_": "."}.get(character, re.escape(character)) for character in like)
    return re.compile(escaped, re.IGNORECASE | re.DOTALL)
