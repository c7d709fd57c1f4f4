"""The decoder of pictures: what comes out is right, or the picture is refused in one line."""

import numpy as np
import pytest
from PIL import Image

from stillhouse.core.errors import DataError
from stillhouse.modalities.images.ingest.pictures import decode, encode_png, quiet, read_picture
from stillhouse.modalities.images.ingest.threads import in_order
from tests.helpers.imaging import COLOUR, GREY, encoded, raw_png

FORMS = {
    "png": ("PNG", {}), "jpeg": ("JPEG", {}), "progressive": ("JPEG", {"progressive": True}), "bmp": ("BMP", {}),
    "gif": ("GIF", {}), "webp": ("WEBP", {"lossless": True}), "lossy": ("WEBP", {}), "tiff": ("TIFF", {}),
    "lzw": ("TIFF", {"compression": "tiff_lzw"}), "ppm": ("PPM", {}),
}  # fmt: skip
EXACT = ("png", "bmp", "webp", "tiff", "lzw", "ppm")


def pixels(data: bytes, colour=None) -> list:
    return np.asarray(decode(data, "x", colour)).tolist()


def outcome(data: bytes) -> list | str:
    """The pixels, or that the picture is refused in one line."""
    try:
        return pixels(data)
    except DataError as error:
        return "refused" if str(error).startswith("x is ") and "\n" not in str(error) else str(error)


