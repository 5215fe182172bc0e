"""The demo world: a support desk's last year, the same on every machine but for its dates."""

import json
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from app.services.postgres.connections.address import Address
from app.services.postgres.connections.connecting import Connector
from app.services.postgres.connections.errors import postgres_errors
from app.services.postgres.demo.topics import Script, Topic, read_script

_ARTICLES = Path(__file__).parent / "articles"
_SEED = 20_260_301
_FIRST_CUSTOMER = 12_200
_CUSTOMERS = 300
_TICKETS = 3000
_CHATS = 400
"""Interactions that never became a ticket."""
_STORY = "12345"
"""The customer of the README and the documentation."""
_LOCK = 7_286_459_018_242

_AGENTS = (
    "ana.silva",
    "ben.carter",
    "chidi.okafor",
    "dana.novak",
    "emre.yilmaz",
    "fiona.walsh",
    "goran.petrov",
    "hana.ito",
)
_DEVICES = ("Scanner", "Label Printer", "Scanner Mini", "tablet stand", "charging cradle")
_PLANS = (("free", 30), ("pro", 42), ("business", 22), ("enterprise", 6))
_CHANNELS = (("email", 46), ("chat", 27), ("web", 13), ("phone", 9), ("social", 3), ("api", 2))
_PLACES = (
    # country, language, weight, first names, family names
    (
        "US",
        "en",
        22,
        "Olivia Marcus Hannah Tyrone Grace Dylan Naomi Carlos",
        "Bennett Harris Washington Nguyen Cooper Reyes",
    ),
    ("GB", "en", 14, "Imogen Callum Priya Rhys Amelia Kwame", "Hughes Patel Fletcher Mensah Doyle Ashworth"),
    ("DE", "de", 13, "Jana Lukas Miriam Thorsten Aylin Jürgen", "Krüger Hoffmann Yildiz Brandt Vogel Schröder"),
    ("ES", "es", 9, "Lucía Javier Marta Íñigo Carmen Pablo", "García Ibáñez Navarro Romero Ortega Vidal"),
    ("FR", "fr", 7, "Camille Théo Fatima Hugo Élodie", "Lefèvre Moreau Benali Girard Fontaine"),
    ("IN", "en", 6, "Ananya Rohan Meera Arjun Kavya", "Sharma Iyer Reddy Banerjee Kapoor"),
    ("BR", "pt", 5, "Beatriz Thiago Larissa Rafael", "Souza Almeida Carvalho Ribeiro"),
    ("NL", "nl", 5, "Sanne Daan Femke Bram", "de Vries Bakker Visser van Dijk"),
    ("IT", "it", 4, "Giulia Matteo Chiara Lorenzo", "Conti Marino Greco Ferrari"),
    ("PL", "pl", 4, "Zofia Jakub Agnieszka Piotr", "Kowalska Wójcik Zieliński Lewandowska"),
    ("JP", "en", 3, "Yuki Haruto Sakura Kenji", "Tanaka Sato Kobayashi Yamamoto"),
    ("NG", "en", 3, "Adaeze Tunde Ngozi Emeka", "Okonkwo Adeyemi Balogun Eze"),
    ("MX", "es", 3, "Ximena Diego Valeria Emilio", "Hernández Castillo Morales Ríos"),
    ("SE", "en", 2, "Astrid Nils Ebba Oskar", "Lindqvist Bergström Nyström"),
)
_COMPANY_HEADS = (
    "Harbour",
    "Juniper",
    "Copper",
    "Willow",
    "Northgate",
    "Saffron",
    "Bluebell",
    "Granite",
    "Lantern",
    "Meadow",
    "Orchard",
    "Tidewater",
)
_COMPANY_TAILS = (
    "Books",
    "Bikes",
    "Coffee Roasters",
    "Outfitters",
    "Ceramics",
    "Pharmacy",
    "Garden Supply",
    "Toys",
    "Records",
    "Bakery",
    "Optics",
)


@dataclass(frozen=True)
class DemoSummary:
    """How many rows of each kind were loaded."""

    customers: int
    tickets: int
    articles: int
    interactions: int


