"""The forms of the Salesforce page."""

from flask_babel import lazy_gettext as _l
from flask_wtf import FlaskForm
from wtforms import HiddenField, StringField, SubmitField
from wtforms.validators import DataRequired, Length


class BccForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    """One form, four buttons: keep the address, look it up, and switch the copy on or off."""

    address = StringField(
        _l("Email to Salesforce address"),
        [Length(max=320)],
        render_kw={
            "placeholder": "emailtosalesforce@….le.salesforce.com",
            "inputmode": "email",
            "spellcheck": "false",
        },
    )
    save = SubmitField(_l("Save address"))
    look = SubmitField(_l("Check again"))
    activate = SubmitField(_l("Activate"))
    with_receipt = SubmitField(_l("With receipt"))
    deactivate = SubmitField(_l("Deactivate"))


class AddAddressForm(FlaskForm):  # type: ignore[misc]
    new_address = StringField(
        _l("Add an address that you send from"),
        [DataRequired(), Length(max=320)],
        render_kw={"inputmode": "email", "spellcheck": "false"},
    )
    add = SubmitField(_l("Add"))


class RemoveAddressForm(FlaskForm):  # type: ignore[misc]
    address = HiddenField(validators=[DataRequired()])


class Button(FlaskForm):  # type: ignore[misc]
    """Nothing but the token that shows that the button was ours."""
