"""How near each layer of a network comes to what this CPU can do: ``cnnkernels bench --roofline``.

Williams, Waterman, Patterson 2009, "Roofline: An Insightful Visual Performance Model for Multicore Architectures", CACM 52(4).

    ceilings   what the machine can do, measured: multiply-adds on registers, copies of every size, one call
    layers     what a network consists of, and what each layer has to compute and to move
    measure    the time of each layer, and what bounds it
    output     as a table, as JSON;   plot: as a picture
"""

from cnnkernels.roofline.ceilings import Ceilings
from cnnkernels.roofline.layers import Layer, layers_of
from cnnkernels.roofline.measure import Result, Row, profile

__all__ = ["Ceilings", "Layer", "Result", "Row", "layers_of", "profile"]
