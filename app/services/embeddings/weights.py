"""Files of models that packages bring along."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from app.errors import EmbeddingUnavailable


def weights_of(package: str, file: str, sha256: str) -> Path:
    """Return where a package has a file, which must be the one that we know; nothing of the package runs.

    Args:
        package: its name for `import`.
        file: its path within the package.
        sha256: what the file hashes to. Another one's vectors could not be compared with those that are stored.

    Raises:
        EmbeddingUnavailable: it is not there, or is another one.
    """
    found = find_spec(package)
    places = [Path(place) / file for place in (found.submodule_search_locations if found else None) or ()]
    path = next((place for place in places if place.is_file()), None)
    remedy = "install the extra `semantic` anew, with the versions that it names"
    if path is None:
        raise EmbeddingUnavailable(f"the package {package} has no {file}: {remedy}", misconfigured=True)
    with path.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != sha256:
            raise EmbeddingUnavailable(f"{file} of the package {package} is another one: {remedy}", misconfigured=True)
    return path