@pytest.mark.parametrize("form", EXACT)
def test_a_picture_is_the_same_in_every_format_without_loss(form):
    name, options = FORMS[form]
    assert pixels(encoded(GREY, name, **options)) == GREY.tolist()
    assert pixels(encoded(COLOUR, name, **options)) == COLOUR.tolist()


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_ends_too_early_is_refused_wherever_it_ends(form, capfd):
    name, options = FORMS[form]
    for picture in (GREY, COLOUR):
        data = encoded(picture, name, **options)
        whole = pixels(data)
        for end in range(len(data)):
            # The end of a file may say nothing; then what is before it is the picture.
            assert outcome(data[:end]) in (whole, "refused")
        with pytest.raises(DataError, match=r"^x is damaged or not whole \(.+\); fetch it again$"):
            decode(data[: len(data) // 2], "x")


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_flipped_bits_end_in_one_line_and_never_in_another_picture_where_the_format_can_tell(form, capfd):
    data = bytearray(encoded(COLOUR, "PNG") if form == "png" else encoded(COLOUR, "TIFF"))
    for place in range(len(data)):
        data[place] ^= 16
        found = outcome(bytes(data))
        assert form != "png" or found in (COLOUR.tolist(), "refused")
        data[place] ^= 16


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"^x is empty \(0 bytes\); expected a picture$"),
        (
            b"<!DOCTYPE html>",
            r"^x is not a picture \(it begins with b'<!DOCTYPE ht'\); expected PNG, JPEG, BMP, GIF, WebP, TIFF or",
        ),
        (b"%PDF-1.4 and so on", r"^x is not a picture \(it begins with b'%PDF-1\.4 and'\)"),
        (b"version https://git-lfs.github.com/spec/v1", r"^x is not a picture \(it begins with b'version http'\)"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_first_bytes(data, message):
    with pytest.raises(DataError, match=message):
        decode(data, "x")


def test_a_picture_of_more_pixels_than_allowed_is_refused_by_its_header():
    data = encoded(np.zeros((30, 40), np.uint8))
    assert decode(data, "x", max_pixels=1200).size == (40, 30)
    with pytest.raises(
        DataError, match=r"^x has 40 x 30 pixels, more than 'max_pixels' \(1,199\); make it smaller, or raise the"
    ):
        decode(data, "x", max_pixels=1199)
    # A bomb: nothing behind the header is read.
    with quiet(), pytest.raises(DataError, match=r"^x has 10000 x 10000 pixels, more than 'max_pixels' \(50,000,000\)"):
        decode(raw_png(10_000, 10_000, 8, 0, b"\0"), "x", max_pixels=50_000_000)
    with pytest.raises(DataError, match=r"^x has more than 178,000,000 pixels; expected a smaller picture$"):
        decode(raw_png(60_000, 60_000, 8, 0, b"\0"), "x")


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_or_pages_are_refused(form):
    first = Image.fromarray(COLOUR)
    data = encoded(first, form, save_all=True, append_images=[first.rotate(180)])
    what = "pages" if form == "TIFF" else "frames"
    with pytest.raises(DataError, match=rf"^x has 2 {what}, and a row is one picture; save the one that is meant by itself$"):
        decode(data, "x")
    assert decode(encoded(first, form, save_all=True), "x").size == (5, 4)


def test_the_preview_behind_a_photograph_is_no_second_frame():
    data = encoded(Image.fromarray(COLOUR), "MPO", save_all=True, append_images=[Image.fromarray(GREY)])
    assert decode(data, "x").size == (5, 4)


@pytest.mark.parametrize(
    "data",
    [
        encoded(GREY.astype(np.uint16) * 200), encoded(GREY.astype(np.uint16) * 200, "TIFF"),
        encoded(GREY.astype(np.int32), "TIFF"), encoded(GREY.astype(np.float32), "TIFF"),
        raw_png(1, 1, 16, 4, b"\0\xff\xff\x80\0"), b"P5 2 1 65535\n\0\0\1\1",
    ],
    ids=["png", "tiff", "int", "float", "alpha", "pgm"],
)  # fmt: skip
def test_grey_of_more_than_8_bits_is_refused(data):
    with pytest.raises(
        DataError, match=r"^x is grey with more than 8 bits, and which range of them is meant is not known; scale it"
    ):
        decode(data, "x")


def test_colours_of_16_bits_keep_their_high_8():
    assert pixels(raw_png(1, 1, 16, 2, b"\0\xff\xff\x80\0\0\xff")) == [[[255, 128, 0]]]


@pytest.mark.parametrize(("bits", "row", "wanted"), [(1, 0b10100000, [255, 0, 255]), (2, 0b00011011, [0, 85, 170])])
def test_grey_of_fewer_bits_is_stretched_to_8(bits, row, wanted):
    assert pixels(raw_png(3, 1, bits, 0, bytes([0, row]))) == [wanted]


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_is_refused(form):
    with pytest.raises(
        DataError, match=r"^x is CMYK, whose colours depend on a printer's profile; convert it to sRGB and save it"
    ):
        decode(encoded(Image.fromarray(COLOUR).convert("CMYK"), form), "x")


def test_other_colours_are_refused_by_their_name():
    with pytest.raises(DataError, match=r"^x has colours of mode LAB; save it as grey or RGB with 8 bits a channel$"):
        decode(encoded(Image.fromarray(COLOUR).convert("LAB"), "TIFF"), "x")


def test_colours_of_a_palette_are_those_that_it_means():
    paletted = Image.fromarray(COLOUR).quantize(20)
    assert pixels(encoded(paletted)) == np.asarray(paletted.convert("RGB")).tolist()
    assert pixels(encoded(paletted, "GIF")) == np.asarray(paletted.convert("RGB")).tolist()


def test_a_picture_without_colour_is_grey_however_it_is_stored():
    image = Image.fromarray(GREY)
    for data in (
        encoded(image.convert("RGB")),
        encoded(image.convert("P")),
        encoded(image, "GIF"),
        encoded(image.convert("RGBA")),
    ):
        found = read_picture(data, "x")
        assert (found.image.mode, np.asarray(found.image).tolist()) == ("L", GREY.tolist())
    # One pixel of colour, outside of the row that is looked at first.
    image = image.convert("RGB")
    image.putpixel((0, 0), (1, 0, 0))
    assert decode(encoded(image), "x").mode == "RGB"


def test_the_caller_chooses_grey_or_colour():
    assert decode(encoded(COLOUR), "x", "grey").mode == "L"
    assert pixels(encoded(COLOUR), "grey") == np.asarray(Image.fromarray(COLOUR).convert("L")).tolist()
    assert pixels(encoded(GREY), "rgb") == np.dstack([GREY] * 3).tolist()


# ---- transparency ----


def test_transparent_pixels_are_laid_on_white_and_said():
    image = Image.fromarray(COLOUR).convert("RGBA")
    assert not read_picture(encoded(image), "x").transparent, "an alpha that hides nothing is none"
    image.putpixel((0, 0), (10, 20, 30, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    found = read_picture(encoded(image), "x")
    assert found.transparent
    assert found.image.mode == "RGB"
    assert found.image.getpixel((0, 0)) == (255, 255, 255)
    assert found.image.getpixel((1, 0)) == (127, 127, 127)
    assert np.asarray(found.image)[1:].tolist() == COLOUR[1:].tolist()


def test_transparent_grey_and_palettes_are_laid_on_white_too():
    grey = Image.fromarray(GREY)
    assert pixels(encoded(grey, transparency=10))[0] == [0, 255, 20, 30, 40]
    both = Image.merge("LA", [grey, Image.fromarray((GREY > 0).astype(np.uint8) * 255)])
    assert pixels(encoded(both))[0] == [255, 10, 20, 30, 40]
    paletted = Image.fromarray(COLOUR).quantize(20)
    hidden = paletted.getpixel((0, 0))
    for form in ("PNG", "GIF"):
        found = read_picture(encoded(paletted, form, transparency=hidden), "x")
        assert found.transparent
        assert found.image.getpixel((0, 0)) == (255, 255, 255)


# ---- orientation ----


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(form, orientation):
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8] = 255
    # How the camera stored it: the inverse of what a viewer does.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T, 6: np.rot90(upright),
        7: np.rot90(upright, 2).T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encoded(np.ascontiguousarray(stored), form, exif=exif), "x")
    assert np.abs(np.asarray(found).astype(int) - upright).max() < 20


def test_damaged_exif_says_nothing_of_the_pixels():
    data = encoded(GREY, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + b"\xff" * 12)
    with quiet():
        assert decode(data, "x").size == (5, 4)


def test_pixels_become_a_file_and_back():
    assert pixels(encode_png(GREY)) == GREY.tolist()
    assert pixels(encode_png(COLOUR)) == COLOUR.tolist()


# ---- threads ----


def test_results_come_in_the_order_of_the_items_and_an_error_ends_them():
    assert [*in_order(lambda number: number * number, range(100))] == [number * number for number in range(100)]
    assert [*in_order(str, [])] == []
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    with pytest.raises(ZeroDivisionError, match="division"):
        [*in_order(lambda number: 1 // (5 - number), items())]
    assert len(taken) < 200, "the rest is not asked for"
