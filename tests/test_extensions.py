"""What jobs see of the state that extensions keep in ``g``, with the extensions themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, g, session

from flask_executor_typed import CarryG, Executor, FutureProxy

from .conftest import TIMEOUT
from .helpers.contexts import Job, both_kinds, start

# -- any extension ---------------------------------------------------------------------------------


CONTAINERS: tuple[Callable[[], Any], ...] = (
    lambda: [1],
    lambda: {"a": 1},
    lambda: {1},
    lambda: SimpleNamespace(a=1),
)


@pytest.mark.parametrize("make", CONTAINERS, ids=["list", "dict", "set", "namespace"])
@both_kinds
def test_a_container_under_a_name_with_an_underscore_is_copied_for_each_run(
    app: Flask, executor: Executor, make: Callable[[], Any], kind: Callable[[Job], Job]
) -> None:
    seen: list[Any] = []

    def job() -> None:
        assert g._kept == make()
        change(g._kept)
        seen.append(g._kept)
        if len(seen) < 2:
            raise ValueError("run it again")

    with app.app_context():
        g._kept = make()
        first = start(executor.using(retries=1), kind(job))
        assert first.exception(TIMEOUT) is None
        assert start(executor, kind(job)).exception(TIMEOUT) is None
        assert g._kept == make()
        assert len({id(each) for each in [*seen, g._kept]}) == 4


def change(container: Any) -> None:
    items = vars(container) if isinstance(container, SimpleNamespace) else container
    items.clear()


@both_kinds
def test_a_job_finds_an_extensions_container_as_it_was_at_submit(
    app: Flask, executor: Executor, kind: Callable[[Job], Job]
) -> None:
    release = threading.Event()

    def job() -> Any:
        assert release.wait(TIMEOUT)
        return g._kept

    with app.app_context():
        g._kept = {"a": 1}
        first = start(executor, kind(job))
        g._kept["a"] = 2
        second = start(executor, kind(job))
        g._kept.clear()
        release.set()
        assert (first.result(TIMEOUT), second.result(TIMEOUT)) == ({"a": 1}, {"a": 2})


def test_what_an_extensions_container_holds_is_shared_and_so_is_the_apps(
    app: Flask, executor: Executor
) -> None:
    item = object()
    apps: list[object] = [item]
    extensions = SubclassOfDict()

    def job() -> tuple[bool, ...]:
        return g._kept[0] is item, g.kept is apps, g._object is extensions

    with app.app_context():
        g._kept, g.kept, g._object = [item], apps, extensions
        assert executor.submit(job).result(TIMEOUT) == (True, True, True)


class SubclassOfDict(dict[str, Any]):
    """A type of its extension, which may refuse to be copied."""


def test_carry_g_still_says_what_travels(app: Flask) -> None:
    def job() -> list[str]:
        return sorted(vars(g))

    def everything(name: str, value: object) -> bool:
        return True

    rules: list[tuple[CarryG, list[str]]] = [
        ((), []),
        (("_a",), ["_a"]),
        (everything, ["_a", "_b"]),
    ]
    for carry_g, names in rules:
        with Executor(app, carry_g=carry_g) as executor, app.app_context():
            g._a, g._b = dict[str, int](), 1
            assert executor.submit(job).result(TIMEOUT) == names


# -- Flask-Babel -----------------------------------------------------------------------------------


def test_flask_babel_each_job_of_a_view_forces_a_locale_of_its_own(
    app: Flask, executor: Executor
) -> None:
    babel = pytest.importorskip("flask_babel")
    babel.Babel(app, locale_selector=lambda: "de")
    inside = threading.Barrier(3)

    def mail(language: str) -> str:
        with babel.force_locale(language):
            inside.wait(TIMEOUT)  # all three have forced theirs
            locale = str(babel.get_locale())
            inside.wait(TIMEOUT)  # and have looked before one restores what there was
            return locale

    with app.test_request_context():
        assert str(babel.get_locale()) == "de"
        languages = ["fr", "en", "es"]
        assert list(executor.map(mail, languages, timeout=TIMEOUT)) == languages
        assert str(babel.get_locale()) == "de"


def test_flask_babel_a_job_has_the_locale_that_was_forced_at_submit(
    app: Flask, executor: Executor
) -> None:
    babel = pytest.importorskip("flask_babel")
    babel.Babel(app, locale_selector=lambda: "de")
    release = threading.Event()

    def job() -> str:
        assert release.wait(TIMEOUT)
        return str(babel.get_locale())

    with app.test_request_context():
        with babel.force_locale("fr"):
            future = executor.submit(job)
        release.set()
        assert future.result(TIMEOUT) == "fr"


# -- Flask-Login -----------------------------------------------------------------------------------


class Users:
    """An app of Flask-Login, with users of Flask-SQLAlchemy."""

    def __init__(self, app: Flask) -> None:
        pytest.importorskip("flask_sqlalchemy")
        self.login: Any = pytest.importorskip("flask_login")
        from flask_sqlalchemy import SQLAlchemy

        app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
        self.db: Any = SQLAlchemy(app)
        self.manager: Any = self.login.LoginManager(app)
        self.loaded: list[str] = []
        db, login = self.db, self.login

        columns = {
            "id": db.Column(db.Integer, primary_key=True),
            "email": db.Column(db.String),
        }
        User: Any = type("User", (login.UserMixin, db.Model), columns)
        self.User = User
        with app.app_context():
            db.create_all()
            db.session.add_all([User(id=1, email="ada"), User(id=2, email="bob")])
            db.session.commit()

        def load(user_id: str) -> Any:
            self.loaded.append(threading.current_thread().name)
            return self.user(int(user_id))

        self.manager.user_loader(load)

    def user(self, user_id: int) -> Any:
        return self.db.session.get(self.User, user_id)

    def email(self) -> str | None:
        """A job: the email of the user who is logged in."""
        email: str | None = getattr(self.login.current_user, "email", None)
        return email


@pytest.fixture
def users(app: Flask) -> Iterator[Users]:
    users = Users(app)
    yield users
    with app.app_context():
        users.db.engine.dispose()


@contextmanager
def held(
    executor: Executor,
) -> Generator[Callable[[Callable[[], Any]], FutureProxy[Any]], None, None]:
    """Yield what submits a job that waits for the end of the block."""
    release = threading.Event()

    def submit(fn: Callable[[], Any]) -> FutureProxy[Any]:
        return executor.submit(lambda: release.wait(TIMEOUT) and fn())

    yield submit
    release.set()


def test_flask_login_a_job_loads_the_user_again_after_the_view_has_committed(
    app: Flask, executor: Executor, users: Users
) -> None:
    with held(executor) as submit, app.test_request_context():
        users.login.login_user(users.user(1))
        users.login.current_user.email = "eve"
        users.db.session.commit()
        future = submit(users.email)
        # The view's session is closed: its user has no attribute any more.
    assert future.result(TIMEOUT) == "eve"
    assert users.loaded == ["executor-worker-0"]


def test_flask_login_a_job_loads_the_user_of_a_request_loader_again(
    app: Flask, executor: Executor, users: Users
) -> None:
    def load(request: Any) -> Any:
        return users.user(int(request.headers["X-User"]))

    users.manager.request_loader(load)
    with held(executor) as submit, app.test_request_context(headers={"X-User": "2"}):
        assert users.email() == "bob"
        users.db.session.commit()
        future = submit(users.email)
    assert future.result(TIMEOUT) == "bob"


def test_flask_login_another_user_whom_the_app_has_put_there_stays(
    app: Flask, executor: Executor, users: Users
) -> None:
    with app.test_request_context():
        users.login.login_user(users.user(1))
        g._login_user = users.user(2)
        assert executor.submit(users.email).result(TIMEOUT) == "bob"
        session.clear()
        assert executor.submit(users.email).result(TIMEOUT) == "bob"
    assert users.loaded == []


def test_flask_login_a_user_of_no_database_session_travels(app: Flask, executor: Executor) -> None:
    login: Any = pytest.importorskip("flask_login")
    manager = login.LoginManager(app)
    user = login.UserMixin()
    user.id = 1
    manager.user_loader(int)  # it would give another
    with app.test_request_context():
        login.login_user(user)
        same = executor.submit(lambda: login.current_user._get_current_object() is user)
        assert same.result(TIMEOUT)


def test_flask_login_carry_g_can_have_the_views_user_travel(app: Flask, users: Users) -> None:
    with Executor(app, carry_g=("_login_user",)) as executor, app.test_request_context():
        users.login.login_user(users.user(1))
        assert executor.submit(users.email).result(TIMEOUT) == "ada"
    assert users.loaded == []


# -- the others ------------------------------------------------------------------------------------


def test_flask_sqlalchemy_view_and_job_record_their_own_queries(app: Flask) -> None:
    extension: Any = pytest.importorskip("flask_sqlalchemy")
    from flask_sqlalchemy.record_queries import get_recorded_queries

    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    app.config["SQLALCHEMY_RECORD_QUERIES"] = True
    db = extension.SQLAlchemy(app)

    def recorded() -> list[str]:
        return [str(query.statement) for query in get_recorded_queries()]

    def job(number: int) -> list[str]:
        db.session.execute(db.text(f"SELECT {number}"))
        return recorded()

    with Executor(app) as executor, app.test_request_context():
        assert job(1) == ["SELECT 1"]
        jobs = executor.map(job, [2, 3], timeout=TIMEOUT)
        # What the view had recorded so far is there too.
        assert list(jobs) == [["SELECT 1", "SELECT 2"], ["SELECT 1", "SELECT 3"]]
        assert recorded() == ["SELECT 1"]
        db.session.remove()
        db.engine.dispose()


def test_flask_jwt_extended_a_job_has_the_token_and_can_load_the_user_again(
    app: Flask, users: Users
) -> None:
    jwt: Any = pytest.importorskip("flask_jwt_extended")
    app.config["JWT_SECRET_KEY"] = "k" * 32
    manager = jwt.JWTManager(app)

    def load(header: dict[str, Any], data: dict[str, Any]) -> Any:
        return users.user(int(data["sub"]))

    manager.user_lookup_loader(load)

    def token() -> tuple[str, str]:
        return jwt.get_jwt()["sub"], jwt.get_jwt_identity()

    def email() -> str:
        jwt.verify_jwt_in_request()
        return str(jwt.current_user.email)

    futures: list[FutureProxy[Any]] = []
    with Executor(app) as executor, held(executor) as submit:

        def view() -> str:
            users.db.session.commit()
            futures.extend(map(submit, (token, email)))
            return ""

        app.add_url_rule("/", view_func=jwt.jwt_required()(view))
        with app.app_context():
            headers = {"Authorization": f"Bearer {jwt.create_access_token('1')}"}
        assert app.test_client().get("/", headers=headers).status_code == 200
    assert [future.result(TIMEOUT) for future in futures] == [("1", "1"), "ada"]


def test_flask_httpauth_a_job_has_the_user(app: Flask, executor: Executor) -> None:
    extension: Any = pytest.importorskip("flask_httpauth")
    auth = extension.HTTPBasicAuth()

    def verify(user: str, password: str) -> str:
        return user

    def view() -> str:
        current: str = executor.submit(auth.current_user).result(TIMEOUT)
        return current

    auth.verify_password(verify)
    app.add_url_rule("/", view_func=auth.login_required(view))
    assert app.test_client().get("/", auth=("ada", "pw")).text == "ada"


def test_flask_principal_a_job_has_the_identity_and_its_permissions(
    app: Flask, executor: Executor
) -> None:
    principal: Any = pytest.importorskip("flask_principal")
    principal.Principal(app)
    admin = principal.Permission(principal.RoleNeed("admin"))

    def grant(sender: Flask, identity: Any) -> None:
        identity.provides.add(principal.RoleNeed("admin"))

    principal.identity_loaded.connect(grant, app)

    def job() -> str:
        with admin.require():
            return str(g.identity.id)

    @app.get("/")
    def view() -> str:
        assert isinstance(executor.submit(job).exception(TIMEOUT), principal.PermissionDenied)
        principal.identity_changed.send(app, identity=principal.Identity("ada"))
        return executor.submit(job).result(TIMEOUT)

    app.config["EXECUTOR_LOG_EXCEPTIONS"] = False
    executor.init_app(app)
    assert app.test_client().get("/").text == "ada"


def test_flask_limiter_a_job_has_limits_of_its_own(app: Flask, executor: Executor) -> None:
    limiter: Any = pytest.importorskip("flask_limiter")
    limits = limiter.Limiter(lambda: "all", app=app, storage_uri="memory://")

    def job() -> str:
        with limits.limit("7/hour"):
            return str(limits.current_limit.limit)

    def view() -> list[str]:
        before = str(limits.current_limit.limit)
        in_job = executor.submit(job).result(TIMEOUT)
        return [before, in_job, str(limits.current_limit.limit)]

    app.add_url_rule("/", view_func=limits.limit("5/hour")(view))
    assert app.test_client().get("/").json == ["5 per 1 hour", "7 per 1 hour", "5 per 1 hour"]


def test_flask_caching_view_and_jobs_share_the_cache(app: Flask, executor: Executor) -> None:
    extension: Any = pytest.importorskip("flask_caching")
    cache = extension.Cache(app, config={"CACHE_TYPE": "SimpleCache"})
    computed: list[int] = []

    def compute(number: int) -> int:
        computed.append(number)
        return number * 2

    def view() -> list[int]:
        return [double(1), executor.submit(double, 1).result(TIMEOUT)]

    double: Callable[[int], int] = cache.memoize()(compute)
    app.add_url_rule("/", view_func=cache.cached(response_hit_indication=True)(view))
    web = app.test_client()
    assert [web.get("/").json for _ in range(2)] == [[2, 2], [2, 2]]
    assert computed == [1]
    assert web.get("/").headers["hit_cache"] == "True"


def test_flask_debugtoolbar_shows_the_queries_of_the_view_alone(app: Flask) -> None:
    extension: Any = pytest.importorskip("flask_debugtoolbar")
    sqlalchemy: Any = pytest.importorskip("flask_sqlalchemy")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    app.config["SQLALCHEMY_RECORD_QUERIES"] = True
    app.debug = True
    db = sqlalchemy.SQLAlchemy(app)
    extension.DebugToolbarExtension(app)

    def job() -> None:
        db.session.execute(db.text("SELECT 4321"))

    with Executor(app) as executor:

        @app.get("/")
        def view() -> str:
            db.session.execute(db.text("SELECT 1234"))
            executor.submit(job).result(TIMEOUT)
            return "<html><body></body></html>"

        page = app.test_client().get("/").text
    assert "1234" in page
    assert "4321" not in page
    with app.app_context():
        db.engine.dispose()
