"""No statement of ours reads or changes the rows of other customers than the one it is about, unless it says so.

A table is somebody's if it is that of customers or refers to it. Wherever a statement takes rows of such a table, in
whatever subquery, it compares the column that says whose they are with the parameter `customer`, so that PostgreSQL
finds the customer's rows and no others. It is checked before a statement is run for the first time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    ColumnElement,
    Delete,
    FromClause,
    Join,
    Select,
    Table,
    TableClause,
    TextClause,
    Update,
    bindparam,
)
from sqlalchemy.sql import ClauseElement, Executable, operators
from sqlalchemy.sql.elements import ColumnClause
from sqlalchemy.sql.selectable import AliasedReturnsRows

from app.models import Base, Customer

CUSTOMER = "customer"
"""The parameter of statements that says whose rows they are about."""

StatementT = TypeVar("StatementT", bound=Executable)


def of_customer() -> BindParameter[str]:
    """Return the parameter that says whose rows a statement is about."""
    return bindparam(CUSTOMER, type_=Customer.id.type)


def _owners() -> Mapping[str, str]:
    customers = cast("Table", Customer.__table__)
    owners = {Customer.__tablename__: Customer.id.key}
    for table in Base.metadata.tables.values():
        for key in table.foreign_keys:
            if key.references(customers):
                owners[table.name] = key.parent.name
    return owners


OWNERS = _owners()
"""The column that says whose a row is, by the name of each table that has rows of customers."""
_CONSTANT = re.compile(r"'(?:[^']|'')*'")
_NAMED = re.compile(rf"\b({'|'.join(OWNERS)})\b")


def confined(statement: StatementT) -> StatementT:
    """Return a statement that reaches the rows of one customer only.

    Raises:
        TypeError: it could reach others' rows; the message names the table.
    """
    if table := next(_unconfined(cast("ClauseElement", statement)), None):
        raise TypeError(
            f"a statement takes rows of {table} without comparing whose they are with of_customer(); it may do so only "
            "if it is for the staff, and says that"
        )
    return statement


def _unconfined(statement: ClauseElement) -> Iterator[str]:
    for part in _parts(statement):
        match part:
            case Select():
                select = cast("Select[*tuple[Any, ...]]", part)
                yield from _others_rows(select.get_final_froms(), select.whereclause)
            case Update() | Delete():
                yield from _others_rows([cast("FromClause", part.table)], part.whereclause)
            case TextClause() | ColumnClause() if found := _NAMED.search(_text(part)):
                # Nobody knows what a text does.
                yield found[1]
            case _:
                pass


def _parts(statement: ClauseElement) -> Iterator[ClauseElement]:
    """Iterate over the parts of a statement, each once, by however many ways it can be come by."""
    seen: dict[int, ClauseElement] = {}
    left = [statement]
    while left:
        part = left.pop()
        if id(part) not in seen:
            seen[id(part)] = part  # kept, so that no other part gets its id
            yield part
            left.extend(part.get_children())


def _text(part: "TextClause | ColumnClause[Any]") -> str:
    text = part.text if isinstance(part, TextClause) else part.name if part.is_literal else ""
    return _CONSTANT.sub("", text)


def _others_rows(sources: Sequence[FromClause], condition: ColumnElement[bool] | None) -> Iterator[str]:
    """Iterate over the tables of which rows are taken that may be anybody's."""
    compared = {id(column) for column in _compared(condition)}
    for source in _flattened(sources):
        table: Any = source
        while isinstance(table, AliasedReturnsRows):
            table = table.element
        name: str = table.name if isinstance(table, TableClause) else ""
        if name in OWNERS and id(source.c.get(OWNERS[name])) not in compared:
            yield name


def _flattened(sources: Sequence[FromClause]) -> Iterator[FromClause]:
    for source in sources:
        if isinstance(source, Join):
            yield from _flattened([source.left, source.right])
        else:
            yield source


def _compared(condition: ColumnElement[bool] | None) -> Iterator[Any]:
    """Iterate over the columns that a condition holds to be the customer, whatever else it says."""
    if isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
        for part in condition.clauses:
            yield from _compared(cast("ColumnElement[bool]", part))
    elif isinstance(condition, BinaryExpression) and condition.operator is operators.eq:
        sides = [condition.left, condition.right]
        if any(isinstance(side, BindParameter) and side.key == CUSTOMER for side in sides):
            # The mapped classes' columns carry annotations around the tables' own.
            yield from (cast("Any", side)._deannotate() for side in sides)
