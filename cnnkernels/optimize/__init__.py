"""``cnnkernels.optimize(model, example)``: somebody's network on the fused ops, verified, measured, and reversible."""

from cnnkernels.optimize.api import optimize
from cnnkernels.optimize.model import restore
from cnnkernels.optimize.report import Entry, Report

__all__ = ["Entry", "Report", "optimize", "restore"]
