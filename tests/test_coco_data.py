"""COCO data: what is read, clipped, dropped and refused; pictures of every kind as RGB."""

import io
import json

import numpy as np
import pytest

pytest.importorskip("PIL", reason="pip install pillow")

from PIL import Image

from cnnkernels.detection.data import CocoData
from cnnkernels.detection.images import read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_rgb_is_left_as_it_is(tmp_path):
    content = encoded(Image.fromarray(PIXELS))
    (tmp_path / "a.png").write_bytes(content)
    for source in (content, tmp_path / "a.png", str(tmp_path / "a.png")):
        image = read_image(source)
        assert image.dtype == np.uint8 and np.array_equal(image, PIXELS)
        image[0] = 0  # and may be written to


def test_grey():
    grey = PIXELS[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(read_image(encoded(Image.fromarray(grey))), expected)
    black_and_white = Image.fromarray(grey > 99)
    assert np.array_equal(read_image(encoded(black_and_white)), np.where(grey > 99, 255, 0)[..., None].repeat(3, 2))


def test_sixteen_bits():
    deep = PIXELS[..., 0].astype(np.uint16) * 256 + 7
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(read_image(encoded(Image.fromarray(deep), kind)), PIXELS[..., :1].repeat(3, 2))


def test_transparent_parts_are_white():
    alpha = np.zeros((20, 30), np.uint8)
    alpha[:, 15:] = 255
    expected = np.where(alpha[..., None] == 255, PIXELS, 255)
    assert np.array_equal(read_image(encoded(Image.fromarray(np.dstack([PIXELS, alpha])))), expected)
    half = np.dstack([PIXELS, np.full_like(alpha, 51)])
    mixed = read_image(encoded(Image.fromarray(half)))
    np.testing.assert_allclose(mixed, PIXELS * 0.2 + 255 * 0.8, atol=0.5001)
    grey = np.where(alpha == 255, PIXELS[..., 0], 255)
    picture = Image.fromarray(np.dstack([PIXELS[..., 0], alpha]))
    assert picture.mode == "LA" and np.array_equal(read_image(encoded(picture)), grey[..., None].repeat(3, 2))


def test_palette():
    colours = np.array([[255, 0, 0], [0, 200, 0], [9, 8, 7]], np.uint8)
    indices = PIXELS[..., 0] % 3
    picture = Image.fromarray(indices, "P")
    picture.putpalette(colours.tobytes())
    assert np.array_equal(read_image(encoded(picture)), colours[indices])
    see_through = read_image(encoded(picture, transparency=1))
    assert np.array_equal(see_through, np.where(indices[..., None] == 1, 255, colours[indices]))


def test_cmyk_and_animation():
    assert read_image(encoded(Image.fromarray(PIXELS).convert("CMYK"), "TIFF")).shape == PIXELS.shape
    frames = [Image.fromarray(np.full((4, 5), value, np.uint8)) for value in (10, 200)]
    first = read_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert first.shape == (4, 5, 3) and (first == 10).all()


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(1, PIXELS), (3, PIXELS[::-1, ::-1]), (6, np.rot90(PIXELS, -1)), (8, np.rot90(PIXELS)), (2, PIXELS[:, ::-1])],
)
def test_exif_orientation(orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read_image(encoded(Image.fromarray(PIXELS), exif=exif)), turned)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_truncated(kind, tmp_path):
    content = encoded(Image.fromarray(PIXELS), kind)
    assert read_image(content).shape == PIXELS.shape
    for share in (0.0, 0.1, 0.5, 0.9):
        (tmp_path / "cut.bin").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match=r"cut\.bin: no picture that can be read"):
            read_image(tmp_path / "cut.bin")


def test_not_pictures(tmp_path):
    with pytest.raises(ValueError, match=r"upload 7: no picture"):
        read_image(b"hello", "upload 7")
    with pytest.raises(ValueError, match="floating-point"):
        read_image(encoded(Image.fromarray(PIXELS[..., 0].astype(np.float32)), "TIFF"))
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(OSError):
        read_image(tmp_path)


# ---- data ------------------------------------------------------------------------------------------------------------


def coco(boxes=((1, [2, 3, 10, 8]),), **changes):
    """One 30 x 20 picture a.png with boxes (category, xywh), one b.png without."""
    return {
        "images": [{"id": i, "file_name": f"{n}.png", "height": 20, "width": 30} for i, n in ((7, "a"), (5, "b"))],
        "annotations": [
            {"id": k, "image_id": 7, "category_id": category, "bbox": list(box)}
            for k, (category, box) in enumerate(boxes)
        ],
        "categories": [{"id": 9, "name": "cat"}, {"id": 1, "name": "dog"}],
        **changes,
    }


