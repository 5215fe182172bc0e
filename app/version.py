"""The version of the product, for protocols that say it."""

from importlib.metadata import PackageNotFoundError, version


def _installed_version() -> str:
    try:
        return version("switchboard")
    except PackageNotFoundError:  # a source tree on the path, not installed
        return "0+unknown"


VERSION = _installed_version()
