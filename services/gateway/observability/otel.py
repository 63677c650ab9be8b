"""Whether the standard variables of OpenTelemetry ask for traces, and whether they can be sent.

Apart from `tracing`, because the process that only watches over others asks as well, and loads nothing else.
"""

import sys
from collections.abc import Mapping

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"


def asked_for(environment: Mapping[str, str]) -> bool:
    """Tell whether the standard variables ask for traces."""
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exporter = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    named = any(environment.get(name) for name in _ENDPOINTS)
    return named and not off and "otlp" in (word.strip() for word in exporter.split(","))


def need_packages(environment: Mapping[str, str]) -> None:
    """Say what is missing and exit with 2, where traces are asked for and cannot be sent."""
    if not asked_for(environment):
        return
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _SPOKEN)
    if protocol != _SPOKEN:
        sys.stderr.write(f"{_PROTOCOLS[1]}: traces are sent by {_SPOKEN} alone, got {protocol!r}\n")
        raise SystemExit(2)
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401
    except ImportError as error:
        sys.stderr.write(
            f"{_ENDPOINTS[0]}: traces are asked for, but {error.name} is not installed; "
            "install Imago with the extra 'otel', such as `pip install imago[otel]`, or unset it\n"
        )
        raise SystemExit(2) from None
