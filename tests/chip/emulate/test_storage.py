"""Chips in files: what is read is what was written, and whatever else a file holds is one clear error."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import ffebm_compiler as fc
from ffebm_compiler.chip.emulate import load_chip, save_chip
from ffebm_compiler.errors import InputError, OptionError

HARDWARE = fc.Hardware(
    g_min=1e-6,
    programming_error=0.03,
    levels=32,
    stuck_low=0.05,
    drift=0.05,
    drift_spread=0.01,
    age=100.0,
    read_noise=0.02,
    read_noise_correlation=0.5,
    temperature=300.0,
    offset=1e-3,
    gain_mismatch=0.02,
    write="pulses",
    step_variation=0.2,
    bidirectional=False,
    adc_bits=8,
    tile_rows=4,
    tile_columns=4,
)


def model() -> fc.FFEBM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 2, 3, groups=1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 2)
        )
    return fc.convert(net, block_size=2)


X = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chip = model().lower(hardware=HARDWARE, chip_seed=3).calibrate(X)
    chip(X)
    return chip.save_chip(tmp_path_factory.mktemp("chip") / "chip.npz")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_chip_read_again_goes_on_as_it_would_have(tmp_path: Path, dtype: torch.dtype) -> None:
    net, x = model().to(dtype), X.to(dtype)
    chip = net.lower(hardware=HARDWARE, chip_seed=3).calibrate(x)
    chip(x)
    with torch.no_grad():  # a chip with a history: pulses, and what they have not reached yet
        for p in chip.parameters():
            p.add_(0.01)
    chip(x)
    chip.save_chip(tmp_path / "chip.npz")
    net.load_state_dict(chip.state_dict())
    again = net.lower(chip=tmp_path / "chip.npz")
    assert again.hardware == HARDWARE
    assert again.chip.seed == 3
    for _ in range(2):  # devices, ranges, mismatch, and the stream of noise
        assert torch.equal(chip(x), again(x))
    with torch.no_grad():
        for m in (chip, again):
            for p in m.parameters():
                p.sub_(0.02)
    assert torch.equal(chip(x), again(x))  # writing goes on alike too


def test_the_same_chip_is_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    again = save_chip(load_chip(saved), tmp_path / "again.npz")
    assert again.read_bytes() == saved.read_bytes()


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "no.npz", tmp_path):
        with pytest.raises(InputError):
            load_chip(path)
    with pytest.raises(OptionError):
        save_chip(load_chip_of(tmp_path), tmp_path / "no folder" / "chip.npz")


def load_chip_of(folder: Path) -> Any:
    return load_chip(model().lower(hardware="ideal").calibrate(X).save_chip(folder / "x.npz"))


# --- damaged by chance -----------------------------------------------------------------------------------


def refused_or_equal(path: Path, original: bytes) -> None:
    """A damaged byte that nothing reads (a date of the archive) may pass; then the chip is the one that was saved."""
    try:
        chip = load_chip(path)
    except InputError:
        return
    save_chip(chip, path)
    assert path.read_bytes() == original


@settings(
    deadline=None, max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_flipped_byte(saved: Path, tmp_path: Path, where: float, flip: int) -> None:
    original = saved.read_bytes()
    content = bytearray(original)
    content[int(where * len(content))] ^= flip
    path = tmp_path / "flipped.npz"
    path.write_bytes(content)
    refused_or_equal(path, original)


@settings(deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True))
def test_a_file_cut_short(saved: Path, tmp_path: Path, where: float) -> None:
    content = saved.read_bytes()
    path = tmp_path / "cut.npz"
    path.write_bytes(content[: int(where * len(content))])
    with pytest.raises(InputError, match="damaged"):
        load_chip(path)


@settings(deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.npz"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_chip(path)


# --- made to look right: every checksum is correct -------------------------------------------------------

Members = dict[str, bytes]


def rewritten(saved: Path, path: Path, change: Callable[[dict[str, Any], Members], None], **options: Any) -> Path:
    with zipfile.ZipFile(saved) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    manifest = json.loads(members.pop("manifest.json"))
    change(manifest, members)
    if isinstance(manifest.get("sha256"), dict):
        manifest["sha256"] = {n.removesuffix(".npy"): hashlib.sha256(c).hexdigest() for n, c in members.items()}
    with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_STORED)) as out:
        out.writestr("manifest.json", json.dumps(manifest))
        for n, c in members.items():
            out.writestr(n, c)
    return path


def npy(value: Any, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=pickled)
    return buffer.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def member(name: str, content: bytes) -> Callable[[dict[str, Any], Members], None]:
    def change(manifest: dict[str, Any], members: Members) -> None:
        assert f"{name}.npy" in members, sorted(members)
        members[f"{name}.npy"] = content

    return change


def entry(*keys: str, value: Any) -> Callable[[dict[str, Any], Members], None]:
    def change(manifest: dict[str, Any], members: Members) -> None:
        part = manifest
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    return change


def values(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Any], Members], None]:
    def change(manifest: dict[str, Any], members: Members) -> None:
        members[f"{name}.npy"] = npy(make(np.load(io.BytesIO(members[f"{name}.npy"]))))

    return change


def without(name: str) -> Callable[[dict[str, Any], Members], None]:
    return lambda manifest, members: members.pop(f"{name}.npy") and None  # type: ignore[func-returns-value]


DRIVE = "0/drive/conductance"
FORGED: dict[str, Callable[[dict[str, Any], Members], None]] = {
    "a pickle": member(DRIVE, npy(np.array([{}, 1], dtype=object), pickled=True)),
    "an archive within": member(DRIVE, b"PK\x03\x04" + bytes(40)),
    "not an array": member(DRIVE, b"hello"),
    "an array of 8 EiB": member(DRIVE, header((1 << 60, 1))),
    "more than it announces": member(DRIVE, header((1,)) + bytes(400)),
    "a negative shape": member(DRIVE, header((-1,)) + bytes(4)),
    "text": member(DRIVE, npy(np.array(["a"]))),
    "complex": member(DRIVE, npy(np.zeros(3, dtype=complex))),
    "another shape": values(DRIVE, lambda a: a[:1]),
    "a conductance that is NaN": values(DRIVE, lambda a: a * np.nan),
    "a negative conductance": values(DRIVE, lambda a: -a - 1),
    "infinite": values(DRIVE, lambda a: a + np.float32(np.inf)),
    "a scale of zero": values("0/drive/scale", lambda a: a * 0),
    "integers": values(DRIVE, lambda a: a.astype(np.int8)),
    "weights that are NaN": values("0/written", lambda a: a * np.nan),
    "weights of two shapes": values("0/asked", lambda a: a[..., :1]),
    "a weight without dimensions": values("0/written", lambda a: a.sum()),
    "stuck at 7": values("0/drive/stuck", lambda a: a * 0 + 7),
    "no conductance": without(DRIVE),
    "no weights": without("0/written"),
    "no noise": without("reads"),
    "noise of another kind": values("reads", lambda a: a[:10]),
    "noise as floats": values("reads", lambda a: a.astype(np.float32)),
    "an unknown array": lambda manifest, members: members.update({"0/drive/colour.npy": npy(np.zeros(3))}),
    "an unhashed member": lambda manifest, members: manifest.update(sha256=[]),
    "another format": entry("format", value="ffebm chip 99"),
    "no seed": lambda manifest, members: manifest.pop("seed") and None,
    "a seed below zero": entry("seed", value=-1),
    "a seed of True": entry("seed", value=True),
    "an endless seed": entry("seed", value=10**400),
    "writes as text": entry("writes", value="1"),
    "hardware as a list": entry("hardware", value=[]),
    "an unknown field": entry("hardware", "colour", value=1),
    "a bad field": entry("hardware", "adc_bits", value=0),
    "ranges as a list": entry("ranges", value=[]),
    "a range of zero": entry("ranges", "x", value=[0, True]),
    "a range of NaN": entry("ranges", "x", value=[float("nan"), True]),
    "an endless range": entry("ranges", "x", value=[10**400, True]),
    "a range without a sign": entry("ranges", "x", value=[1.0]),
    "a sign that is a number": entry("ranges", "x", value=[1.0, 1]),
    "devices as a list": entry("devices", value=[]),
    "a layer that is no object": entry("devices", "0.weight", value=3),
    "a layer of another operation": entry("devices", "0.weight", "operation", value="lstm"),
    "a layer without an operation": entry("devices", "0.weight", value={}),
    "an operation that can't be looked up": entry("devices", "0.weight", "operation", value=[]),
    "no groups": entry("devices", "0.weight", "options", "groups", value=0),
    "minus one group": entry("devices", "0.weight", "options", "groups", value=-1),
    "options as a list": entry("devices", "0.weight", "options", value=[]),
    "a type that is none": entry("devices", "0.weight", "dtype", value="object"),
    "a type that can't be looked up": entry("devices", "0.weight", "dtype", value={}),
    "more layers than arrays": entry(
        "devices", "9.weight", value={"operation": "bias", "options": {}, "bidirectional": True, "dtype": "float32"}
    ),
}


@pytest.mark.parametrize("name", sorted(FORGED))
def test_a_forged_file_is_refused(saved: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"chip .*bad\.npz"):
        load_chip(rewritten(saved, tmp_path / "bad.npz", FORGED[name]))


def test_the_forger_s_tools_alone_change_nothing(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "same.npz", lambda manifest, members: None)
    assert load_chip(path).seed == load_chip(saved).seed


def test_compressed_members_are_refused_unread(saved: Path, tmp_path: Path) -> None:
    """What could unpack to any size."""
    path = rewritten(saved, tmp_path / "bomb.npz", lambda manifest, members: None, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed"):
        load_chip(path)


def test_a_member_twice(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.npz"
    path.write_bytes(saved.read_bytes())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("reads.npy", b"")
    with pytest.raises(InputError, match="one name"):
        load_chip(path)


def test_a_manifest_nested_without_end(tmp_path: Path) -> None:
    path = tmp_path / "deep.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", "[" * 200_000)
    with pytest.raises(InputError):
        load_chip(path)


def test_a_chip_keeps_what_it_is_made_of(saved: Path) -> None:
    assert load_chip(saved).hardware == HARDWARE
    assert dataclasses.asdict(load_chip(saved).hardware) == dataclasses.asdict(HARDWARE)
