from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from adcgan import load_named
from adcgan.data.imageset import ImageSet, Skipped


class Closed(HTMLParser):
    """Fails on elements that are not closed in order, and collects text and attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.said, self.attributes = [], [], []
        self.feed(html)
        assert self.open == []
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


def images(n=3, **changes):
    pixels = np.zeros((n, 1, 16, 16), np.uint8)
    names = [str(i) for i in range(n)]
    return ImageSet(images=pixels, names=names, positions=np.arange(n), **changes)


def test_a_set_shows_its_counts_classes_and_some_images():
    shown = Closed(load_named("digits", "test")._repr_html_())
    assert "ImageSet digits (test)" in shown.text
    assert "359 images of 16×16 pixels, grey" in shown.text
    assert "classes: 0 (36), 1 (36), 2 (35)" in shown.text
    (alt,) = [value for name, value in shown.attributes if name == "alt"]
    assert alt == "16 of the images, evenly spaced"


def test_what_could_not_be_read_is_counted_and_named_escaped():
    lost = [Skipped(3 + i, f"<b>{i}.png", "not & an image") for i in range(12)]
    shown = images(skipped=lost)._repr_html_()
    text = Closed(shown).text
    assert "12 could not be read" in text
    assert "<b>0.png : not & an image" in text
    assert "and 2 more" in text
    assert "<b>" not in shown


def test_a_set_shows_itself_without_another_file_and_stays_small():
    large = ImageSet(
        images=np.random.default_rng(0).integers(0, 256, (40, 3, 200, 200), np.uint8),
        names=[str(i) for i in range(40)],
        positions=np.arange(40),
    )
    shown = large._repr_html_()
    assert "40 images of 200×200 pixels, colour" in shown
    assert len(shown) < 400_000
    assert all(v.startswith("data:") for k, v in Closed(shown).attributes if k == "src")


def test_an_empty_set_and_one_of_many_classes_are_shown():
    assert "<img" not in images(0)._repr_html_()
    many = images(30, labels=np.arange(30))
    assert "9 (1) and 20 more" in Closed(many._repr_html_()).text
