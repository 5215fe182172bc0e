"""The version of the product: for the package, for OpenAPI and for protocols that say it."""

VERSION = "0.1.0"
