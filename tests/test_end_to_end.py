"""YOLOX without NMS: the selector beside the published head, its loss, and what is left for NMS to remove."""

from __future__ import annotations

import pytest
import torch

from cnnkernels.detection import postprocess
from cnnkernels.detection.end_to_end_loss import EndToEndLoss
from cnnkernels.detection.losses import loss_for
from cnnkernels.detection.one_to_one import OneToOne
from cnnkernels.detection.yolox_loss import YOLOXLoss
from cnnkernels.models.yolox import YOLOX
from cnnkernels.models.yolox_end_to_end import YOLOXEndToEnd
from cnnkernels.nn import DecoupledHead
from cnnkernels.nn.end_to_end import EndToEndHead

from . import yolox_scenes
from .test_simota import CLASSES, SIZE, prepared

SMALL = {"depth": 0.33, "width": 0.25, "num_classes": CLASSES}


def of_selector(key):
    return key.startswith(("head.selectors.", "head.selector_preds."))


def pair(**kw):
    """The network with the selector, and the same one without."""
    torch.manual_seed(0)
    model, plain = YOLOXEndToEnd(**SMALL, **kw), YOLOX(**SMALL, **kw)
    plain.load_state_dict({key: t for key, t in model.state_dict().items() if not of_selector(key)})
    return model, plain


def test_the_published_keys_and_the_selectors():
    model, plain = pair()
    more = [key for key in model.state_dict() if key not in plain.state_dict()]
    assert more and all(of_selector(key) for key in more)
    assert not model.load_state_dict(plain.state_dict(), strict=False).unexpected_keys


@pytest.mark.parametrize("backend", [None, "reference"])
def test_the_selector_is_a_factor_of_the_objectness(backend):
    model, plain = (network.eval() for network in pair())
    model.backend = plain.backend = backend
    x = 255 * torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        found, wanted, raw = model(x), plain(x), model.raw(x)
    selected = torch.cat([level[:, -1].flatten(1) for level in raw], 1).sigmoid()
    torch.testing.assert_close(found[..., 4], wanted[..., 4] * selected)
    torch.testing.assert_close(found[..., :4], wanted[..., :4])
    torch.testing.assert_close(found[..., 5:], wanted[..., 5:])


def test_the_head_shares_the_children():
    torch.manual_seed(0)
    head = DecoupledHead([8, 16], 12, CLASSES)
    both = EndToEndHead(head)
    assert both.reg_preds is head.reg_preds
    maps = [torch.randn(1, 8, 8, 8), torch.randn(1, 16, 4, 4)]
    for with_selector, without in zip(both.eval()(maps), head.eval()(maps), strict=True):
        assert with_selector.shape[1] == without.shape[1] + 1
        torch.testing.assert_close(with_selector[:, :-1], without)


def test_the_selector_does_not_change_what_the_head_learns():
    model, plain = pair()
    targets = [t.float() for t in yolox_scenes.targets(2, 64, CLASSES)]
    x = 255 * torch.rand(2, 3, 64, 64)
    parts = loss_for(model)(model(x), targets)
    assert type(loss_for(model)) is EndToEndLoss and type(loss_for(plain)) is YOLOXLoss
    assert parts["selector"] > 0
    parts["loss"].backward()
    wanted = loss_for(plain)(plain(x), targets)
    wanted["loss"].backward()
    torch.testing.assert_close(parts["loss"] - parts["selector"], wanted["loss"])
    gradients = dict(plain.named_parameters())
    for key, parameter in model.named_parameters():
        if of_selector(key):
            assert parameter.grad.abs().max() > 0, key
        else:
            torch.testing.assert_close(parameter.grad, gradients[key].grad, rtol=1e-4, atol=1e-5)


# ---- the loss -----------------------------------------------------------------------------------------------------------


