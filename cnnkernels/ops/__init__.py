"""The ops: one file each, which is the op's whole contract."""

from cnnkernels.ops.activation import activation, mish

__all__ = ["activation", "mish"]