@dataclass
class DemoWorld:
    """The rows of the four tables, ready for COPY."""

    now: datetime
    script: Script = field(default_factory=read_script)
    customers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tickets: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    articles: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    interactions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


async def seed(database_url: str, *, now: datetime | None = None) -> DemoSummary | None:
    """Load the demo world into an empty, migrated database.

    Args:
        database_url: the database, with a login that owns its tables.
        now: the moment at which the world ends; the present one if left out.

    Returns:
        What was loaded, None if the database holds any row already: then nothing is changed.

    Raises:
        GatewayError: the server can't be reached or the database is not migrated.
    """
    with postgres_errors():
        connection = await Connector(lambda: Address.read(database_url), connect_timeout=10).open()
        try:
            async with connection.transaction():
                # Two who start at the same moment: the second waits, and then finds rows.
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                if await connection.fetchval(_HAS_ROWS):
                    return None
                return await _load(connection, create_world(now or datetime.now(UTC)))
        finally:
            await connection.close()


_TABLES = ("customers", "tickets", "knowledge_articles", "interactions")
_HAS_ROWS = "SELECT " + " OR ".join(f"EXISTS (SELECT FROM {table})" for table in _TABLES)  # noqa: S608 - our own names


async def _load(connection: "asyncpg.Connection[asyncpg.Record]", world: DemoWorld) -> DemoSummary:
    for table, rows in zip(_TABLES, (world.customers, world.tickets, world.articles, world.interactions), strict=True):
        columns = list(rows[0])
        await connection.copy_records_to_table(table, columns=columns, records=[tuple(row.values()) for row in rows])
        if table != "customers":
            await connection.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"  # noqa: S608 - our own names
            )
    await connection.execute(f"ANALYZE {', '.join(_TABLES)}, article_search, search_words")
    return DemoSummary(len(world.customers), len(world.tickets), len(world.articles), len(world.interactions))


def create_world(now: datetime) -> DemoWorld:
    """Return the demo world that ends at a moment. But for its times it is always the same."""
    random = Random(_SEED)  # noqa: S311 - a world, not a secret
    world = DemoWorld(now.astimezone(UTC).replace(microsecond=0))
    _add_articles(world, random)
    _add_customers(world, random)
    known = [customer for customer in world.customers if customer["id"] != _STORY]
    # Some write often, most seldom.
    eagerness = [random.paretovariate(1.6) for _ in known]
    ages = sorted((365 * (1 - random.random() ** 0.85) for _ in range(_TICKETS)), reverse=True)
    for age in ages:
        _add_ticket(world, random, random.choices(known, eagerness)[0], age)
    for _ in range(_CHATS):
        _add_chat(world, random, random.choices(known, eagerness)[0], random.uniform(0.02, 364))
    _add_story(world)
    return world


def _add_articles(world: DemoWorld, random: Random) -> None:
    for number, path in enumerate(sorted(_ARTICLES.glob("*.md")), 1):
        _, front, body = path.read_text(encoding="utf-8").split("---\n", 2)
        fields = dict(line.split(": ", 1) for line in front.strip().splitlines())
        created = world.now - timedelta(days=random.uniform(380, 700))
        world.articles.append(
            {
                "id": number,
                "slug": path.stem,
                "title": fields["title"],
                "body": body.strip(),
                "tags": fields["tags"].split(", "),
                "language": fields["language"],
                "status": fields["status"],
                "created_at": created,
                "updated_at": created + (world.now - created) * random.random(),
            }
        )


