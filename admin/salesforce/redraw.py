"""How a tab has the whole page drawn again, with what was typed and what is wrong with it, without knowing
the page."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from flask import Flask, current_app
from flask_wtf import FlaskForm

from admin.salesforce.forms import AddAddressForm, BccForm
from core.settings.catalogue import Section, Setting

_KEY = "blindcopy-salesforce-page"


@dataclass(frozen=True)
class Filled:
    """The forms that are shown as they were filled in; the others show what is stored. `tab`: `bcc` or
    `api`."""

    tab: str = "bcc"
    bcc: BccForm | None = None
    address: AddAddressForm | None = None
    api: FlaskForm | None = None
    tasks: FlaskForm | None = None
    policy: Mapping[Section, FlaskForm] = field(default_factory=dict)
    locked: frozenset[Setting] = frozenset()
    """The boxes that were ticked beside the policy's forms."""


def set_up(app: Flask, draw: Callable[[Filled], str]) -> None:
    """The page says how it is drawn."""
    app.extensions[_KEY] = draw


def redraw(filled: Filled) -> str:
    """The page with these forms."""
    return cast("Callable[[Filled], str]", current_app.extensions[_KEY])(filled)
