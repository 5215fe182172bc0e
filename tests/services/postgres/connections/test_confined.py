"""A statement that could reach rows of other customers is refused before it is run, in whatever part of it they are."""

from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import (
    Executable,
    bindparam,
    column,
    delete,
    func,
    insert,
    literal_column,
    select,
    table,
    text,
    union_all,
    update,
)
from sqlalchemy.orm import aliased

from app.models import Article, Base, Customer, Interaction, Ticket
from app.services.postgres.connections.confined import OWNERS, confined, of_customer
from app.services.postgres.connections.pools import Reach, Statement
from tests.services.postgres.statements import modules, statements

OWN_TICKETS = select(Ticket.id).where(Ticket.customer_id == of_customer())
OTHER_NAME = aliased(Ticket)


@pytest.mark.parametrize(
    "statement",
    [
        OWN_TICKETS,
        select(Ticket).where(Ticket.id > bindparam("after"), of_customer() == Ticket.customer_id),
        select(OTHER_NAME.id).where(OTHER_NAME.customer_id == of_customer()),
        select(Customer.name, OWN_TICKETS.scalar_subquery()).where(Customer.id == of_customer()),
        select(Ticket.id)
        .join(Interaction, Interaction.ticket_id == Ticket.id)
        .where(Ticket.customer_id == of_customer(), Interaction.customer_id == of_customer()),
        update(Ticket).where(Ticket.customer_id == of_customer()).values(subject="mine"),
        select(func.count()).select_from(Article),
        select(literal_column("'tickets'")),
    ],
)
def test_what_keeps_to_one_customer_passes(statement: Executable) -> None:
    assert confined(statement) is statement


@pytest.mark.parametrize(
    "statement",
    [
        select(Ticket.id),
        select(func.count()).select_from(Ticket),
        select(Ticket.id).where(Ticket.customer_id == bindparam("somebody")),
        select(Ticket.id).where(Ticket.customer_id != of_customer()),
        select(Ticket.id).where((Ticket.customer_id == of_customer()) | (Ticket.id > 0)),
        select(Ticket.id).where(~(Ticket.customer_id == of_customer())),
        select(Ticket.id).where(Ticket.subject == of_customer()),
        select(OTHER_NAME.id, Ticket.id).where(Ticket.customer_id == of_customer()),
        select(Ticket.id)
        .join(Interaction, Interaction.ticket_id == Ticket.id)
        .where(Ticket.customer_id == of_customer()),
        select(Customer.name, select(Ticket.id).scalar_subquery()).where(Customer.id == of_customer()),
        select(select(Ticket.id).cte("all").c.id),
        select(select(Ticket.id).subquery().c.id),
        select(Article.id, select(Ticket.id).lateral("each").c.id),
        select(Article.id).where(select(Ticket.id).where(Ticket.id == Article.id).exists()),
        union_all(OWN_TICKETS, select(Ticket.id)),
        select(func.count()).select_from(Ticket.__table__.tablesample(50)),
        select(column("id")).select_from(table("tickets", column("id"))),
        select(literal_column("(SELECT count(*) FROM tickets)")),
        text('SELECT * FROM "interactions"'),
        update(Ticket).where(Ticket.id == 5).values(subject="anybody's"),
        delete(Interaction).where(Interaction.id == 5),
        insert(Interaction).from_select(["query_text"], select(Ticket.subject)),
    ],
)
def test_what_could_reach_others_is_refused_unless_it_is_for_the_staff(statement: Executable) -> None:
    with pytest.raises(TypeError, match="takes rows of"):
        confined(statement)
    with pytest.raises(TypeError, match="takes rows of"):
        _ = Statement(statement).sql
    assert Statement(statement, for_staff=True).sql


def test_a_statement_of_two_forms_is_refused_if_the_one_for_customers_keeps_to_nobody() -> None:
    with pytest.raises(TypeError, match="takes rows of tickets"):
        _ = Reach(lambda _: select(Ticket.id)).of("12345").sql
    both = Reach(lambda of_one: OWN_TICKETS if of_one else select(Ticket.id))
    assert ("WHERE" in both.of("12345").sql, "WHERE" in both.of(None).sql) == (True, False)


def test_every_table_with_rows_of_customers_is_known() -> None:
    referring = {name for name, each in Base.metadata.tables.items() if "customer_id" in each.columns}
    assert OWNERS.keys() == {"customers", *referring}
    assert OWNERS == {"customers": "id", "tickets": "customer_id", "interactions": "customer_id"}


def test_only_analytics_and_the_staffs_forms_reach_everybody() -> None:
    """What says that it is for the staff is listed here, so that nothing says so unseen."""
    said = [module.__name__ for module in modules() if "for_staff=True" in _source(module)]
    assert sorted(said) == ["app.services.postgres.connections.pools", "app.services.postgres.desk.analytics"]


def test_every_statement_can_be_made_and_keeps_to_one_customer() -> None:
    """They are checked and compiled when they are run first, which for some is seldom."""
    assert len({statement.sql for statement in statements()}) >= 30


def _source(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text()