def _add_customers(world: DemoWorld, random: Random) -> None:
    emails: set[str] = set()
    for number in range(_FIRST_CUSTOMER, _FIRST_CUSTOMER + _CUSTOMERS):
        country, language, _, first_names, family_names = random.choices(_PLACES, [place[2] for place in _PLACES])[0]
        # "de Vries" is one name: a small word belongs to the next one.
        family = random.choice(re.findall(r"(?:[a-z]+ )?\S+", family_names))
        name = f"{random.choice(first_names.split())} {family}"
        company = f"{random.choice(_COMPANY_HEADS)} {random.choice(_COMPANY_TAILS)}" if random.random() < 0.8 else None
        email = f"{_ascii(name)}@{_ascii(company).replace('.', '') if company else 'mail'}.example"
        if email in emails:
            email = email.replace("@", f".{number % 1000}@")
        emails.add(email)
        plan = _weighted(random, _PLANS)
        status = _weighted(random, (("active", 88), ("trial", 5), ("suspended", 4), ("closed", 3)))
        seats = random.randint(1, {"free": 2, "pro": 10, "business": 80, "enterprise": 400}[plan])
        world.customers.append(
            {
                "id": str(number),
                "name": name,
                "email": email,
                "company": company,
                "plan": plan,
                "status": status,
                "language": language,
                "country": country,
                "metadata": json.dumps({"seats": seats, "newsletter": random.random() < 0.4}),
                "created_at": world.now - timedelta(days=random.uniform(366, 1500)),
            }
        )


def _add_ticket(world: DemoWorld, random: Random, customer: dict[str, Any], age: float) -> None:
    topic = _topic(world.script, random, customer["language"])
    words = _words(random, customer)
    created = _office_time(world.now, age, random)
    turns = random.choices((1, 2, 3), (62, 28, 10))[0]
    urgent = random.random() < topic.urgent
    priority = (
        random.choice(("high", "urgent")) if urgent else _weighted(random, (("normal", 70), ("low", 20), ("high", 10)))
    )
    status = _status(random, age, urgent)
    pace = random.lognormvariate(0, 0.9) * (0.4 if urgent else 1.0)
    waits = {"first": timedelta(minutes=4 + 55 * pace), "whole": timedelta(hours=0.5 + topic.hours * pace * turns)}
    # A new ticket can't have been answered in the future.
    first_response = created + min(waits["first"], (world.now - created) * 0.4)
    ended = created + min(max(waits["whole"], waits["first"] * 1.2), (world.now - created) * 0.9)
    agent = random.choice(_AGENTS)
    answered = not (status == "open" and random.random() < 0.5)
    number = len(world.tickets) + 1
    channel = _weighted(random, _CHANNELS)
    message = random.choice(topic.messages).format_map(words)
    world.tickets.append(
        {
            "id": number,
            "customer_id": customer["id"],
            "subject": random.choice(topic.subjects).format_map(words),
            "description": message,
            "status": status,
            "priority": "urgent" if status == "escalated" and urgent else priority,
            "channel": channel,
            "assigned_agent": agent if answered else None,
            "created_at": created,
            "updated_at": ended if answered else created,
            "first_response_at": first_response if answered else None,
            "resolved_at": ended if status in {"resolved", "closed"} else None,
        }
    )
    said = _Conversation(world, customer["id"], number, channel, agent)
    said.customer(created, message)
    satisfaction = _satisfaction(random, waits["whole"])
    noted = random.random() < 0.28 or status == "escalated"
    rates = random.random() < 0.45
    thanks = random.random() < 0.4
    answers = [random.choice(topic.answers), *(random.choice(world.script.closings) for _ in range(turns - 1))]
    follow_ups = [random.choice(world.script.follow_ups) for _ in range(turns - 1)]
    if not answered:
        return
    if noted:
        said.note(created + (first_response - created) * 0.8, topic.note)
    if status == "escalated":
        said.note(ended, "Escalated to the specialists: the usual steps did not help. Customer is informed.")
    solved = status in {"resolved", "closed"}
    step = (ended - first_response) / (2 * turns)
    for turn, answer in enumerate(answers):
        at = first_response + step * 2 * turn
        if turn:
            said.customer(at - step, follow_ups[turn - 1])
        last = turn == turns - 1
        said.agent_says(at, answer.format_map(words), satisfaction if last and solved and rates else None)
    if solved and thanks:
        said.customer(ended, random.choice(world.script.thanks))


def _add_chat(world: DemoWorld, random: Random, customer: dict[str, Any], age: float) -> None:
    """Add a short question that was answered at once."""
    topic = _topic(world.script, random, customer["language"])
    words = _words(random, customer)
    at = _office_time(world.now, age, random)
    rating = _satisfaction(random, timedelta(minutes=5)) if random.random() < 0.5 else None
    world.interactions.append(
        _interaction(
            len(world.interactions) + 1,
            customer["id"],
            at,
            channel=_weighted(random, (("chat", 70), ("phone", 20), ("social", 10))),
            agent_id=random.choice(_AGENTS),
            query_text=random.choice(topic.messages).format_map(words),
            agent_response=random.choice(topic.answers).format_map(words),
            satisfaction=rating,
        )
    )