@pytest.fixture
def data(tmp_path):
    """Called with the JSON's content: the data set."""
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(encoded(Image.fromarray(PIXELS)))

    def read(content=None, **options):
        path = tmp_path / "instances.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content or coco()))
        return CocoData(path, tmp_path, **options)

    return read


def test_samples(data):
    found = data(coco([(9, [2, 3, 10, 8]), (1, [0, 0, 30, 20])]))
    image, boxes, labels = found[0]
    assert np.array_equal(image, PIXELS)
    assert boxes.tolist() == [[2, 3, 12, 11], [0, 0, 30, 20]] and boxes.dtype == np.float32
    assert labels.tolist() == [1, 0] and found.names == ("dog", "cat") and found.category_ids == (1, 9)
    assert found[0].target().tolist() == [[1, 2, 3, 12, 11], [0, 0, 0, 30, 20]]
    assert len(found) == 2 and found.image_id(0) == 7 and found.num_classes == 2
    assert found[1].boxes.shape == (0, 4) and found[1].labels.shape == (0,) and found[1].target().shape == (0, 5)
    np.testing.assert_allclose(found.sides(), [[10 / 30, 8 / 30], [1, 20 / 30]], rtol=1e-6)


def test_boxes_are_clipped_and_empty_ones_dropped(data):
    found = data(
        coco(
            [
                (1, [-5, -6, 10, 10]),
                (1, [25.5, 15, 100, 100]),
                (1, [30, 0, 5, 5]),  # beside the picture
                (1, [3, 3, 0, 5]),
                (1, [3, 3, 5, -2]),
            ]
        )
    )
    assert found[0].boxes.tolist() == [[0, 0, 5, 4], [25.5, 15, 30, 20]]
    assert found.dropped == {"empty": 3, "crowd": 0}


def test_crowds_are_left_out(data):
    content = coco([(1, [2, 3, 10, 8]), (1, [0, 0, 20, 20])])
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"][1]["segmentation"] = {"counts": [], "size": [20, 30]}
    found = data(content)
    assert found[0].boxes.tolist() == [[2, 3, 12, 11]] and found.dropped == {"empty": 0, "crowd": 1}


def test_missing_picture(data, tmp_path):
    (tmp_path / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 pictures are missing: b\.png"):
        data()
    with pytest.warns(UserWarning, match=r"1 pictures left out: .*b\.png"):
        found = data(bad="skip")
    assert len(found) == 1 and list(found.left_out) == ["b.png"] and found.image_id(0) == 7


def test_truncated_and_wrong_sized_pictures(data, tmp_path):
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    (tmp_path / "b.png").write_bytes(encoded(Image.fromarray(PIXELS[:10])))
    found = data()
    with pytest.raises(ValueError, match=r"a\.png: no picture that can be read"):
        found[0]
    with pytest.raises(ValueError, match=r"b\.png: 30 x 10 pixels, where instances\.json says 30 x 20"):
        found[1]
    with (
        pytest.raises(ValueError, match="no picture can be used"),
        pytest.warns(UserWarning, match="2 pictures left out"),
    ):
        data(bad="skip")


BROKEN = {
    "no JSON": '{"images": [',
    "holds an object, got list": "[]",
    "images must be a list, got NoneType": coco(images=None),
    "no classes": coco([], categories=[]),
    "no pictures": coco([], images=[]),
    "its id comes twice": coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]),
    "name must be str": coco(categories=[{"id": 1, "name": 3}]),
    "id must be int, got True": coco(categories=[{"id": True, "name": "a"}]),
    "file_name must be str, got None": coco(images=[{"id": 7, "height": 3, "width": 3}]),
    "images, id 7: height and width must be positive": coco(
        images=[{"id": 7, "file_name": "a.png", "height": 0, "width": 3}]
    ),
    "annotations, id 0: unknown category_id": coco([(2, [0, 0, 1, 1])]),
    "annotations, id 4: unknown image_id": coco(
        annotations=[{"id": 4, "image_id": 8, "category_id": 1, "bbox": [0, 0, 1, 1]}]
    ),
    "annotations, id 0: bbox must be four finite numbers": coco([(1, [0, 0, 1])]),
    "four finite numbers, got .0, nan": coco([(1, [0, float("nan"), 1, 1])]),
    "four finite numbers, got .0, 0, inf": coco([(1, [0, 0, float("inf"), 1])]),
    "four finite numbers, got .'0'": coco([(1, ["0", 0, 1, 1])]),
    "annotations, id 3: must be an object": coco(annotations=[3]),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_files(data, message):
    with pytest.raises(ValueError, match=rf"instances\.json: .*{message}"):
        data(BROKEN[message])


def test_other_errors(tmp_path, data):
    with pytest.raises(FileNotFoundError):
        CocoData.split(tmp_path, "val")
    with pytest.raises(ValueError, match="bad must be"):
        data(bad="ignore")
