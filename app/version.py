"""The version of the product, for protocols that say it."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("switchboard")
except PackageNotFoundError:  # a source tree on the path, not installed
    VERSION = "0+unknown"
