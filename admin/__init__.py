"""The pages and the operator's commands. `admin:create_app()` is what the web server starts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from core.config import Config


def create_app(config: "Config | None" = None) -> "Flask":
    """The application; see `admin.app`, which commands do without, as loading it takes half a second."""
    from admin.app import build_app  # noqa: PLC0415

    return build_app(config)
