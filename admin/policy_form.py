"""The form of the organisation's policy."""

from collections.abc import Mapping

from flask_babel import lazy_gettext as _l
from flask_wtf import FlaskForm
from wtforms import BooleanField, RadioField, StringField, SubmitField, TextAreaField
from wtforms.fields.choices import SelectChoice
from wtforms.validators import InputRequired, Length

from core.settings import catalogue
from core.settings.catalogue import Logging, Name, PolicyEntry


class PolicyForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    logging = RadioField(
        _l("How mail is logged, unless a person chooses"),
        [InputRequired()],
        choices=[
            SelectChoice(Logging.OFF.value, _l("Not at all")),
            SelectChoice(Logging.BCC.value, _l("By blind copy to the person's Email to Salesforce address")),
            SelectChoice(
                Logging.BCC_WITH_RECEIPT.value,
                _l("By blind copy, and looked up in Salesforce afterwards (needs a connection)"),
            ),
            SelectChoice(Logging.API.value, _l("Through the Salesforce API (needs a connection)")),
        ],
    )
    logging_locked = BooleanField(_l("Persons may not choose differently"))
    own_domains = TextAreaField(
        _l("Own domains"),
        [Length(max=10_000)],
        description=_l(
            "Mail to these domains only is internal and never logged; a gateway takes mail from them. Comma-separated; .example.com means it and everything below."
        ),
    )
    never_log = TextAreaField(
        _l("Never log"),
        [Length(max=10_000)],
        description=_l(
            "Addresses and domains that are treated as internal: the lawyer, the works council, the bank."
        ),
    )
    time_zone = StringField(
        _l("Time zone"),
        [Length(max=60)],
        description=_l("For persons who choose none, e.g. Europe/Berlin; empty: the server's."),
    )
    show_subjects = BooleanField(_l("Admins see the subjects of other people's mails"))
    save_policy = SubmitField(_l("Save"))


def filled_policy_form(policy: Mapping[Name, PolicyEntry]) -> PolicyForm:
    """The form as the settings are."""
    in_force = {setting.name: setting for setting in catalogue.policy_in_force(policy)}
    return PolicyForm(
        formdata=None,
        logging=in_force[Name.LOGGING].value,
        logging_locked=in_force[Name.LOGGING].locked,
        own_domains=in_force[Name.OWN_DOMAINS].value,
        never_log=in_force[Name.NEVER_LOG].value,
        time_zone=in_force[Name.TIME_ZONE].value,
        show_subjects=in_force[Name.SHOW_SUBJECTS].value == "yes",
    )
