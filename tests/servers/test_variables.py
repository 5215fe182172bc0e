"""What stands in an address, as the arguments of a method."""

from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from app.errors import InvalidArguments
from app.routers.database import DatabaseMCPServer
from app.servers.resources import Resource
from app.servers.variables import parse_variables


class Variables(BaseModel):
    number: Annotated[int, Field(ge=-9)] = 0
    perhaps: Annotated[int | None, Field(ge=-9)] = None
    text: str = ""
    either: int | str = 0


ODD = ["5_7", "+57", " 57", "57 ", "57.0", "5e1", "\u0665\u0667", "\uff15\uff17", "", "-", "0x39", "57\n"]


@pytest.mark.parametrize("odd", ODD)
def test_a_whole_number_is_written_in_decimal_digits_alone(odd: str) -> None:
    with pytest.raises(InvalidArguments, match=r"^number: must be a whole number.*; perhaps: must be a whole number"):
        parse_variables(Variables, {"number": odd, "perhaps": odd})
    assert parse_variables(Variables, {"text": odd, "either": odd})["text"] == odd


@pytest.mark.parametrize(("written", "number"), [("57", 57), ("0", 0), ("-9", -9)])
def test_plain_numbers_are_taken(written: str, number: int) -> None:
    parsed = parse_variables(Variables, {"number": written, "perhaps": written})
    assert (parsed["number"], parsed["perhaps"]) == (number, number)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    ("method", "template", "variable"),
    [
        ("ticket", "db://tickets/{ticket_id}", "ticket_id"),
        ("knowledge_article", "db://knowledge_articles/{article_id}", "article_id"),
        ("interaction", "db://interactions/{interaction_id}", "interaction_id"),
        ("tickets", "db://tickets{?cursor,limit}", "limit"),
    ],
)
def test_rows_have_one_address(method: str, template: str, variable: str, odd: str) -> None:
    resource = Resource.declared(template, getattr(DatabaseMCPServer, method))
    with pytest.raises(InvalidArguments, match=f"^{variable}: must be a whole number"):
        resource.parse({variable: odd})
    assert resource.parse({variable: "57"})[variable] == 57
