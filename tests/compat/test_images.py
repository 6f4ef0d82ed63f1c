"""Pictures are read upright by everything that reads pixels: all orientations, all forms, and what can be wrong with them."""
import numpy as np
import pytest
from PIL import Image, ImageOps

from ovdense.compat.images import load_image, orientation, read_upright, stored_size_note, upright_size
from ovdense.data.described import _size_of
from ovdense.data.segmentation import image_size
from ovdense.data.transforms import read_image
from ovdense.interchange.files import image_size as size_of_annotated

PIXELS = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3) // 3
FORMS = {"jpg": dict(quality=95), "png": {}, "webp": dict(lossless=True), "tiff": {}}


def turned(path, turn: int, **how):
    """Write a picture of 8 x 16 whose EXIF says `turn`; return what viewers show."""
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(PIXELS).save(path, exif=exif, **how)
    with Image.open(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("turn", range(1, 9))
def test_upright__every_reader_sees_what_viewers_show(tmp_path, form, turn):
    path = tmp_path / f"a.{form}"
    shown = turned(path, turn, **FORMS[form])
    assert shown.shape == ((16, 8, 3) if turn > 4 else (8, 16, 3))
    with Image.open(path) as picture:
        readings = [read_upright(path), read_image(str(path)), load_image(path), load_image(picture)]
    assert all(np.array_equal(r, shown) for r in readings)
    assert upright_size(path) == image_size(path) == size_of_annotated(path) == _size_of(path, path) == shown.shape[:2]


def test_upright_size__of_a_png_whose_orientation_stands_after_its_pixels(tmp_path):
    turned(tmp_path / "a.png", 6)
    content = (tmp_path / "a.png").read_bytes()
    at = content.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(content[at : at + 4], "big")
    (tmp_path / "b.png").write_bytes(content[:at] + content[end:-12] + content[at:end] + content[-12:])
    assert upright_size(tmp_path / "b.png") == read_upright(tmp_path / "b.png").shape[:2] == (16, 8)
    (tmp_path / "c.png").write_bytes(content[:at] + content[end:])
    assert upright_size(tmp_path / "c.png") == (8, 16)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_orientation__that_says_nothing_is_none(tmp_path):
    for value in (0, 9, 300):
        assert np.array_equal(turned(tmp_path / "a.png", value), PIXELS)
        assert np.array_equal(read_upright(tmp_path / "a.png"), PIXELS)
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_upright(tmp_path / "a.jpg").shape == (8, 16, 3) and upright_size(tmp_path / "a.jpg") == (8, 16)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert orientation(picture) == 1


def test_note__only_where_the_stored_size_fits(tmp_path):
    turned(tmp_path / "a.jpg", 6)
    assert "EXIF orientation is 6" in stored_size_note(tmp_path / "a.jpg", (8, 16))
    assert stored_size_note(tmp_path / "a.jpg", (9, 16)) == stored_size_note(tmp_path / "a.jpg", (16, 8)) == ""


@pytest.mark.parametrize(("pixels", "white"), [
    (np.full((4, 6), 200, np.uint16), 200), (np.full((4, 6), 51200, np.uint16), 200), (np.full((4, 6), 51200, np.int32), 200),
    (np.full((4, 6), 70000, np.int32), None), (np.full((4, 6), -1, np.int32), None), (np.full((4, 6), 0.8, np.float32), None),
], ids=["8 bits in 16", "16 bits", "16 bits in 32", "more than 16 bits", "negative", "floats"])  # fmt: skip
def test_pixels__of_which_nothing_says_what_is_white_are_refused(tmp_path, pixels, white):
    """Floats from 0 to 1 would be a black picture, without a word."""
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    for read in (read_upright, read_image, load_image, lambda path: load_image(Image.open(path))):
        if white is None:
            with pytest.raises(ValueError, match="pixels must be whole numbers of 8 or 16 bits, got .*; convert the image first$"):
                read(tmp_path / "a.tif")
        else:
            assert (read(tmp_path / "a.tif") == white).all()
