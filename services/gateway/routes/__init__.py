"""The faces of the gateway, one file a subject."""

from services.gateway.routes import (
    comparison,
    datasets,
    events,
    health,
    jobs,
    kept,
    keys,
    oip,
    predictions,
    reports,
    students,
    teachers,
    traffic,
    transfer_sets,
)

ROUTERS = (
    # Predictions first: routes are tried in this order.
    predictions.router,
    oip.router,
    oip.health,
    jobs.router,
    events.router,
    reports.router,
    students.router,
    comparison.router,
    traffic.router,
    teachers.router,
    transfer_sets.router,
    kept.router,
    keys.router,
    datasets.router,
    health.router,
)

PUBLIC = (health.router, oip.health)
"""Those of them that need no key."""
