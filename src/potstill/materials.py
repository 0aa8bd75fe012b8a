"""A run as a bill of materials: CycloneDX (ML-BOM) or SPDX, of what its ledger holds. An extra (`potstill[bom]`)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from potstill.core.errors import FolderError, InputError
from potstill.folder import RunFolder
from potstill.policy.identify import identify
from potstill.policy.ledger import verify
from potstill.policy.terms_table import UNDECLARED, UNKNOWN

Nodes = Sequence[Mapping[str, Any]]


def bill(folder: RunFolder, form: str) -> str:
    """The bill as JSON. Raises InputError for a form that is none or not installed, FolderError without a sound
    ledger."""
    if form not in FORMS:
        raise InputError(f"--bom {form}: no such form; there are {', '.join(FORMS)}")
    module, write = FORMS[form]
    if importlib.util.find_spec(module) is None:
        raise InputError(f"--bom {form} needs {module}, which is not installed. Next: pip install 'potstill[bom]'")
    ledger = folder.read_json("ledger.json")
    found = ledger.get("graph") if isinstance(ledger, dict) else None
    if faults := verify(found):
        raise FolderError(f"{folder.root}: no bill of a ledger that is not sound: {faults[0]}")
    assert isinstance(found, Mapping), "verified"
    return write(found["nodes"], folder.root.resolve().name)


def shown(node: Mapping[str, Any]) -> str:
    """What a node is called outside this machine: of a file or folder, its last name."""
    return str(node["name"]).rstrip("/").rpartition("/")[2] if node["ours"] else str(node["name"])


def licence_ids(node: Mapping[str, Any]) -> list[str]:
    """What is stated of a node's licence; nothing where nobody stated it."""
    return [
        node["licence"] if len(node["terms"]) == 1 else terms.id
        for terms in identify(node["licence"])
        if terms not in (UNKNOWN, UNDECLARED)
    ]


def _cyclonedx(nodes: Nodes, name: str) -> str:
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    bom, licences, parts = Bom(), LicenseFactory(), {}
    for node in nodes:
        rows = node["role"] == "data"
        part = Component(
            name=shown(node),
            version=node["revision"],
            bom_ref=node["hash"],
            type=ComponentType.DATA if rows else ComponentType.MACHINE_LEARNING_MODEL,
            licenses=[licences.make_from_string(one) for one in licence_ids(node)[:1]],
            properties=[
                Property(name=f"potstill:{key}", value=str(node[key])) for key in ("kind", "maker", "generation")
            ],
            hashes=[
                HashType(alg=HashAlgorithm.SHA_256, content=value)
                for place, value in node["content"].items()
                if place.endswith(".safetensors")
            ],
        )
        parts[node["hash"]] = part
        bom.components.add(part)
    for node in nodes:
        bom.register_dependency(parts[node["hash"]], [parts[parent] for parent in node["parents"]])
    bom.metadata.component = Component(name=name, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="run")
    bom.register_dependency(bom.metadata.component, [parts[nodes[-1]["hash"]]])
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)


def _spdx(nodes: Nodes, name: str) -> str:
    from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
    from spdx_tools.spdx.model import (
        Actor,
        ActorType,
        Checksum,
        ChecksumAlgorithm,
        CreationInfo,
        Document,
        Package,
        Relationship,
        RelationshipType,
        SpdxNoAssertion,
    )

    own = f"https://potstill.invalid/{name}/{nodes[-1]['hash']}"
    made = CreationInfo(
        "SPDX-2.3", "SPDXRef-DOCUMENT", name, own, [Actor(ActorType.TOOL, "potstill")],
        datetime.now(UTC).replace(microsecond=0, tzinfo=None),
    )  # fmt: skip
    packages = [
        Package(
            spdx_id=_ref(node["hash"]),
            name=shown(node),
            download_location=SpdxNoAssertion(),
            version=node["revision"],
            files_analyzed=False,
            license_declared=_expression(node),
            checksums=[
                Checksum(ChecksumAlgorithm.SHA256, value)
                for place, value in sorted(node["content"].items())
                if place.endswith(".safetensors")
            ][:1],
            comment=f"{node['kind']}, made by {node['maker']}, {node['generation']} synthetic generations deep; "
            f"licence as stated: {node['licence']}",
        )
        for node in nodes
    ]
    relations = [
        Relationship(_ref(node["hash"]), RelationshipType.GENERATED_FROM, _ref(parent))
        for node in nodes
        for parent in node["parents"]
    ]
    relations.append(Relationship("SPDXRef-DOCUMENT", RelationshipType.DESCRIBES, _ref(nodes[-1]["hash"])))
    document = Document(made, packages=packages, relationships=relations)
    return json.dumps(DocumentConverter().convert(document), indent=1, ensure_ascii=False)


def _expression(node: Mapping[str, Any]) -> Any:
    """The licence as SPDX writes it, where SPDX knows its name."""
    from spdx_tools.common.spdx_licensing import spdx_licensing
    from spdx_tools.spdx.model import SpdxNoAssertion

    text = " AND ".join(licence_ids(node))
    return spdx_licensing.parse(text) if text and not spdx_licensing.validate(text).errors else SpdxNoAssertion()


def _ref(name: str) -> str:
    return f"SPDXRef-{name}"


# Form -> the package that writes it, and how.
FORMS: Mapping[str, tuple[str, Callable[[Nodes, str], str]]] = {
    "cyclonedx": ("cyclonedx", _cyclonedx),
    "spdx": ("spdx_tools", _spdx),
}
