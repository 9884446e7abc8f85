"""Writes the page for callers in Go and Java: whole programs, whose names come from the descriptors of the services.

    python -m tools.docs_clients DIRECTORY     # the page's files on disk, to be compiled

In the templates (tools/client_examples/*.in) a name of the protos stands in double angle brackets and is written here
as each language's generator writes it: `<<Application.term_months>>` is `TermMonths`. A name that the protos do not
have stops the generator, so the page cannot drift. tools/check_client_examples.sh compiles both programs and runs them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from assay.decision.v1 import decision_service_pb2, error_reason_pb2
from assay.feature.v1 import feature_service_pb2
from assay.outcome.v1 import outcome_service_pb2
from tools.docs_common import ROOT, page

SOURCE = ROOT / "tools" / "client_examples"
PACKAGE = "assay.decision.v1"
GO_MODULE = "example.com/los/gen"
_FILES: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR for module in (decision_service_pb2, feature_service_pb2, outcome_service_pb2)
)
_POOL: Any = decision_service_pb2.DESCRIPTOR.pool
_TOKEN = re.compile(r"<<(?:(\w+) )?([\w.]+)>>")


def _camel(name: str) -> str:
    """As protoc's generators for Go and Java write the name of a field."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _message(name: str) -> Descriptor:
    found: Descriptor = _POOL.FindMessageTypeByName(f"{PACKAGE}.{name}")
    return found


def _field(name: str) -> FieldDescriptor:
    message, _, field = name.partition(".")
    return _message(message).fields_by_name[field]


def _kind(name: str) -> str:
    """What a name of the package is: message, enum, service, field, value or method. Raises KeyError for none."""
    head, _, tail = name.partition(".")
    for file in _FILES[0], *_FILES[0].dependencies:
        if file.package != PACKAGE:
            continue
        for kind, found, part in (
            ("message", file.message_types_by_name.get(head), "fields_by_name"),
            ("enum", file.enum_types_by_name.get(head), "values_by_name"),
            ("service", file.services_by_name.get(head), "methods_by_name"),
        ):
            if found is not None:
                inner = {"message": "field", "enum": "value", "service": "method"}[kind]
                if not tail:
                    return kind
                if tail in getattr(found, part):
                    return inner
    raise KeyError(f"the protos of {PACKAGE} have no {name}")


# --- Go -----------------------------------------------------------------------------------------------------------


def _alias(package: str) -> str:
    return "".join(package.split(".")[-2:])


def _go(word: str, name: str) -> str:
    alias = _alias(PACKAGE)
    if word == "alias":
        return _alias(name)
    if word == "import":
        return f"{GO_MODULE}/{name.replace('.', '/')}"
    if word == "oneof":
        oneof = _field(name).containing_oneof
        assert oneof is not None, name
        return _camel(oneof.name)
    if word == "wrapper":
        return f"{alias}.{name.split('.', maxsplit=1)[0]}_{_camel(_field(name).name)}"
    kind = _kind(name)
    if word == "new" and kind == "service":
        return f"{alias}.New{name}Client"
    head, _, tail = name.partition(".")
    return {
        "message": f"{alias}.{name}",
        "service": f"{alias}.{name}Client",
        "value": f"{alias}.{head}_{tail}",
        "method": tail,
        "field": _camel(tail),
    }[kind]


def go_program() -> str:
    """main.go."""
    return _TOKEN.sub(lambda found: _go(found[1] or "", found[2]), _template("main.go.in"))


def protoc_options() -> list[str]:
    """The options that give each proto of ours its Go package: the protos themselves name none."""
    files = sorted({file.name: file.package for file in _all_files()}.items())
    return [f"M{name}={GO_MODULE}/{package.replace('.', '/')};{_alias(package)}" for name, package in files]


def _all_files() -> Iterator[FileDescriptor]:
    for file in (*_FILES, error_reason_pb2.DESCRIPTOR):
        for one in (file, *file.dependencies):
            if one.package.startswith("assay."):
                yield one


# --- Java ---------------------------------------------------------------------------------------------------------


def _outer_class(file: FileDescriptor) -> str:
    """The class that protoc puts a file's messages into: its name, and more where something in it has that name."""
    name = _camel(Path(file.name).stem)
    inside = {*file.message_types_by_name, *file.enum_types_by_name, *file.services_by_name}
    return f"{name}OuterClass" if name in inside else name


