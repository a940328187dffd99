"""Which mask files belong to which image: found by what their names have in common."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from transfer_maskrcnn.errors import DatasetError
from transfer_maskrcnn.text import few

from .base import RawImage, Reason
from .files import IMAGE_SUFFIXES, list_images, natural_key

Masked = tuple[RawImage, list[Path]]  # an image, and its mask files
Files = Mapping[str, Path]  # by path within their folder, without suffix
Pairs = dict[Path, Path]  # mask -> image

# What the two folders of one dataset are called, in lower case, the likeliest first.
_OF_IMAGES = ("images", "jpegimages", "pngimages", "leftimg8bit", "image", "imgs", "img")
_OF_MASKS = (
    *("masks", "mask", "segmentationobject", "segmentationclass", "pedmasks", "gtfine"),
    *("instances", "labels", "annotations", "gt"),
)
_OBJECTS = "instanceIds"  # Cityscapes', beside labelIds and color of the same images


def find_masks(
    folder: Path, root: Path | None, mask_suffix: str | None
) -> tuple[list[Masked], bool]:
    """The images of a dataset with their masks; and whether each mask file is one instance.

    ``folder`` holds the masks, or samples, or has a folder of masks and one of images; ``root`` has
    the images, or such a folder; None: it is ``folder``, or the folder of images beside it.

    Raises:
        DatasetError: no masks, or several kinds of masks for the same images.
    """
    halves = _halves(folder)
    samples = [] if halves else [p for p in folder.iterdir() if (p / "images").is_dir()]
    if samples:
        return _of_samples(samples), True
    if root is None and folder.name.lower() in _OF_MASKS and _halves(folder.parent):
        root = folder.parent
    root = root or folder
    masked = _by_names(halves[1] if halves else folder, (_halves(root) or [root])[0], mask_suffix)
    return masked, any(len(masks) > 1 for _, masks in masked)


def _halves(folder: Path) -> tuple[Path, Path] | None:
    """The folders of images and of masks within one folder, by their usual names."""
    below = {p.name.lower(): p for p in folder.iterdir() if p.is_dir()}
    image = next((below[name] for name in _OF_IMAGES if name in below), None)
    mask = next((below[name] for name in _OF_MASKS if name in below), None)
    return (image, mask) if image and mask else None


def _of_samples(samples: Sequence[Path]) -> list[Masked]:
    """One image a sample folder, its masks from ``masks/*.png``."""
    images: list[Masked] = []
    for sample in sorted(samples, key=lambda p: natural_key(p.name)):
        found = list_images(sample / "images")
        if len(found) > 1:
            raise DatasetError(
                f"{sample / 'images'} has {len(found)} images; expected one, with its masks in "
                f"{sample / 'masks'}. If these are a dataset, state annotations: {sample}"
            )
        file_name = str(found[0] if found else sample / "images" / f"{sample.name}.png")
        masks = sorted((sample / "masks").glob("[!.]*.png"), key=lambda p: natural_key(p.name))
        problem = None if masks else Reason.IMAGE_WITHOUT_MASK_FILE
        images.append((RawImage(file_name, len(images) + 1, problem=problem), masks))
    return images


def _by_names(folder: Path, root: Path, mask_suffix: str | None) -> list[Masked]:
    """Every image below ``root`` with its masks below ``folder``, in natural order.

    A mask is named as its image, in the same sub-folder, but for a part that is the same for all
    ("_mask"; "_object_3" where only numbers differ), which images may have, too ("_leftImg8bit");
    or it lies in a folder that is named as the image. An image without a mask says so; a mask
    without an image gets one that is not on disk.
    """
    is_one = folder.resolve() == root.resolve()
    files = _files(root, folder)
    found = files if is_one else _files(folder, root)
    masks = {key: p for key, p in found if p.suffix.lower() == ".png"}
    masks = masks or {key: p for key, p in found if not is_one}
    if not masks:
        kinds = Counter(p.suffix.lower() for p in folder.rglob("*.*") if p.is_file())
        held = few([f"{n} of {kind}" for kind, n in kinds.most_common()], 4)
        raise DatasetError(
            f"{folder} has neither *.png masks nor sample folders with images/ and masks/ in them; "
            f"its files: {held or 'none'}. Masks of another kind have to be saved as PNG"
        )
    # Of two images of one name in one folder, the first; a mask only where it has that name alone.
    are_masks = set(masks.values())
    by_key = {
        key: p for last in (False, True) for key, p in files[::-1] if (p not in are_masks) == last
    }
    pairs, unread = _pair(by_key, masks, mask_suffix, folder)
    of_image: defaultdict[Path, list[Path]] = defaultdict(list)
    for mask, path in pairs.items():
        of_image[path].append(mask)
    keys = {p: key for key, p in files if p not in pairs and p not in unread}
    lost = {p: key for key, p in masks.items() if p not in pairs | unread | keys}
    unread_of = {path: mask for mask, path in unread.items()}
    hint = "" if pairs else f"the masks are named as {next(iter(masks.values())).name}"
    result: list[Masked] = []
    for path, _ in sorted((keys | lost).items(), key=lambda item: natural_key(item[1])):
        own = [path] if path in lost else of_image[path]
        unnamed = [m for m in own[:1] if path.stem not in (m.stem, m.parent.name)]
        image = RawImage(
            *(str(path.with_suffix("") if path in lost else path), len(result) + 1),
            problem=None if own else Reason.IMAGE_WITHOUT_MASK_FILE,
            note=f"of the mask {path.name}" if path in lost else hint,
            repairs=[(Reason.MASK_NAMED, mask.name) for mask in unnamed],
            doubts=[(Reason.MASK_NOT_READ, unread_of[p].name) for p in unread_of.keys() & {path}],
        )
        result.append((image, own))
    return result


def _files(folder: Path, other: Path) -> list[tuple[str, Path]]:
    """The images below a folder, but for those of ``other`` within it, each with its key."""
    within = os.path.relpath(other.resolve(), folder.resolve())
    skipped = folder if within.startswith(".") else folder / within
    return [
        (path.relative_to(folder).with_suffix("").as_posix(), path)
        for path in list_images(folder, recursive=True)
        if skipped == folder or not path.is_relative_to(skipped)
    ]


def _pair(images: Files, masks: Files, stated: str | None, folder: Path) -> tuple[Pairs, Pairs]:
    """The masks of the part of names that pairs most images; masks of images by other parts."""
    found: dict[str, Pairs] = {}
    for variant in _variants(images, masks):
        parts = _parts(*variant, stated)
        if _reach(parts) > _reach(found):
            found = parts
    if not found:
        return {}, {}
    best = max(found, key=lambda p: (_OBJECTS in p, len(set(found[p].values())), p == "*"))
    pairs = found.pop(best)
    known = {*pairs, *pairs.values()}  # beside its mask, an image may look like another's
    rest = {k: {m: i for m, i in more.items() if m not in known} for k, more in found.items()}
    rivals = [k for k in rest if 2 * len(set(rest[k].values())) >= len(set(pairs.values()))]
    if rivals and best != "*" and _OBJECTS not in best:
        suffix = best.partition("*")[2]
        raise DatasetError(
            f"{folder} has masks of several kinds for the same images, named as "
            f"{few([best, *rivals], 6)}. State which part follows the name of the image, as "
            f"mask_suffix: {suffix or '_mask'}; with a *, as _*, each of several files is one "
            "instance"
        )
    return pairs, {mask: image for more in rest.values() for mask, image in more.items()}


def _reach(parts: Mapping[str, Pairs]) -> int:
    """How many images the best part pairs."""
    return max((len(set(pairs.values())) for pairs in parts.values()), default=0)


def _variants(images: Files, masks: Files) -> Iterator[tuple[Files, Files]]:
    """The keys as they are; without what is the same in all names of images; without folders,
    where only one side has some."""
    yield images, masks
    names = [key.rpartition("/")[2] for key in images]
    if len(names) > 1:
        tail, head = (
            os.path.commonprefix([name[::step] for name in names])[::step]  # noqa: RUF071 - letters
            for step in (-1, 1)
        )
        head = head.rstrip("0123456789")
        if any(_glued(head, name[len(head) :]) for name in names):
            head = head[: len(head) - len(re.split(r"[^0-9A-Za-z]", head)[-1])]
        tails = [tail[match.start() :] for match in re.finditer(r"[^0-9A-Za-z]", tail)]
        for before, after in (*(("", tail) for tail in reversed(tails)), (head, "")):
            # A number that is the same in all may well be what distinguishes them from masks.
            if re.search(r"[A-Za-z]", before + after) and not re.search(
                r"(?<![A-Za-z0-9])[0-9]", before + after
            ):
                cut = {_without(key, before, after): path for key, path in images.items()}
                yield cut, masks
    if any("/" in key for key in images) != any("/" in key for key in masks):
        yield _by_name(images), _by_name(masks)


def _without(key: str, before: str, after: str) -> str:
    folder, slash, name = key.rpartition("/")
    return folder + slash + name[len(before) : len(name) - len(after)]


def _by_name(files: Files) -> Files:
    """Those whose name no other has, in any folder."""
    names = {key: key.rpartition("/")[2] for key in files}
    counts = Counter(names.values())
    return {name: files[key] for key, name in names.items() if counts[name] == 1}


def _parts(images: Files, masks: Files, stated: str | None) -> dict[str, Pairs]:
    """What masks' names have more than images' (``*``; numbers are ``#``) -> the pairs."""
    if stated is not None and Path(stated).suffix.lower() in IMAGE_SUFFIXES:
        stated = stated[: -len(Path(stated).suffix)]
    found: defaultdict[str, Pairs] = defaultdict(dict)
    for key, mask in masks.items():
        lead = key[: key.rfind("/") + 1]
        for stem, before, after in _splits(key[len(lead) :]):
            image = images.get(lead + stem)
            if image is None or image == mask:
                continue
            if stated is not None:
                if not before and fnmatchcase(after, stated):
                    found[f"*{stated}"][mask] = image
            elif not (_glued(before, stem) or _glued(stem, after)):
                found[f"{before}*{re.sub('[0-9]+', '#', after)}"][mask] = image
        if stated is None and lead[:-1] in images:
            found["*/"][mask] = images[lead[:-1]]
    return dict(found)


def _splits(name: str) -> Iterator[tuple[str, str, str]]:
    """All ways in which a mask's name may hold an image's: that, what is before, what after."""
    for k in range(1, len(name) + 1):
        yield name[:k], "", name[k:]
    for k in range(1, len(name)):
        yield name[k:], name[:k], ""


def _glued(before: str, after: str) -> bool:
    """Whether both are of one number or word: "im1" and "0", "cat" and "egory"."""
    ends, begins = before[-1:], after[:1]
    return (ends.isdigit() and begins.isdigit()) or (ends.islower() and begins.islower())
