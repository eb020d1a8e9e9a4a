"""Documents that the schemas do not look into: configurations in Jsonnet, and what all manifests have in common."""

import json
import pathlib
import sys

import _jsonnet
import yaml

folder = pathlib.Path(sys.argv[1])
documents = []
for path in sorted(folder.glob("*.yaml")):
    documents += [(path.name, each) for each in yaml.safe_load_all(path.read_text())]


def fail(message):
    sys.exit(f"manifests: {message}")


def find(kind, name):
    found = [it for _, it in documents if it["kind"] == kind and it["metadata"]["name"] == name]
    if not found:
        fail(f"there is no {kind} {name}")
    return found[0]


def pods():
    for name, document in documents:
        template = document.get("spec", {}).get("template") if document["kind"] != "Service" else None
        if template:
            yield name, template["metadata"]["labels"], template["spec"]


files = find("ConfigMap", "buildbarn")["data"]


def imported(folder, name):
    if name.startswith("/"):
        return name, b"PEM"
    return name, files[name].encode()


configurations = {}
for name, text in files.items():
    if name.endswith(".jsonnet"):
        variables = {"ISA": "x86-64", "NODE_NAME": "node", "POD_NAME": "pod"}
        result = _jsonnet.evaluate_snippet(name, text, ext_vars=variables, import_callback=imported)
        configurations[name] = json.loads(result)

for name, labels, spec in pods():
    containers = spec["initContainers"] + spec["containers"] if "initContainers" in spec else spec["containers"]
    if not spec["securityContext"].get("runAsNonRoot") or spec.get("hostNetwork") or spec.get("hostPID"):
        fail(f"{name}: a pod runs as root or with what is the host's")
    if spec["automountServiceAccountToken"]:
        fail(f"{name}: a pod has a token of the cluster")
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in containers:
        security = container["securityContext"]
        if security.get("privileged") or security["allowPrivilegeEscalation"] or security["capabilities"] != {"drop": ["ALL"]}:
            fail(f"{name}: {container['name']} may do too much")
        if "memory" not in container["resources"]["limits"]:
            fail(f"{name}: {container['name']} has no limit of memory")
        if any("hostPath" in volume for volume in spec["volumes"]):
            fail(f"{name}: a pod has a folder of the node")
        for mount in container["volumeMounts"]:
            if mount["name"] not in volumes and mount["name"] != "data":
                fail(f"{name}: {container['name']} mounts {mount['name']}, which is not there")
        for argument in container.get("args", []) + container.get("command", []):
            if argument.startswith("/config/") and argument.removeprefix("/config/") not in files:
                fail(f"{name}: {argument} is in no ConfigMap")
        # Commands must not find the key to the storage.
        if container["name"] == "runner" and any(m["name"] == "internal-tls" for m in container["volumeMounts"]):
            fail(f"{name}: the runner has the key of the worker")

selected = [(labels, ports) for labels, ports in (
    (labels, {port["name"] for c in spec["containers"] for port in c.get("ports", [])}) for _, labels, spec in pods()
)]
for name, document in documents:
    if document["kind"] == "Service":
        selector = document["spec"]["selector"].items()
        if not any(selector <= labels.items() for labels, _ in selected):
            fail(f"{name}: nothing is selected by {dict(selector)}")
    if document["kind"] != "Namespace" and document["metadata"]["namespace"] != "kiln-workers":
        fail(f"{name}: a document is in another namespace")

for arch, isa in (("amd64", "x86-64"), ("arm64", "arm-a64")):
    spec = find("Deployment", f"worker-{arch}")["spec"]["template"]["spec"]
    told = [e["value"] for c in spec["containers"] for e in c.get("env", []) if e["name"] == "ISA"]
    if spec["nodeSelector"]["kubernetes.io/arch"] != arch or told != [isa] or spec["hostUsers"]:
        fail(f"worker-{arch} is not one for {arch}")

profile = json.loads((folder / "kiln-worker.json").read_text())
denied = {name for rule in profile["syscalls"] for name in rule["names"]}
needed = {"unshare", "clone", "clone3", "mount", "umount2", "pivot_root", "seccomp", "setns", "mount_setattr"}
if denied & needed:
    fail(f"the profile denies {sorted(denied & needed)}")
frontend = configurations["frontend.jsonnet"]
if "jmespathExpression" not in frontend["actionCache"]["putAuthorizer"]:
    fail("clients may write the action cache")
print(f"{len(documents)} documents and {len(configurations)} configurations")
