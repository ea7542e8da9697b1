"""People's Salesforce: connected, opened, renewed by one process at a time, and ended.

What is stored comes first: an access token is used by nobody before the refresh token that came with it is in
the database. A process that is killed between Salesforce's answer and that moment has lost a rotated token;
who is next tries the old one, which an org may still take, and a connection by key needs none."""

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from core.database.engine import Database, DatabaseUnavailable
from core.endpoints import SALESFORCE_LOGIN, SalesforceApp
from core.people.store import StoredPerson
from core.refusal import Refusal
from core.salesforce import connection_store
from core.salesforce.client import Client, Opening
from core.salesforce.connection_store import Connection, OAuthTokens, Standing, Way
from core.salesforce.ids import id_key
from core.salesforce.login import (
    Challenge,
    Identity,
    Issued,
    Login,
    NotSalesforce,
    Refused,
    Unavailable,
    checked_host,
)
from core.salesforce.troubles import Trouble, TroubleKind, trouble

SECONDS_TO_WAIT_FOR_ANOTHER = 30
_SECONDS_BETWEEN_LOOKS = 0.1
_TRIES_TO_STORE = 20
_A_WHILE = timedelta(minutes=1)
_DEAD_ALREADY = frozenset({"unsupported_token_type", "invalid_token", "invalid_grant"})


class NotConnected(Refusal):
    """Connecting came to nothing, and nothing was stored; `trouble` has why, and what to do."""

    def __init__(self, found: Trouble) -> None:
        self.trouble = found
        super().__init__(f"{found.cause} {found.remedy}".replace("%", "%%"))


