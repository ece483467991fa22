"""The Kubernetes manifests: they fit the schemas of all releases in use, and the rules that a cluster checks later."""

import re
import subprocess
from itertools import chain

import kubernetes_validate
import pytest
import yaml

from support.deployment import KUBERNETES, ORDERLY_END_SECONDS, ROOT, env_file, manifest, manifests
from support.programs import program

RELEASES = [f"1.{minor}" for minor in range(29, 38)]
SETTINGS = env_file(KUBERNETES / "settings.env")
PODS = [manifest("Deployment")["spec"]["template"], manifest("Job")["spec"]["template"]]


def named(path):
    return path.relative_to(KUBERNETES).as_posix()


@pytest.mark.parametrize("release", RELEASES)
def test_they_fit_the_schemas(release):
    for one in manifests().values():
        kubernetes_validate.validate(one, release, strict=True)


def test_a_slip_of_the_pen_does_not_fit():
    """What a server would ignore without a word is refused here: the test above does check."""
    worse = manifest("Deployment")
    worse["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(worse, RELEASES[-1], strict=True)


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("folder", [KUBERNETES, KUBERNETES / "migration"], ids=lambda folder: folder.name)
def test_kustomize_puts_them_together(folder):
    """The result, as the cluster gets it: valid, in one namespace, with an image that has a registry and a version."""
    command = [program("kubectl"), "kustomize", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    for one in yaml.safe_load_all(done.stdout):
        kubernetes_validate.validate(one, RELEASES[-1], strict=True)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "kontract"
        for pod in [one["spec"]["template"]] if one["kind"] in ("Deployment", "Job") else []:
            (container,) = pod["spec"]["containers"]
            assert re.fullmatch(r"[\w.]+\.\w+/.+:\d+\.\d+\.\d+", container["image"])
            for source in container.get("envFrom", []):
                assert re.fullmatch(r"kontract-settings-\w{10}", source["configMapRef"]["name"]), "changes replace pods"


@pytest.mark.parametrize("folder", [KUBERNETES, KUBERNETES / "migration"], ids=lambda folder: folder.name)
def test_every_manifest_is_in_a_kustomization_but_secrets(folder):
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml", "secret.yaml"}
    assert set(listed) == there


def test_both_kustomizations_take_the_same_image():
    """The schema of a release is brought by the image of that release."""
    images = [
        yaml.safe_load((folder / "kustomization.yaml").read_text())["images"]
        for folder in (KUBERNETES, KUBERNETES / "migration")
    ]
    assert images[0] == images[1]


@pytest.mark.parametrize("pod", PODS, ids=["Deployment", "Job"])
def test_pods_are_admitted_under_the_restricted_standard(pod):
    """The namespace enforces it: a pod that asks for more would never be made."""
    namespace = manifest("Namespace")["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001, "the user of the image"
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
    assert spec["automountServiceAccountToken"] is False


def test_selectors_find_the_pods():
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        manifest("Deployment")["spec"]["selector"]["matchLabels"],
        manifest("Service")["spec"]["selector"],
        manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            one["labelSelector"]["matchLabels"]
            for one in manifest("Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
        ),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    job = manifest("Job")["spec"]["template"]["metadata"]["labels"]
    assert not any(selector.items() <= job.items() for selector in selectors), "no calls go to the migration"


def test_ports_are_found_by_name():
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    names = {port["name"] for port in container["ports"]}
    asked = [container[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    asked += [port["targetPort"] for port in manifest("Service")["spec"]["ports"]]
    asked += [port["port"] for rule in manifest("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
    assert set(asked) == names


def test_probes_ask_what_they_are_for():
    """A database that is away must take pods out of service, and must not kill them."""
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["startupProbe"]["httpGet"]["path"] == "/health"
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 60


def test_there_is_time_for_an_orderly_end():
    """The pod serves on until nobody sends it calls, then ends what is running, and is not killed in the middle."""
    spec = manifest("Deployment")["spec"]["template"]["spec"]
    drain = int(SETTINGS["KONTRACT_DRAIN_SECONDS"])
    assert drain >= 5
    assert spec["terminationGracePeriodSeconds"] > drain + ORDERLY_END_SECONDS


def test_a_roll_out_never_has_fewer_pods_than_before():
    spec = manifest("Deployment")["spec"]
    assert spec["replicas"] == 3
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert manifest("PodDisruptionBudget")["spec"]["maxUnavailable"] < spec["replicas"]


def test_any_pod_answers_any_call():
    assert "sessionAffinity" not in manifest("Service")["spec"]


def test_every_key_that_is_asked_for_is_in_the_example_of_the_secret():
    secret = manifest("Secret")
    references = [
        variable["valueFrom"]["secretKeyRef"]
        for pod in PODS
        for variable in chain.from_iterable(container.get("env", []) for container in pod["spec"]["containers"])
    ]
    assert {reference["name"] for reference in references} == {secret["metadata"]["name"]}
    needed = {reference["key"] for reference in references if not reference.get("optional")}
    assert needed == set(secret["stringData"])
    assert secret["stringData"]["kontract-secret"] == ""


@pytest.mark.needs("git")
def test_the_filled_in_secret_is_not_committed():
    for name in ("deploy/kubernetes/secret.yaml", ".env"):
        ignored = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False)
        assert ignored.returncode == 0, name