def _java(imports: set[str]) -> Callable[[str, str], str]:
    def write(word: str, name: str) -> str:
        kind, (head, _, tail) = _kind(name), name.partition(".")
        if kind in ("field", "method"):
            camel = _camel(tail)
            return camel if kind == "field" else camel[:1].lower() + camel[1:]
        if kind == "service":
            imports.add(f"{PACKAGE}.{name}Grpc")
            return f"{name}Grpc.{name}BlockingStub" if word == "blocking" else f"{name}Grpc"
        found = _POOL.FindEnumTypeByName(f"{PACKAGE}.{head}") if kind in ("enum", "value") else _message(head)
        imports.add(f"{PACKAGE}.{_outer_class(found.file)}.{head}")
        return f"{head}.{tail}" if kind == "value" else head

    return write


def java_program() -> str:
    """DecideOnce.java."""
    imports: set[str] = set()
    write = _java(imports)
    text = _TOKEN.sub(lambda found: write(found[1] or "", found[2]), _template("DecideOnce.java.in"))
    return "".join(f"import {name};\n" for name in sorted(imports)) + text


# --- what both share ----------------------------------------------------------------------------------------------


def _template(name: str) -> str:
    return (SOURCE / name).read_text(encoding="utf-8")


def service_config() -> dict[str, Any]:
    """gRPC's service config: every unary method of the three services is safe to repeat."""
    names = [
        {"service": service.full_name, "method": method.name}
        for file in _FILES
        for service in file.services_by_name.values()
        for method in service.methods
        if not method.client_streaming and not method.server_streaming
    ]
    retry = {
        "maxAttempts": 5,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "ABORTED"],
    }
    batches = [name for name in names if name["method"] == "DecideBatch"]
    return {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": f"{PACKAGE}.DecisionService"},
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        "methodConfig": [
            {"name": [name for name in names if name not in batches], "timeout": "30s", "retryPolicy": retry},
            {"name": batches, "timeout": "120s", "retryPolicy": retry},
        ],
    }


def _config_text() -> str:
    text = json.dumps(service_config(), indent=2)
    # A method a line.
    return (
        re.sub(r'\{\s+"service": ("[^"]+"),\s+"method": ("[^"]+")\s+\}', r'{"service": \1, "method": \2}', text) + "\n"
    )


def files() -> dict[str, str]:
    """Every file of the page by its path in a project of its own."""
    return {
        "go/main.go": go_program(),
        "go/go.mod": _template("go.mod"),
        "go/service_config.json": _config_text(),
        "go/protoc_options": ",".join(protoc_options()) + "\n",
        "java/src/main/java/DecideOnce.java": java_program(),
        "java/src/main/resources/service_config.json": _config_text(),
        "java/pom.xml": _template("pom.xml"),
    }


def _code(language: str, text: str) -> list[str]:
    return [f"```{language}", *text.rstrip().splitlines(), "```", ""]


def clients_page() -> str:
    """docs/clients-go-java.md."""
    made = files()
    flags = [
        f"'--{flag}_opt={one}'" for one in ("module=example.com/los", *protoc_options()) for flag in ("go", "go-grpc")
    ]
    command = ["protoc -I protos -I googleapis --go_out=. --go-grpc_out=.", *flags]
    protos = "$(cd protos && find assay -name '*.proto' -not -path 'assay/admin/*')"
    text = _template("page.md.in")
    for name, block in {
        "service_config": _code("json", made["go/service_config.json"]),
        "protoc": _code("sh", " \\\n  ".join([*command, protos])),
        "go_mod": _code("go", made["go/go.mod"]),
        "go": _code("go", made["go/main.go"]),
        "pom": _code("xml", made["java/pom.xml"]),
        "java": _code("java", made["java/src/main/java/DecideOnce.java"]),
    }.items():
        text = text.replace(f"[[{name}]]\n", "\n".join(block) + "\n")
    return page("Calling from Go and Java", "protos/ and tools/client_examples/", text.splitlines())


def main() -> int:
    """Writes the files."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    for name, text in files().items():
        path = Path(sys.argv[1]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
