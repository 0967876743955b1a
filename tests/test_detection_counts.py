"""Every detector and pose network that ``create_model`` knows: published counts.  Nothing is computed (meta device)."""

import csv
import pathlib

import pytest
import torch

from cnnkernels.models import create_model, list_models, model_entry
from cnnkernels.models.cost import cost

NAMES = [*list_models(task="detection"), *list_models(task="pose")]
ROWS = list(csv.DictReader((pathlib.Path(__file__).parent / "networks/detection_counts.csv").open()))


def test_every_network_has_one_row():
    assert sorted(row["name"] for row in ROWS) == sorted(NAMES)


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_published_counts(row):
    """Parameters, multiply-adds at the published size (256, or 256x192 for height x width), keys of a checkpoint."""
    height, width = model_entry(row["name"]).image_size
    assert row["input"] == (str(height) if height == width else f"{height}x{width}")
    with torch.device("meta"):
        model = create_model(row["name"])
    counted = cost(model, (1, 3, height, width))
    assert (counted.parameters, counted.macs) == (int(row["parameters"]), int(row["macs"]))
    assert len(model.state_dict()) == int(row["keys"])
