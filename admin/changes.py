"""Who changed which setting, and when. Admins only."""

from flask import Blueprint, render_template
from flask_babel import gettext

from admin.access import admin_required, database
from core.database.audit import changes as latest_changes
from core.settings.catalogue import Setting

pages = Blueprint("changes", __name__, url_prefix="/settings/changes")
_ROWS = 200


@pages.get("")
@admin_required
def changes() -> str:
    with database().reading() as session:
        changes = latest_changes(session, _ROWS)
    labels = {one.value: gettext(one.definition.label) for one in Setting}
    return render_template("changes.html", changes=changes, labels=labels)