class Connections:
    """The connections of all persons, for one process; its methods may be called by several threads."""

    def __init__(self, database: Database, app: SalesforceApp) -> None:
        self._database = database
        self._app = app

    @property
    def app(self) -> SalesforceApp:
        return self._app

    def by_code(
        self, account: StoredPerson, code: str, challenge: Challenge, *, login_url: str, actor: str | None
    ) -> Identity:
        """Connect with what the person brought back from Salesforce's page. Raises NotConnected,
        SomebodyElses."""
        return self._connect(
            account,
            lambda login: login.by_code(code, challenge),
            way=Way.SIGN_IN,
            login_url=login_url,
            actor=actor,
        )

    def by_refresh_token(
        self, account: StoredPerson, refresh_token: str, *, instance_url: str, user_id: str, actor: str | None
    ) -> Identity:
        """Connect with a token that was issued before, if it is that user's. Raises NotConnected,
        SomebodyElses."""
        own = self._checked(instance_url)
        return self._connect(
            account,
            lambda login: _with_what_was_given(login.by_refresh_token(refresh_token), refresh_token, own),
            way=Way.SIGN_IN,
            login_url=self._login_url_of(own),
            actor=actor,
            user_id=user_id,
        )

    def by_key(self, account: StoredPerson, username: str, *, actor: str | None) -> Identity:
        """Connect as the Salesforce user of this name, whom the team's key may speak for.

        Raises NotConnected, SomebodyElses."""
        return self._connect(
            account,
            lambda login: login.by_assertion(username, self._key()),
            way=Way.KEY,
            login_url=self._app.login_url,
            actor=actor,
            username=username,
        )

    def client(self, connection: Connection) -> Client:
        """The person's Salesforce, which renews its session by itself. Raises Refused, Unavailable."""
        hand = _Hand(self, connection)
        opening = hand.opening() or hand.renew()
        if connection.last_used_at is None or datetime.now(UTC) - connection.last_used_at > _A_WHILE:
            with self._database.writing() as session:
                connection_store.used(session, connection.person_id)
        return _new_client(self._app, opening, hand)

    def disconnect(self, account: StoredPerson, *, actor: str | None) -> bool:
        """Forget the tokens and have Salesforce forget them; False where Salesforce could not be told."""
        with self._database.writing() as session:
            connection = connection_store.connection(session, account.id)
            connection_store.disconnect(session, account, actor=actor)
        if connection is None:
            return True
        token = connection.refresh_token or connection.access_token
        if not token:
            return not connection.is_unreadable
        return _revoked(self._app, connection.login_url, token)

    def probe(self, connection: Connection) -> Trouble | None:
        """Look anew whether the connection holds and has the API; its trouble, None where all is well.

        Raises Unavailable."""
        try:
            client = self.client(connection)
            _ask_for_the_user(client, connection.identity.user_id)
        except Refused as refused:
            if refused.trouble.kind is TroubleKind.NO_API:
                with self._database.writing() as session:
                    connection_store.lost_api(session, connection.person_id, refused.trouble)
            return refused.trouble
        with self._database.writing() as session:
            connection_store.lost_api(session, connection.person_id, None)
        return None

    def issued_anew(self, connection: Connection) -> Issued:
        """For a hand whose turn it is. Raises Refused, Unavailable."""
        try:
            login = Login(self._app, connection.login_url)
            if connection.way is Way.KEY:
                return login.by_assertion(connection.identity.username, self._key())
            if connection.is_unreadable:
                raise Refused(trouble("unreadable_tokens"))
            if connection.refresh_token is None:
                raise Refused(trouble("invalid_grant", "there is no refresh token"))
            return login.by_refresh_token(connection.refresh_token)
        except NotSalesforce as error:
            raise Refused(trouble("not_salesforce", str(error))) from error
        except ValueError as error:
            raise Refused(trouble("unusable_key", str(error))) from error

    def end(self, connection: Connection, issued: Issued) -> None:
        """Tokens that nobody will hold."""
        _revoked(self._app, connection.login_url, issued.refresh_token or issued.access_token)

    @property
    def database(self) -> Database:
        return self._database

    def _key(self) -> bytes:
        """Raises ValueError."""
        if self._app.jwt_key_file is None:
            raise ValueError("BLINDCOPY_SALESFORCE_JWT_KEY_FILE is not set")
        try:
            return self._app.jwt_key_file.read_bytes()
        except OSError as error:
            raise ValueError(str(error)) from error

    def _checked(self, instance_url: str) -> str:
        try:
            return checked_host(instance_url, self._app)
        except NotSalesforce as error:
            raise NotConnected(trouble("not_salesforce", str(error))) from error

    def _login_url_of(self, own: str) -> str:
        """Where a token of this instance is renewed: at the configured page, or, where that is Salesforce's
        general one, at the org's own, which takes the tokens of sandboxes too."""
        return own if self._app.login_url == SALESFORCE_LOGIN else self._app.login_url

    def _connect(
        self,
        account: StoredPerson,
        ask: Callable[[Login], Issued],
        *,
        way: Way,
        login_url: str,
        actor: str | None,
        user_id: str | None = None,
        username: str | None = None,
    ) -> Identity:
        try:
            login = Login(self._app, login_url)
            issued = ask(login)
        except NotSalesforce as error:
            raise NotConnected(trouble("not_salesforce", str(error))) from error
        except ValueError as error:
            raise NotConnected(trouble("unusable_key", str(error))) from error
        except (Refused, Unavailable) as error:
            raise NotConnected(error.trouble) from error
        is_ours = way is Way.SIGN_IN and user_id is None  # what the operator gave us is not ours to end
        with self._database.reading() as session:
            replaced = connection_store.connection(session, account.id)
        try:
            who = _who_is(login, issued)
            self._keep(
                account,
                issued,
                who,
                way=way,
                login_url=login_url,
                actor=actor,
                user_id=user_id,
                username=username,
            )
        except (Refusal, DatabaseUnavailable):
            if is_ours:
                _revoked(self._app, login_url, issued.refresh_token or issued.access_token)
            raise
        if is_ours and replaced is not None and replaced.refresh_token is not None:
            _revoked(self._app, replaced.login_url, replaced.refresh_token)
        return who

    def _keep(  # noqa: PLR0913
        self,
        account: StoredPerson,
        issued: Issued,
        who: Identity,
        *,
        way: Way,
        login_url: str,
        actor: str | None,
        user_id: str | None,
        username: str | None,
    ) -> None:
        """Raises NotConnected, SomebodyElses, DatabaseUnavailable."""
        if user_id is not None and id_key(who.user_id) != id_key(user_id):
            raise NotConnected(trouble("another_user", f"it is {who.username} ({who.user_id})"))
        if username is not None and who.username.casefold() != username.casefold():
            raise NotConnected(trouble("another_user", f"it is {who.username} ({who.user_id})"))
        try:
            _ask_for_the_user(Client(self._app, issued.instance_url, issued.access_token), who.user_id)
        except Refused as refused:
            if refused.trouble.kind is TroubleKind.NO_API and way is Way.SIGN_IN:
                with self._database.writing() as session:
                    connection_store.note_no_api(
                        session, account, who, refused.trouble, login_url=login_url, actor=actor
                    )
            raise NotConnected(refused.trouble) from refused
        except Unavailable as error:
            raise NotConnected(error.trouble) from error
        with self._database.writing() as session:
            connection_store.connect(
                session, account, who, way=way, login_url=login_url, tokens=_tokens(issued), actor=actor
            )


