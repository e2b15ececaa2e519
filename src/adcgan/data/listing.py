"""Lists of images with what is known of each: whether it is normal, its defect, its mask."""

from __future__ import annotations

from dataclasses import dataclass, replace

from adcgan.data.folder import FoundFile


@dataclass(frozen=True)
class ListedImage:
    """An image file and what is known of it.

    Parameters
    ----------
    file : FoundFile
        What to read.
    label : int or None
        0 normal, 1 anomalous; None if unknown.
    type : str or None
        The kind of defect.
    mask : str or None
        The path of an image that marks the defective pixels.
    split : {"train", "test"} or None
        What the image is for; None for either.
    """

    file: FoundFile
    label: int | None = None
    type: str | None = None
    mask: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Listing:
    """Image files, in order; `adcgan.load_images` reads them.

    Parameters
    ----------
    source : str
        The data, as a person would name it.
    images : list of ListedImage
        The files.
    with_masks : bool
        Whether such data has masks, though some or all may be missing.
    note : str
        One line for people: which of the data these images are, and why.
    """

    source: str
    images: list[ListedImage]
    with_masks: bool = False
    note: str = ""

    def train(self) -> Listing:
        """Return what to learn from: images that are not for testing and not called anomalous."""
        kept = [item for item in self.images if item.split != "test" and item.label != 1]
        return replace(self, images=kept)

    def test(self) -> Listing:
        """Return what to judge a detector on: images that are not for training."""
        return replace(self, images=[item for item in self.images if item.split != "train"])
