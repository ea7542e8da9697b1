"""Forms that are built from the catalogue of settings: a field for each, checked by the setting's own
kind."""

from collections.abc import Iterable, Mapping
from typing import Any

from flask_babel import lazy_gettext as _l
from flask_wtf import FlaskForm
from wtforms import BooleanField, Field, RadioField, SelectMultipleField, StringField, TextAreaField
from wtforms.fields.choices import SelectChoice
from wtforms.validators import Length, Optional
from wtforms.widgets import CheckboxInput, ListWidget

from admin.refusals import beside
from core.settings.catalogue import Setting
from core.settings.in_force import InForce
from core.settings.kinds import SettingError, entries

_LONGEST_LINE = 1_000
_LONGEST_LIST = 10_000


def settings_form(settings: Iterable[Setting]) -> type[Any]:
    """A form with a field of each setting's name."""
    return type("SettingsForm", (FlaskForm,), {one.attribute: _field(one) for one in settings})


def filled(settings: Iterable[Setting], in_force: Mapping[Setting, InForce]) -> Any:
    """The form as the settings are."""
    settings = tuple(settings)
    data = {one.attribute: _data(one, in_force[one].value) for one in settings}
    return settings_form(settings)(formdata=None, data=data)


def typed(form: FlaskForm, settings: Iterable[Setting]) -> dict[Setting, str]:
    """What was typed or ticked, as the text that an operator would type."""
    return {one: _text(one, form[one.attribute].data) for one in settings}


def are_right(form: FlaskForm, values: Mapping[Setting, str]) -> bool:
    """Check all before any is stored; what is wrong with one stands beside its field."""
    is_right = True
    for setting, text in values.items():
        try:
            setting.check(text)
        except SettingError as refusal:
            beside(form[setting.attribute], refusal)
            is_right = False
    return is_right


def _field(setting: Setting) -> Field:
    about = setting.definition
    label, kind = _l(about.label), about.kind
    description = _l(about.help) if about.help else ""
    if kind.shape == "flag":
        return BooleanField(label, description=description)
    if kind.shape == "list":
        return TextAreaField(label, [Length(max=_LONGEST_LIST)], description=description)
    if kind.shape in {"one-of", "some-of"}:
        choices = [SelectChoice(str(value), _l(text)) for value, text in kind.labels.items()]  # type: ignore[attr-defined]
        if kind.shape == "one-of":
            return RadioField(label, [Optional()], choices=choices, description=description)
        return SelectMultipleField(
            label,
            choices=choices,
            description=description,
            widget=ListWidget(prefix_label=False),
            option_widget=CheckboxInput(),
        )
    return StringField(
        label,
        [Length(max=_LONGEST_LINE)],
        description=description,
        render_kw={"inputmode": "numeric"} if kind.shape == "number" else {"spellcheck": "false"},
    )


def _data(setting: Setting, text: str) -> object:
    shape = setting.definition.kind.shape
    if shape == "flag":
        return text == "yes"
    return list(entries(text)) if shape == "some-of" else text


def _text(setting: Setting, data: Any) -> str:
    shape = setting.definition.kind.shape
    if shape == "flag":
        return "yes" if data else "no"
    return ",".join(data or ()) if shape == "some-of" else data or ""
