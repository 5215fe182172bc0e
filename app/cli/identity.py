"""Who may call what a command serves: the variables and the file's `[auth]`, as one rule."""

from collections.abc import Sequence
from ipaddress import ip_address

from app.cli.launcher import read_keyring
from app.cli.running import UnusableSettings, read_settings
from app.faces.identity import Identity
from app.guard.keys import Administer
from app.guard.policy import Policy
from app.guard.principal import EVERYBODY
from app.guard.settings import IdentitySettings
from app.key_stores import NoKeyStore, administered
from app.services.postgres.connections.settings import PostgresSettings

_THREE_WAYS = """\
Nothing was started: callers on other machines could reach {host}, and nobody is asked for a key. Choose one:
  ask for keys      write [auth] into switchboard.toml, and make a key: switchboard keys create --role developer;
                    where there is neither file nor database, set SWITCHBOARD_FIRST_KEY (keys create --as-variable)
  stay on loopback  leave HOST and --host out, so that only this machine can call
  let everybody in  --allow-anonymous, or SWITCHBOARD_ALLOW_ANONYMOUS=true, behind what decides itself who may call"""


def identity_for(hosts: Sequence[str], policy: Policy, *, allow_anonymous: bool = False) -> Identity:
    """Return the rule by which callers are told apart.

    Args:
        hosts: addresses that are listened on.
        policy: says whether callers are asked for keys.
        allow_anonymous: whether the command line lets everybody in.

    Raises:
        UnusableSettings: everybody on the network could call, and nobody has said so; or there could be no key.
    """
    given = read_settings(IdentitySettings, allow_anonymous=allow_anonymous or None)
    if not (policy.has_auth or given.names_keys):
        outside = next((host for host in hosts if not _is_loopback(host)), None)
        if outside is not None and not given.allow_anonymous:
            raise UnusableSettings(_THREE_WAYS.format(host=outside))
        return Identity(None, anonymous=EVERYBODY, through_proxies=given.allow_anonymous)
    if given.allow_anonymous:
        raise UnusableSettings(
            "Nothing was started: SWITCHBOARD_ALLOW_ANONYMOUS lets everybody in, and [auth], SWITCHBOARD_FIRST_KEY or"
            " SWITCHBOARD_KEY_FILE asks for keys. Take one of them out."
        )
    return Identity(
        read_keyring(given),
        public_pages=policy.public_pages,
        public_url=policy.public_url,
        administer=_administer(given),
    )


def _administer(given: IdentitySettings) -> Administer | None:
    """Return what opens the keys that the console makes and revokes; None where all of them are in variables."""
    try:
        return administered(given, read_settings(PostgresSettings))
    except NoKeyStore:
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback
