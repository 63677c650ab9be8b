import pytest
from fastapi import APIRouter

from shared.adapters.web.access import ANYBODY, CALLER, Caller, caller_of
from shared.adapters.web.scopes import needs, scope_of
from shared.contracts.keys import Scope
from shared.errors import ScopeMissing


def caller(*scopes: Scope) -> Caller:
    return Caller("anna", "aaaaaaaaaaaa", frozenset(scopes))


@pytest.mark.parametrize("needed", Scope)
@pytest.mark.parametrize("has", Scope)
def test_a_scope_allows_itself_and_admin_allows_all(has: Scope, needed: Scope):
    if has in (needed, Scope.ADMIN):
        caller(has).need(needed)
    else:
        with pytest.raises(ScopeMissing) as told:
            caller(has).need(needed)
        assert told.value.needed == needed
        assert f"a key with the scope '{needed}'" in told.value.remedy


def test_several_scopes_allow_each_of_them():
    both = caller(Scope.PREDICT, Scope.JOBS)
    both.need(Scope.PREDICT)
    both.need(Scope.JOBS)
    with pytest.raises(ScopeMissing, match="this needs the scope 'teach'; the key has jobs, predict"):
        both.need(Scope.TEACH)


def test_a_caller_is_confined_to_what_is_theirs_unless_they_are_admin():
    assert caller(Scope.JOBS).confined_to == "anna"
    assert caller(Scope.ADMIN, Scope.JOBS).confined_to is None
    assert not caller(*(scope for scope in Scope if scope is not Scope.ADMIN)).is_admin


def test_without_a_guard_everybody_is_anybody_who_may_do_everything():
    assert caller_of({}) is ANYBODY
    assert (ANYBODY.owner, ANYBODY.key_id, ANYBODY.confined_to) == (None, None, None)
    for scope in Scope:
        ANYBODY.need(scope)


def test_the_caller_is_whom_the_guard_has_left():
    someone = caller(Scope.JOBS)
    assert caller_of({CALLER: someone}) is someone


def test_a_route_needs_the_scope_of_its_router_or_its_own_and_never_two():
    router = APIRouter(dependencies=[needs(Scope.JOBS)])
    router.add_api_route("/jobs", lambda: None)
    assert scope_of(router.routes[0]) is Scope.JOBS
    router.add_api_route("/both", lambda: None, dependencies=[needs(Scope.ADMIN)])
    with pytest.raises(ValueError, match="/both needs one scope"):
        scope_of(router.routes[1])
    public = APIRouter()
    public.add_api_route("/public", lambda: None)
    assert scope_of(public.routes[0]) is None
