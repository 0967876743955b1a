"""Activations as modules, by name."""

import pytest
from torch import nn

from cnnkernels.nn import Activation, Mish, create_activation

from .nn_oracle import ACTS, close, image


@pytest.mark.parametrize("name", ACTS)
def test_activation_modules(name):
    x = image()
    close(create_activation(name)(x), Activation(name)(x), 1e-5)
    if name != "identity":
        assert type(create_activation(name)).__module__.startswith(("torch.nn", "cnnkernels.nn"))


def test_mish_and_unknown_names():
    close(Mish()(image()), nn.functional.mish(image()), 1e-5)
    assert isinstance(create_activation("mish"), Mish)
    with pytest.raises(ValueError, match="create_activation: name must be one of"):
        create_activation("swishy")
