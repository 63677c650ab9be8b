"""Views of an image: changes drawn from a seed, stored as integers with the teacher's answer, and replayed.

In this order: a part of the image is resized to the whole, mirrored left to right, shifted, made brighter or
darker, its contrast raised or lowered, and a square of it blackened.
"""

from shared.transfer_set.views.applying import apply_flips, apply_shifts, apply_view, apply_views
from shared.transfer_set.views.drawing import view_parameters
from shared.transfer_set.views.parameters import PARAMETER_COLUMNS, ViewParameters

__all__ = [
    "PARAMETER_COLUMNS",
    "ViewParameters",
    "apply_flips",
    "apply_shifts",
    "apply_view",
    "apply_views",
    "view_parameters",
]