def scene(seed=0, most=4):
    torch.manual_seed(seed)
    targets = yolox_scenes.targets(2, SIZE, CLASSES, most)
    raw = yolox_scenes.outputs(targets, SIZE, CLASSES)
    return targets, [torch.cat((level, torch.randn_like(level[:, :1])), 1) for level in raw]


def test_the_definition():
    targets, raw = scene()
    parts = EndToEndLoss(CLASSES)(raw, targets)
    plain = YOLOXLoss(CLASSES)([level[:, :-1] for level in raw], targets)
    assert {key: parts[key] for key in ("box", "obj", "cls", "l1")} == {
        key: plain[key] for key in plain if key != "loss"
    }
    predictions, padded = prepared(targets, [level[:, :-1] for level in raw])
    rows = torch.cat([level.flatten(2) for level in raw], 2)
    scores = rows[:, 5:-1].sigmoid() * rows[:, 4:5].sigmoid() * rows[:, -1:].sigmoid()
    matches = OneToOne().match(scores, predictions, padded)
    labels = [int(targets[i][t, 0]) for i, t in zip(matches.image.tolist(), matches.target.tolist(), strict=True)]
    chosen = scores[matches.image, labels, matches.candidate]
    missed = -0.75 * scores**2 * torch.log1p(-scores)
    found = -0.25 * (1 - chosen) ** 2 * chosen.log()
    wanted = (missed.sum() - missed[matches.image, labels, matches.candidate].sum() + found.sum()) / len(matches)
    torch.testing.assert_close(parts["selector"], wanted)
    torch.testing.assert_close(parts["loss"], plain["loss"] + wanted)


def test_nothing_is_left_for_nms():
    """The head's logits say "object" in many cells; the selectors alone, trained by the loss, leave one of them each."""
    targets, raw = scene(3)
    head = [level[:, :-1].clone() for level in raw]
    for level in head:
        level[:, 4] = 4.0
        level[:, 5:] = -4.0
    predictions, padded = prepared(targets, head)
    many = YOLOXLoss(CLASSES).assigner(predictions, padded)
    for level, start in zip(head, (0, 256, 320), strict=True):
        size = level.shape[2] * level.shape[3]
        here = (many.candidate >= start) & (many.candidate < start + size)
        labels = padded.labels[many.image[here], many.target[here]]
        level.flatten(2)[many.image[here], 5 + labels, many.candidate[here] - start] = 4.0
    selectors = [torch.zeros_like(level[:, :1]).requires_grad_() for level in head]
    criterion, optimizer = EndToEndLoss(CLASSES), torch.optim.Adam(selectors, lr=0.2)
    model = YOLOXEndToEnd(**SMALL)

    def detected(iou_threshold):
        raw = [torch.cat(parts, 1).detach() for parts in zip(head, selectors, strict=True)]
        return postprocess(model.decode(raw).float(), iou_threshold=iou_threshold, kind="iou").counts.tolist()

    objects = [len(rows) for rows in targets]
    before = detected(1.0)
    for _ in range(80):
        optimizer.zero_grad()
        criterion([torch.cat(parts, 1) for parts in zip(head, selectors, strict=True)], targets)["loss"].backward()
        optimizer.step()
    assert sum(before) > 3 * sum(objects)
    assert detected(1.0) == objects  # without NMS: nothing overlaps by more than 1


def test_no_objects_and_bad_targets():
    targets, raw = scene()
    raw = [level.requires_grad_() for level in raw]
    parts = EndToEndLoss(CLASSES)(raw, [rows[:0] for rows in targets])
    assert parts["loss"].isfinite()
    for gradient in torch.autograd.grad(parts["loss"], raw):
        assert (gradient[:, -1] > 0).all() and (gradient[:, 4] > 0).all()
    targets[1][0, 3] = float("nan")
    with pytest.raises(ValueError, match="EndToEndLoss: targets of image 1 must be finite"):
        EndToEndLoss(CLASSES)(raw, targets)
