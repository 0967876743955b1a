"""Networks side by side: cost, published accuracy, measured speed and memory, eager PyTorch against the fused ops.

``compare(["mobilenet_v2", "resnet50"], batches=(1, 8))`` yields a ``Row`` per network and batch size; the command
``cnnkernels compare`` prints, plots and stores them.
"""

from cnnkernels.compare.measure import Row, Settings, compare, select
from cnnkernels.compare.output import conditions, table, write_csv, write_json

__all__ = ["Row", "Settings", "compare", "conditions", "select", "table", "write_csv", "write_json"]
