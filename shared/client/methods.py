"""Makes methods of endpoints: the endpoint's parameters and words, and its result in place of the call."""

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, TypeVar, get_args

MethodT = TypeVar("MethodT", bound=Callable[..., Any])

_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)


def like(endpoint: Callable[..., Any], method: MethodT) -> MethodT:
    """Return the method with the name, words and signature of the endpoint, as `help` shows them."""
    update_wrapper(method, endpoint)
    signature = inspect.signature(endpoint)
    # Call[JobView] is what the endpoint gives; the method gives the JobView.
    (result,) = get_args(signature.return_annotation)
    method.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[_SELF, *signature.parameters.values()], return_annotation=result
    )
    return method
