"""What is remembered of viewers: nothing of those who do not look any more, however many tenants there are."""

from dataclasses import replace
from weakref import ref

from app.faces.console.sight import Sight, Sights
from app.guard.principal import Principal
from tests.faces.console.desk import Desk


async def test_who_see_the_same_share_one_sight_and_nothing_is_kept_of_who_has_gone(desk: Desk) -> None:
    sights = Sights(desk.served.app.state.gateway)
    viewer = Principal("one", frozenset({"operator"}), tenant="north")
    kept = sights.of(viewer)
    assert sights.of(replace(viewer, id="another")) is kept
    assert sights.of(replace(viewer, tenant="south")) is not kept
    gone = [ref(sights.of(replace(viewer, tenant=f"tenant {number}"))) for number in range(100)]
    assert [sight for sight in gone if sight() is not None] == []
    assert _sees_own_tenant(kept, viewer)


def _sees_own_tenant(sight: Sight, viewer: Principal) -> bool:
    others = replace(viewer, tenant="south")
    return sight.sees("clock", "get_time", viewer) and not sight.sees("clock", "get_time", others)
