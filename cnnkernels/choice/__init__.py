"""Which backend an op takes for arguments of a shape, where one was measured to be faster than the default.

    key      what of a call's arguments a measurement is kept under
    table    measurements as a file: JSON with a header that says where they hold
    files    where the user's tables are; reading and writing them
    store    what is known in this process: the tables shipped with the package, then the user's own
    measure  candidates timed against each other
    chooser  one op's answers on one device

``cnnkernels.tune`` and ``cnnkernels.tuning`` measure; every other call only looks up, and only for ops that have a choice
other than the default on that device.
"""
