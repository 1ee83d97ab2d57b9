"""KubeRay's schema of a RayJob, as much of it as is needed here, and how that was made of the whole.

``kuberay_rayjob_schema.json`` is cut from ray.io_rayjobs.yaml of KubeRay 1.7.0 (Apache-2.0): every name at every level
that a job of ours uses, without descriptions. The whole is 1.4 MB; KUBERAY_CRD=FILE compares with it.
"""

import json
from pathlib import Path

SCHEMA = Path(__file__).with_name("kuberay_rayjob_schema.json")
RULES = ("type", "enum", "required", "pattern", "minimum", "maximum", "minLength", "maxLength")
RULES += ("anyOf", "format", "x-kubernetes-preserve-unknown-fields")


def cut(schema, values):
    """What judges ``values``: of what they do not use the names and types."""
    kept = {rule: schema[rule] for rule in RULES if rule in schema}
    if "properties" in schema:
        kept["properties"] = {}
        for name, inner in schema["properties"].items():
            used = [value[name] for value in values if name in value]
            kept["properties"][name] = cut(inner, used) if used else {}
    if "items" in schema:
        kept["items"] = cut(schema["items"], [item for value in values for item in value])
    if isinstance(schema.get("additionalProperties"), dict):
        inner = [item for value in values for item in value.values()]
        kept["additionalProperties"] = cut(schema["additionalProperties"], inner)
    return kept


def strict(schema):
    """As the API server judges when it is asked to be strict: a name that is not known is an error."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and isinstance(schema.get("type"), str):
        made["additionalProperties"] = schema.get("x-kubernetes-preserve-unknown-fields", False)
    return made


def of_crd(text, values):
    """The schema of version v1 in a CRD, cut for ``values``."""
    import yaml

    versions = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
    whole = next(v for v in versions["versions"] if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    return cut(whole, values), whole


def stored():
    """The cut schema."""
    return json.loads(SCHEMA.read_text())["schema"]
