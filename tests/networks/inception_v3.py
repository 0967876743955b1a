import torch
from torch import nn

from tests.networks.case import Case
from tests.oracles import torchvision_model

INPUTS = {
    "5b": 192,
    "5c": 256,
    "5d": 288,
    "6a": 288,
    **dict.fromkeys(("6b", "6c", "6d", "6e", "7a"), 768),
    "7b": 1280,
    "7c": 2048,
}


def inception():
    return torchvision_model("inception_v3", aux_logits=False, init_weights=False, dropout=0.0)


class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        hidden = channels // 16
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False)
        )

    def forward(self, x):
        return x * torch.sigmoid(self.fc(x.mean((2, 3))))[:, :, None, None]


def se_inception():
    """torchvision's network, and before each block a gate as the paper on SENet has it."""
    model = inception()
    for name, channels in INPUTS.items():
        block = model.get_submodule(f"Mixed_{name}")
        block.SELayer = Gate(channels)
        block.register_forward_pre_hook(lambda block, inputs: block.SELayer(*inputs))
    return model


CASES = [
    Case("inception_v3", inception, odd=(97, 139), step_size=96, ops=frozenset({"bn_act_train"})),
    Case(
        "se_inception_v3", se_inception, odd=(97, 139), step_size=96, ops=frozenset({"bn_act_train", "squeeze_excite"})
    ),
]
