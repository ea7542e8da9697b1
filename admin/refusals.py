"""A refusal in the language of the page."""

from flask import flash
from flask_babel import gettext
from flask_wtf import FlaskForm
from wtforms import Field

from core.refusal import Refusal
from core.salesforce.troubles import Trouble


def translated(refusal: Refusal) -> str:
    """The sentence in the language of this request."""
    return str(gettext(refusal.sentence, **refusal.parts))


def beside(field: Field, refusal: Refusal) -> None:
    """Put the reason beside the field that it is about."""
    field.errors = [*field.errors, translated(refusal)]


def flash_refusal(refusal: Refusal) -> None:
    """Say the reason on top of the next page."""
    flash(translated(refusal), "danger")


def flash_trouble(trouble: Trouble) -> None:
    """Say what Salesforce's trouble is, what to do, and what it said itself."""
    text = f"{gettext(trouble.cause)} {gettext(trouble.remedy)}"
    if trouble.detail:
        text += " " + gettext("(Salesforce said: %(detail)s)", detail=trouble.detail)
    flash(text, "danger")


def flash_errors(form: FlaskForm) -> None:
    """Say what is wrong with a form that is not shown again."""
    for errors in form.errors.values():
        for error in errors:
            flash(str(error), "danger")
