"""Wheels for tests: well-formed ones from a specification, hostile ones by rewriting what goes in."""

import csv
import hashlib
import io
import stat
import warnings
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import parse_tag
from packaging.utils import canonicalize_name


@dataclass(frozen=True)
class Member:
    """A zip member; a mode without a file type means a directory if the name ends in "/", else a file."""

    name: str
    data: bytes
    mode: int = 0o644
    compression: int = zipfile.ZIP_DEFLATED


@dataclass(frozen=True)
class Row:
    """A row of RECORD, as written."""

    path: str
    digest: str = ""
    size: str = ""


@dataclass(frozen=True, kw_only=True)
class WheelSpec:
    """What a wheel holds.

    Attributes:
        name: Name of the distribution, in any spelling.
        version: Its version.
        build: Build tag of the file name, if any.
        tag: Compatibility tag, possibly compressed ("py2.py3-none-any").
        files: Contents by path from the wheel's root; None makes a package named after the distribution.
        data: Contents by path from the .data directory: "scripts/tool", "data/share/x", "headers/x.h".
        executable: Keys of `files` and `data` that get mode 0755.
        requires: Requirements.
        extras: Requirements by extra; they may carry markers of their own.
        requires_python: Versions of Python it accepts.
        entry_points: Targets by name by section.
        root_is_purelib: Whether the root goes to purelib rather than platlib.
        metadata_extra: Text put at the end of METADATA as it is.
    """

    name: str
    version: str = "1.0"
    build: str = ""
    tag: str = "py3-none-any"
    files: Mapping[str, bytes | str] | None = None
    data: Mapping[str, bytes | str] = field(default_factory=dict)
    executable: Collection[str] = ()
    requires: Sequence[str] = ()
    extras: Mapping[str, Sequence[str]] = field(default_factory=dict)
    requires_python: str | None = None
    entry_points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    root_is_purelib: bool = True
    metadata_extra: str = ""

    @property
    def package(self) -> str:
        """The name as it stands in file names, and the package made when no files are given."""
        return canonicalize_name(self.name).replace("-", "_")

    @property
    def dist_info(self) -> str:
        """Name of the .dist-info directory."""
        return f"{self.package}-{self.version}.dist-info"

    @property
    def data_directory(self) -> str:
        """Name of the .data directory."""
        return f"{self.package}-{self.version}.data"


def wheel_filename(spec: WheelSpec) -> str:
    """File name of the wheel."""
    build = [spec.build] if spec.build else []
    return "-".join([spec.package, spec.version, *build, spec.tag]) + ".whl"


def wheel_bytes(
    spec: WheelSpec,
    *,
    record: Callable[[list[Row]], list[Row]] = list,
    members: Callable[[list[Member]], list[Member]] = list,
) -> bytes:
    """Builds a wheel in memory; the same arguments give the same bytes.

    Args:
        spec: What the wheel holds.
        record: Rewrites the rows of RECORD, which are true until then.
        members: Rewrites the members, RECORD (the last) included, which keeps describing the original ones.
    """
    content = [*_content(spec), *_dist_info(spec)]
    record_name = f"{spec.dist_info}/RECORD"
    rows = [_row(member) for member in content if not member.name.endswith("/")]
    record_member = Member(record_name, _record_text(record([*rows, Row(record_name)])).encode())
    return zip_wheel(members([*content, record_member]))


def build_wheel(
    spec: WheelSpec,
    directory: Path,
    *,
    record: Callable[[list[Row]], list[Row]] = list,
    members: Callable[[list[Member]], list[Member]] = list,
) -> Path:
    """Writes what `wheel_bytes` makes to a directory, under the wheel's own file name."""
    path = directory / wheel_filename(spec)
    path.write_bytes(wheel_bytes(spec, record=record, members=members))
    return path


def zip_wheel(members: Sequence[Member]) -> bytes:
    """Zips members as they are: names may be repeated, absolute, or lead outside."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Duplicate name", category=UserWarning)
        for member in members:
            info = zipfile.ZipInfo(date_time=(1980, 1, 1, 0, 0, 0))
            # The constructor would cut the name at a NUL.
            info.filename = member.name
            info.compress_type = member.compression
            info.create_system = 3  # Unix, or readers ignore the mode
            info.external_attr = _full_mode(member) << 16
            archive.writestr(info, member.data)
    return buffer.getvalue()


def _full_mode(member: Member) -> int:
    if stat.S_IFMT(member.mode):
        return member.mode
    return member.mode | (stat.S_IFDIR if member.name.endswith("/") else stat.S_IFREG)


def _content(spec: WheelSpec) -> list[Member]:
    files = spec.files
    if files is None:
        files = {f"{spec.package}/__init__.py": f'__version__ = "{spec.version}"\n'}
    contents = [(path, path, content) for path, content in files.items()]
    contents += [(path, f"{spec.data_directory}/{path}", content) for path, content in spec.data.items()]
    return [
        Member(
            name,
            content.encode() if isinstance(content, str) else content,
            0o755 if path in spec.executable else 0o644,
        )
        for path, name, content in contents
    ]


def _dist_info(spec: WheelSpec) -> list[Member]:
    texts = {"METADATA": _metadata_text(spec), "WHEEL": _wheel_text(spec)}
    if spec.entry_points:
        texts["entry_points.txt"] = _entry_points_text(spec.entry_points)
    return [Member(f"{spec.dist_info}/{name}", text.encode()) for name, text in texts.items()]


def _metadata_text(spec: WheelSpec) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {spec.name}", f"Version: {spec.version}"]
    if spec.requires_python is not None:
        lines.append(f"Requires-Python: {spec.requires_python}")
    lines += [f"Requires-Dist: {requirement}" for requirement in spec.requires]
    for extra, requirements in spec.extras.items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f"Requires-Dist: {_within_extra(requirement, extra)}" for requirement in requirements]
    return "\n".join(lines) + "\n" + spec.metadata_extra


def _within_extra(text: str, extra: str) -> str:
    requirement = Requirement(text)
    clause = f'extra == "{extra}"'
    requirement.marker = Marker(f"({requirement.marker}) and {clause}" if requirement.marker else clause)
    return str(requirement)


def _wheel_text(spec: WheelSpec) -> str:
    purelib = "true" if spec.root_is_purelib else "false"
    lines = ["Wheel-Version: 1.0", "Generator: test-support", f"Root-Is-Purelib: {purelib}"]
    lines += [f"Tag: {tag}" for tag in sorted(map(str, parse_tag(spec.tag)))]
    if spec.build:
        lines.append(f"Build: {spec.build}")
    return "\n".join(lines) + "\n"


def _entry_points_text(entry_points: Mapping[str, Mapping[str, str]]) -> str:
    lines: list[str] = []
    for section, targets in entry_points.items():
        lines += [f"[{section}]", *(f"{name} = {target}" for name, target in targets.items()), ""]
    return "\n".join(lines)


def _row(member: Member) -> Row:
    digest = urlsafe_b64encode(hashlib.sha256(member.data).digest()).rstrip(b"=").decode()
    return Row(member.name, f"sha256={digest}", str(len(member.data)))


def _record_text(rows: Sequence[Row]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows((row.path, row.digest, row.size) for row in rows)
    return buffer.getvalue()
