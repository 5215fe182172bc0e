"""Keys outside of a database: a file of their hashes, and a variable with the hash of a first one."""

import fcntl
import json
import os
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from app.errors import IdentityUnavailable
from app.guard.keys import STORED_KEYS, StoredKey, has_good
from app.guard.principal import DEVELOPER

_FIRST_KEY = re.compile(r"(?P<id>[a-z0-9]{12}):(?P<hash>[0-9a-f]{64})(?::(?P<roles>[a-z][a-z0-9_,]{0,400}))?")


def read_first_key(text: str) -> StoredKey:
    """Return the key that `<id>:<SHA-256 of the key>[:role,role]` stands for.

    Raises:
        ValueError: it is something else.
    """
    found = _FIRST_KEY.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            "expected <id>:<hash>, or <id>:<hash>:<roles>, as `switchboard keys create --as-variable` says"
        )
    roles = frozenset(role for role in (found["roles"] or DEVELOPER).split(",") if role)
    return StoredKey(found["id"], found["hash"], roles)


def as_first_key(key: StoredKey) -> str:
    """Return what `read_first_key` reads."""
    return f"{key.id}:{key.hash}:{','.join(sorted(key.roles))}"


class KeyFile:
    """Keys in a file, which is read anew when it has changed.

    Args:
        path: of a JSON file that `switchboard keys` writes; there are no keys as long as it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: Mapping[str, StoredKey] = {}
        self._read: tuple[int, int, int] | None = None
        """What told the file apart that was read."""

    async def find(self, ids: Sequence[str]) -> Mapping[str, StoredKey]:
        """Return the keys of these ids that there are.

        Raises:
            IdentityUnavailable: the file can't be read, or holds something else.
        """
        keys = self._current()
        return {key_id: keys[key_id] for key_id in ids if key_id in keys}

    async def has_good_ones(self) -> bool:
        """Tell whether there is one that has not ended.

        Raises:
            IdentityUnavailable: as for `find`.
        """
        return has_good(self._current().values())

    async def all(self) -> Sequence[StoredKey]:
        """Return every key, the oldest first."""
        return sorted(self._current().values(), key=lambda key: key.created_at)

    async def add(self, key: StoredKey) -> None:
        """Keep a key."""
        with self._changing() as keys:
            keys[key.id] = key

    async def end(self, key_id: str, at: float) -> None:
        """Make a key good for nothing from a time on, unless it is so earlier."""
        with self._changing() as keys:
            key = keys[key_id]
            keys[key_id] = replace(key, revoked_at=at if key.revoked_at is None else min(key.revoked_at, at))

    def _current(self) -> Mapping[str, StoredKey]:
        try:
            state = self._path.stat()
            now = state.st_ino, state.st_mtime_ns, state.st_size
            if now != self._read:
                keys = STORED_KEYS.validate_python(json.loads(self._path.read_bytes())["keys"])
                self._keys, self._read = {key.id: key for key in keys}, now
        except FileNotFoundError:
            if self._read is not None:  # no file yet is no key; one that has gone is an outage
                raise IdentityUnavailable(
                    f"the file of keys, {self._path}, has gone; put it back (SWITCHBOARD_KEY_FILE)"
                ) from None
        except OSError as error:
            raise IdentityUnavailable(
                f"the file of keys, {self._path}: {error.strerror}; let the user of this process read it, or set"
                " SWITCHBOARD_KEY_FILE to another one"
            ) from None
        except (ValidationError, ValueError, KeyError, TypeError):
            raise IdentityUnavailable(
                f"the file of keys, {self._path}, is not what `switchboard keys` writes; restore it, or remove it and"
                " make keys anew"
            ) from None
        return self._keys

    @contextmanager
    def _changing(self) -> Generator[dict[str, StoredKey]]:
        """Yield the keys to be changed, and put them in the file's place.

        Raises:
            IdentityUnavailable: the file can't be read or written.
        """
        try:
            with self._replacing() as keys:
                yield keys
        except OSError as error:
            raise IdentityUnavailable(
                f"the file of keys, {self._path}, can't be written: {error.strerror}; let the user of this command"
                " write in its folder, or set SWITCHBOARD_KEY_FILE to another one"
            ) from None

    @contextmanager
    def _replacing(self) -> Generator[dict[str, StoredKey]]:
        """Do it, one process at a time."""
        lock = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = dict(self._current())
            yield keys
            written = self._path.with_name(f"{self._path.name}.new")
            with suppress(FileNotFoundError):
                written.unlink()
            with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                with suppress(FileNotFoundError):
                    _hand_over(file.fileno(), self._path.stat())
                content = {"keys": STORED_KEYS.dump_python(list(keys.values()), mode="json")}
                file.write(json.dumps(content, indent=2).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            written.replace(self._path)
        finally:
            os.close(lock)


def _hand_over(file: int, before: os.stat_result) -> None:
    """Let a file belong to whom the one before it did: a gateway under another user than the operator's reads it."""
    os.fchmod(file, before.st_mode & 0o644)
    with suppress(PermissionError):  # not root, and so whoever makes it has it
        os.fchown(file, before.st_uid, before.st_gid)