@dataclass(frozen=True)
class _Conversation:
    """The interactions of one ticket."""

    world: DemoWorld
    customer_id: str
    ticket_id: int
    channel: str
    agent_id: str

    def customer(self, at: datetime, text: str) -> None:
        self._add(at, query_text=text)

    def agent_says(self, at: datetime, text: str, satisfaction: int | None = None) -> None:
        self._add(at, direction="outbound", agent_id=self.agent_id, agent_response=text, satisfaction=satisfaction)

    def note(self, at: datetime, text: str) -> None:
        self._add(at, direction="outbound", internal=True, agent_id=self.agent_id, agent_response=text)

    def _add(self, at: datetime, **values: Any) -> None:
        number = len(self.world.interactions) + 1
        self.world.interactions.append(
            _interaction(number, self.customer_id, at, ticket_id=self.ticket_id, channel=self.channel, **values)
        )


def _interaction(number: int, customer_id: str, at: datetime, **values: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": number,
        "customer_id": customer_id,
        "ticket_id": None,
        "channel": "chat",
        "direction": "inbound",
        "internal": False,
        "agent_id": None,
        "query_text": None,
        "agent_response": None,
        "satisfaction": None,
        "metadata": "{}",
        "created_at": at,
    }
    return row | values


def _add_story(world: DemoWorld) -> None:
    """Give customer 12345 a year that is worth showing: two solved problems and an open one."""
    customer = next(customer for customer in world.customers if customer["id"] == _STORY)
    customer |= {
        "name": "Maya Lindholm",
        "email": "maya.lindholm@juniperbooks.example",
        "company": "Juniper Books",
        "plan": "business",
        "status": "active",
        "language": "en",
        "country": "GB",
        "metadata": json.dumps({"seats": 14, "newsletter": True, "shops": 3, "account_manager": "fiona.walsh"}),
        "created_at": world.now - timedelta(days=812),
    }
    password = _story_ticket(
        world, 203, "Can't sign in after changing my phone", "resolved", "normal", "chat", "ana.silva", (0.2, 1.1)
    )
    password.customer(_ago(world, 203), "Hi, I got a new phone and my two-factor codes are gone. I'm locked out!")
    password.agent_says(
        _ago(world, 203, 0.2),
        "Hi Maya, no worries: one of the recovery codes that you saved will let you in. Then replace the device under"
        " Settings → Security.",
    )
    password.customer(_ago(world, 203, 0.8), "Found the codes in my drawer. I'm in again, thank you!")
    password.agent_says(_ago(world, 203, 1.1), "Lovely. I suggest adding a security key as a second way.", 5)

    invoice = _story_ticket(
        world, 64, "Two charges on our card in one week", "closed", "high", "email", "ben.carter", (0.9, 26)
    )
    invoice.customer(
        _ago(world, 64), "Our statement shows 948.00 twice, on Monday and on Thursday. We have only one annual plan."
    )
    invoice.note(
        _ago(world, 64, 0.7), "Two captures at the processor, same invoice: retry after a timeout. Refund the second."
    )
    invoice.agent_says(
        _ago(world, 64, 0.9),
        "Hello Maya, you are right and I am sorry: the second charge was our mistake. I refunded 948.00 today;"
        " it takes 5 to 10 working days.",
    )
    invoice.customer(_ago(world, 64, 25), "The money is back. Thanks for the straight answer.")
    invoice.agent_says(_ago(world, 64, 26), "Thank you for your patience, Maya.", 4)

    parcel = _story_ticket(world, 2, "Order FH-48213 has not arrived", "open", "high", "email", "dana.novak", (0.6, 20))
    parcel.customer(
        _ago(world, 2),
        "We ordered two scanners for our new shop in Leeds (FH-48213). Tracking says 'delivered', but nothing is here,"
        " and we open on Saturday.",
    )
    parcel.agent_says(
        _ago(world, 2, 0.6),
        "Hello Maya, I have asked the carrier for the signature and opened a search. You will hear from me tomorrow"
        " at noon at the latest.",
    )
    parcel.note(
        _ago(world, 2, 19),
        "Signature is not the customer's. Carrier admits a wrong drop-off. Valued customer, opening on Saturday: send"
        " two scanners by express if there is no news by noon.",
    )
    parcel.customer(_ago(world, 2, 20), "Any news? Without scanners we can't count the stock before the opening.")


