from tests.networks.case import Case

CASES = [Case("mobilenext", None)]
