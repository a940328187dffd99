"""Images that look alike are found as by a comparison of all pairs, and in much less time."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from transfer_maskrcnn.data.near_duplicates import LENGTH, SIDE, _seen, groups, twins

Thumbs = list[bytes]
GREY = bytes([128]) * (LENGTH - SIDE * SIDE)  # the end of a thumbnail without a colour


def _blotches(seed: int, side: int = SIDE) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 255)


def _family(seed: int, images: int) -> Thumbs:
    """Pictures, and copies of some with noise: little, so that they are alike, to much."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        base = _blotches(int(rng.integers(0, images // 2)))
        noisy = base + rng.normal(0, rng.choice([0, 2, 6, 12, 18]), base.shape)
        found.append(noisy.clip(0, 255).astype(np.uint8).tobytes() + GREY)
    return [b"", bytes(LENGTH), *found, bytes(LENGTH)]


def _alike(thumbs: Thumbs, others: Thumbs) -> np.ndarray:
    """(N, M): every pair, by the definition."""

    def prepared(some: Thumbs) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.array(
            [np.frombuffer(t or bytes(LENGTH), np.uint8)[: SIDE**2] for t in some], np.float32
        )
        clear = pixels.std(axis=1) >= 3
        low = [cv2.dct(p.reshape(SIDE, SIDE))[:8, :8].reshape(-1)[1:] for p in pixels]
        signs = np.where(low > np.median(low, axis=1, keepdims=True), 1, -1) * clear[:, None]
        centred = pixels - pixels.mean(axis=1, keepdims=True)
        return centred / np.maximum(pixels.std(axis=1, keepdims=True), 1e-9), signs

    (a, hash_a), (b, hash_b) = prepared(thumbs), prepared(others)
    return (hash_a @ hash_b.T >= 63 - 2 * 6) & (a @ b.T / SIDE**2 > 0.985)


@pytest.mark.parametrize("seed", range(3))
def test_all_pairs_find_no_more(seed: int) -> None:
    thumbs, others = _family(seed, 300), _family(seed + 10, 200)
    pairs = np.tril(_alike(thumbs, thumbs), -1)
    found = twins(thumbs)
    assert sorted(found) == np.flatnonzero(pairs.any(axis=1)).tolist() and len(found) > 50
    assert all(pairs[b, a] for b, a in found.items())
    pairs = _alike(thumbs, others)
    found = twins(thumbs, others)
    assert sorted(found) == np.flatnonzero(pairs.any(axis=1)).tolist() and len(found) > 50
    assert all(pairs[b, a] for b, a in found.items())


@pytest.mark.parametrize("noise", [2, 14])  # frames that are twins; that have one hash and are none
def test_frames_of_a_still_camera_take_little_time(noise: int) -> None:
    rng = np.random.default_rng(0)
    base = _blotches(1)
    frames = [
        (base + rng.normal(0, noise, base.shape)).clip(0, 255).astype(np.uint8).tobytes() + GREY
        for _ in range(1500)
    ]
    start = time.process_time()
    assert len(twins(frames)) == (1499 if noise == 2 else 0)
    assert time.process_time() - start < 8  # all pairs in a loop: over half a minute


def test_groups(tmp_path: Path) -> None:
    def save(name: str, image: np.ndarray, **options: object) -> str:
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / name, **options)
        return str(tmp_path / name)

    scene, other = _blotches(1, 96), _blotches(2, 96)
    # The first and the last one differ; what is between them comes later.
    drifting = [scene + k * 8 * np.linspace(-1, 1, 96) for k in range(8)]
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "broken.png").write_bytes(b"no image")
    files = [
        save("0.png", other),
        save("1.jpg", scene),
        *(save(f"frame{k}.png", drifting[k]) for k in (0, 7, 2, 6, 4, 1, 3, 5)),
        save("large.jpg", cv2.resize(scene, (300, 300)), quality=60),
        str(tmp_path / "broken.png"),
        str(tmp_path / "missing.png"),
        save("dark.png", np.zeros((96, 96))),
        save("dark again.png", np.zeros((96, 96))),
        save("darker.png", np.ones((96, 96))),
        save("turned.jpg", np.rot90(other), exif=turned),
    ]
    assert len(twins([_seen(files[2])[1], _seen(files[3])[1]])) == 0
    found = groups(files)
    assert found == [0, *[1] * 10, 11, 12, 13, 13, 15, 0]
    assert groups([]) == [] and twins([]) == {}


def test_other_colours_are_another_picture(tmp_path: Path) -> None:
    """A thing of another colour and the same grey; the same one, compressed and darker."""
    scene = np.repeat(_blotches(1, 96)[..., None] / 2 + 40, 3, axis=2)
    pictures = [scene + 0, scene + 0, scene + 0]
    for image, tint in zip(pictures, ((60, -60, 0), (-60, 0, 60), (60, -60, 0)), strict=True):
        image[30:60, 30:60] += tint
    pictures[2] -= 15
    files = [str(tmp_path / f"{k}.jpg") for k in range(3)]
    for file, image in zip(files, pictures, strict=True):
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file, quality=60)
    assert twins([_seen(file)[1] for file in files]) == {2: 0}


def test_what_cannot_be_read_has_no_thumbnail(tmp_path: Path) -> None:
    assert _seen(str(tmp_path / "missing.png")) == (b"", b"")
