"""Basic scans: a planted package with a known vulnerability is found, in Debian's and Alpine's images."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ecr_images import INDEX, MANIFEST, put_layers
from ecr_site import EcrSite, ecr, eventually, refused

DPKG = """Package: openssl
Status: install ok installed
Version: 3.0.11-1~deb12u1
Architecture: amd64
Description: folded
 lines: say nothing

Package: libc-bin
Status: install ok installed
Source: glibc (2.36-9)
Version: 2.36-9+b1

Package: gone
Status: deinstall ok config-files
Version: 1.0
"""
APK = "C:Q1\nP:busybox-binsh\nV:1.36.1-r5\no:busybox\n\nP:musl\nV:1.2.4-r2\no:musl\n\n"
OSV = [
    {
        "id": "DSA-1", "aliases": ["CVE-2024-0001"], "summary": "openssl reads too far",
        "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
        "references": [{"type": "ADVISORY", "url": "https://example.org/CVE-2024-0001"}],
        "affected": [{"package": {"ecosystem": "Debian:12", "name": "openssl"},
                      "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.0.13-1~deb12u1"}]}]}],
    },
    {
        "id": "CVE-2024-0002", "details": "glibc",
        "affected": [{"package": {"ecosystem": "Debian:12", "name": "glibc"}, "ecosystem_specific": {"urgency": "low"},
                      "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "2.35"}, {"last_affected": "2.36-9"}]}]}],
    },
    {
        "id": "CVE-2024-0003", "details": "mended already",
        "affected": [{"package": {"ecosystem": "Debian:12", "name": "openssl"},
                      "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.0.11-1~deb12u1"}]}]}],
    },
    {
        "id": "CVE-2024-0004", "details": "of another release",
        "affected": [{"package": {"ecosystem": "Debian:11", "name": "openssl"},
                      "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}],
    },
    {
        "id": "CVE-2024-0005", "details": "of a package that is not installed",
        "affected": [{"package": {"ecosystem": "Debian:12", "name": "gone"},
                      "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}],
    },
    {
        "id": "ALPINE-CVE-2023-42363", "upstream": ["CVE-2023-42363"], "details": "use after free in awk",
        "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:L/AC:L/PR:N/UI:R/S:U/C:N/I:N/A:H"}],
        "affected": [{"package": {"ecosystem": "Alpine:v3.18", "name": "busybox"},
                      "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.36.1-r7"}]}]}],
    },
]  # fmt: skip


def layer(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


DEBIAN = layer({"etc/os-release": 'ID=debian\nVERSION_ID="12"\n', "var/lib/dpkg/status": DPKG})
ALPINE = layer({"etc/os-release": "ID=alpine\nVERSION_ID=3.18.4\n", "lib/apk/db/installed": APK})


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for record in OSV:
            archive.writestr(f"{record['id']}.json", json.dumps(record))
    return path


@pytest.fixture
def site(tmp_path: Path, database: Path) -> Iterator[EcrSite]:
    with ecr(tmp_path / "root", vulnerabilities=database) as made:
        yield made


def scanned(client: Any, repository: str, digest: str) -> dict[str, Any]:
    def look() -> Any:
        found = client.describe_image_scan_findings(repositoryName=repository, imageId={"imageDigest": digest})
        return found if found["imageScanStatus"]["status"] != "IN_PROGRESS" else None

    return dict(eventually(look))


def test_a_planted_vulnerable_package_is_found(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    digest = put_layers(client, "app", [DEBIAN], "v1")
    with refused("ScanNotFoundException"):
        client.describe_image_scan_findings(repositoryName="app", imageId={"imageTag": "v1"})
    started = client.start_image_scan(repositoryName="app", imageId={"imageTag": "v1"})
    assert started["imageScanStatus"]["status"] == "IN_PROGRESS"
    client.get_waiter("image_scan_complete").wait(
        repositoryName="app", imageId={"imageDigest": digest}, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
    found = scanned(client, "app", digest)["imageScanFindings"]
    assert found["findingSeverityCounts"] == {"CRITICAL": 1, "LOW": 1}
    first, second = found["findings"]
    assert (first["name"], first["severity"], first["uri"]) == (
        "CVE-2024-0001", "CRITICAL", "https://example.org/CVE-2024-0001"
    )  # fmt: skip
    attributes = {one["key"]: one["value"] for one in first["attributes"]}
    assert attributes["package_name"] == "openssl"
    assert attributes["package_version"] == "3.0.11-1~deb12u1"
    assert attributes["fixed_in_version"] == "3.0.13-1~deb12u1"
    assert attributes["CVSS3_SCORE"] == "9.8"
    assert second["name"] == "CVE-2024-0002", "known by the source package's version"
    (described,) = client.describe_images(repositoryName="app")["imageDetails"]
    assert described["imageScanFindingsSummary"]["findingSeverityCounts"] == {"CRITICAL": 1, "LOW": 1}


def test_images_are_scanned_when_they_are_pushed(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app", imageScanningConfiguration={"scanOnPush": True})
    digest = put_layers(client, "app", [ALPINE], "v1")
    found = scanned(client, "app", digest)["imageScanFindings"]["findings"]
    assert [(one["name"], one["severity"]) for one in found] == [("CVE-2023-42363", "MEDIUM")]


def test_a_later_layer_mends_or_removes_a_package(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app", imageScanningConfiguration={"scanOnPush": True})
    mended = layer({"var/lib/dpkg/status": DPKG.replace("3.0.11-1~deb12u1", "3.0.15-1~deb12u1")})
    digest = put_layers(client, "app", [DEBIAN, mended], "mended")
    assert scanned(client, "app", digest)["imageScanFindings"]["findingSeverityCounts"] == {"LOW": 1}
    for name, hidden in (
        ("file", "var/lib/dpkg/.wh.status"),
        ("folder", "var/.wh.lib"),
        ("opaque", "var/.wh..wh..opq"),
    ):
        digest = put_layers(client, "app", [DEBIAN, layer({hidden: ""})], name)
        assert scanned(client, "app", digest)["imageScanFindings"]["findings"] == [], name


def test_what_cannot_be_scanned_says_so(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app", imageScanningConfiguration={"scanOnPush": True})
    nobody = put_layers(client, "app", [layer({"bin/true": ""})], "nobody")
    assert scanned(client, "app", nobody)["imageScanStatus"]["status"] == "UNSUPPORTED_IMAGE"
    broken = put_layers(client, "app", [DEBIAN[:-40]], "broken")
    assert scanned(client, "app", broken)["imageScanStatus"]["status"] == "FAILED"
    (one,) = client.batch_get_image(repositoryName="app", imageIds=[{"imageDigest": nobody}])["images"]
    child = {"mediaType": MANIFEST, "digest": nobody, "size": len(one["imageManifest"])}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]})
    client.put_image(repositoryName="app", imageManifest=index, imageTag="all")
    with refused("UnsupportedImageTypeException"):
        client.start_image_scan(repositoryName="app", imageId={"imageTag": "all"})
    with refused("ImageNotFoundException"):
        client.start_image_scan(repositoryName="app", imageId={"imageTag": "none"})


def test_the_registrys_configuration_goes_before_the_repositorys(site: EcrSite) -> None:
    client = site.client()
    assert client.get_registry_scanning_configuration()["scanningConfiguration"] == {"scanType": "BASIC", "rules": []}
    rule = {"scanFrequency": "SCAN_ON_PUSH", "repositoryFilters": [{"filter": "prod*", "filterType": "WILDCARD"}]}
    client.put_registry_scanning_configuration(scanType="BASIC", rules=[rule])
    for name in ("prod/app", "dev/app"):
        client.create_repository(repositoryName=name)
    told = client.batch_get_repository_scanning_configuration(repositoryNames=["prod/app", "dev/app", "none"])
    assert [one["scanFrequency"] for one in told["scanningConfigurations"]] == ["SCAN_ON_PUSH", "MANUAL"]
    assert told["scanningConfigurations"][0]["appliedScanFilters"] == rule["repositoryFilters"]
    assert told["failures"][0]["failureCode"] == "REPOSITORY_NOT_FOUND"
    assert scanned(client, "prod/app", put_layers(client, "prod/app", [DEBIAN], "v1"))["imageScanFindings"]["findings"]
    digest = put_layers(client, "dev/app", [DEBIAN], "v1")
    with refused("ScanNotFoundException"):
        client.describe_image_scan_findings(repositoryName="dev/app", imageId={"imageDigest": digest})
    with refused("ValidationException"):
        client.put_registry_scanning_configuration(scanType="ENHANCED", rules=[])
    with refused("InvalidParameterException"):
        client.put_registry_scanning_configuration(
            scanType="BASIC", rules=[{**rule, "scanFrequency": "CONTINUOUS_SCAN"}]
        )


def test_without_a_database_nothing_is_said_to_be_clean(tmp_path: Path) -> None:
    with ecr(tmp_path / "other") as bare:
        client = bare.client()
        client.create_repository(repositoryName="app")
        put_layers(client, "app", [DEBIAN], "v1")
        with refused("ValidationException"):
            client.start_image_scan(repositoryName="app", imageId={"imageTag": "v1"})


def test_a_broken_database_fails_the_scan_and_a_mended_one_is_read(site: EcrSite, database: Path) -> None:
    client = site.client()
    client.create_repository(repositoryName="app", imageScanningConfiguration={"scanOnPush": True})
    whole = database.read_bytes()
    database.write_bytes(b"no archive")
    digest = put_layers(client, "app", [DEBIAN], "v1")
    status = scanned(client, "app", digest)["imageScanStatus"]
    assert status["status"] == "FAILED"
    assert "vulnerability database" in status["description"]
    database.write_bytes(whole)
    client.start_image_scan(repositoryName="app", imageId={"imageDigest": digest})
    assert scanned(client, "app", digest)["imageScanFindings"]["findings"]