class _Hand:
    """The tokens of one connection as one client holds them, which may have been renewed elsewhere."""

    def __init__(self, connections: Connections, connection: Connection) -> None:
        self._connections = connections
        self._database = connections.database
        self._connection = connection
        self._asker = str(uuid.uuid4())

    def opening(self) -> Opening | None:
        """What is in hand."""
        held = self._connection
        return None if held.access_token is None else Opening(held.instance_url, held.access_token)

    def renew(self) -> Opening:
        """What comes after that which is in hand: another process's renewal, or our own. Raises Refused,
        Unavailable."""
        deadline = time.monotonic() + SECONDS_TO_WAIT_FOR_ANOTHER
        while True:
            with self._database.writing() as session:
                turn = connection_store.take_turn(
                    session, self._connection.person_id, self._connection.generation, self._asker
                )
            if turn is None or turn.connection.standing is not Standing.CONNECTED:
                raise Refused((turn and turn.connection.trouble) or trouble("EXPIRED_ACCESS"))
            if turn.is_mine:
                self._connection = self._renewed(turn.connection)
            elif turn.connection.generation != self._connection.generation:
                self._connection = turn.connection
            elif time.monotonic() > deadline:
                raise Unavailable("another process is renewing the session")
            else:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                continue
            if (opening := self.opening()) is not None:
                return opening

    def _renewed(self, connection: Connection) -> Connection:
        """What cannot be had by this token is dead; what cannot be had by the team's key can be again
        tomorrow."""
        try:
            issued = self._connections.issued_anew(connection)
        except Refused as refused:
            with self._database.writing() as session:
                if refused.trouble.kind is TroubleKind.CONNECTION and connection.way is Way.SIGN_IN:
                    connection_store.broken(
                        session, connection.person_id, connection.generation, refused.trouble
                    )
                else:
                    connection_store.give_turn_back(
                        session, connection.person_id, self._asker, refused.trouble
                    )
            raise
        except BaseException:
            with self._database.writing() as session:
                connection_store.give_turn_back(session, connection.person_id, self._asker)
            raise
        return self._stored(connection, issued)

    def _stored(self, connection: Connection, issued: Issued) -> Connection:
        """The only copy of a rotated token is in our hands: a database that is away is waited for."""
        for left in reversed(range(_TRIES_TO_STORE)):
            try:
                with self._database.writing() as session:
                    renewed = connection_store.renewed(
                        session, connection.person_id, connection.generation, _tokens(issued)
                    )
            except DatabaseUnavailable:
                if not left:
                    raise
                time.sleep(1)
            else:
                break
        if renewed is None:
            self._connections.end(connection, issued)
            raise Refused(trouble("EXPIRED_ACCESS", "the connection was ended, or made anew, meanwhile"))
        return renewed


def _new_client(app: SalesforceApp, opening: Opening, hand: _Hand) -> Client:
    try:
        return Client(app, opening.instance_url, opening.access_token, hand.renew)
    except NotSalesforce as error:
        raise Refused(trouble("not_salesforce", str(error))) from error


def _ask_for_the_user(client: Client, user_id: str) -> None:
    """The smallest question that only the API answers."""
    client.query("SELECT Id FROM User WHERE Id = {}", user_id)


def _tokens(issued: Issued) -> OAuthTokens:
    return OAuthTokens(issued.access_token, issued.refresh_token, issued.instance_url)


def _with_what_was_given(issued: Issued, refresh_token: str, instance_url: str) -> Issued:
    """Where the org does not rotate, the token that was given stays good."""
    return Issued(
        issued.access_token, issued.refresh_token or refresh_token, issued.instance_url or instance_url
    )


def _who_is(login: Login, issued: Issued) -> Identity:
    try:
        return login.who_is(issued)
    except (Refused, Unavailable) as error:
        raise NotConnected(error.trouble) from error


def _revoked(app: SalesforceApp, login_url: str, token: str) -> bool:
    """Whether Salesforce knows that the token is worth nothing any more."""
    try:
        Login(app, login_url).revoke(token)
    except Refused as refused:
        return refused.trouble.code in _DEAD_ALREADY
    except (Unavailable, NotSalesforce):
        return False
    return True