def _ago(world: DemoWorld, days: float, hours: float = 0) -> datetime:
    return world.now - timedelta(days=days) + timedelta(hours=hours)


def _story_ticket(
    world: DemoWorld,
    days: float,
    subject: str,
    status: str,
    priority: str,
    channel: str,
    agent: str,
    hours: tuple[float, float],
) -> _Conversation:
    number = len(world.tickets) + 1
    ended = _ago(world, days, hours[1])
    world.tickets.append(
        {
            "id": number,
            "customer_id": _STORY,
            "subject": subject,
            "description": f"{subject}. See the conversation.",
            "status": status,
            "priority": priority,
            "channel": channel,
            "assigned_agent": agent,
            "created_at": _ago(world, days),
            "updated_at": ended,
            "first_response_at": _ago(world, days, hours[0]),
            "resolved_at": ended if status in {"resolved", "closed"} else None,
        }
    )
    return _Conversation(world, _STORY, number, channel, agent)


def _topic(script: Script, random: Random, language: str) -> Topic:
    spoken = [topic for topic in script.topics if topic.language == "en" or topic.language == language]
    return random.choices(spoken, [topic.weight for topic in spoken])[0]


def _words(random: Random, customer: dict[str, Any]) -> dict[str, str]:
    return {
        "name": customer["name"].split()[0],
        "device": random.choice(_DEVICES),
        "order": f"FH-{random.randint(20_000, 49_999)}",
        "amount": f"{random.choice((29, 79, 149, 290, 348, 790, 948))}.00",
        "days": str(random.randint(4, 14)),
    }


def _status(random: Random, age: float, urgent: bool) -> str:
    """New tickets are still open, old ones are closed, and few are escalated."""
    if random.random() < 0.9 ** (age / 1.5):
        return _weighted(random, (("escalated", 25 if urgent else 6), ("open", 54), ("pending", 26)))
    if random.random() < 0.006:
        return _weighted(random, (("escalated", 1), ("pending", 2)))
    return "closed" if age > 30 and random.random() < 0.8 else "resolved"


def _satisfaction(random: Random, waited: timedelta) -> int:
    """Return 1 to 5; those who waited long are less happy."""
    hours = waited / timedelta(hours=1)
    mean = 4.7 if hours < 4 else 4.2 if hours < 24 else 3.4 if hours < 72 else 2.6
    return max(1, min(5, round(random.gauss(mean, 0.7))))


def _office_time(now: datetime, age: float, random: Random) -> datetime:
    """Return a moment about `age` days ago, on a weekday and in office hours for the most part.

    The draws don't depend on the date, so that the same world results on each day.
    """
    keeps_weekend, keeps_night = random.random() < 0.12, random.random() < 0.08
    hour = random.triangular(7.5, 19.5, 10.5)
    weekdays_before = random.randrange(5)
    at = now - timedelta(days=age)
    if at.weekday() >= 5 and not keeps_weekend:
        at -= timedelta(days=at.weekday() - 4 + weekdays_before)
    if not keeps_night:
        at = at.replace(hour=0, minute=0, second=0) + timedelta(hours=hour)
    return at if at < now - timedelta(minutes=10) else now - timedelta(minutes=10) - timedelta(hours=age * 0.9)


def _weighted(random: Random, choices: tuple[tuple[str, int], ...]) -> str:
    return random.choices([choice for choice, _ in choices], [weight for _, weight in choices])[0]


def _ascii(name: str) -> str:
    plain = (
        unicodedata.normalize("NFKD", name.replace("\u0131", "i").replace("ł", "l")).encode("ascii", "ignore").decode()
    )
    return re.sub(r"[^a-z]+", ".", plain.lower()).strip(".")
