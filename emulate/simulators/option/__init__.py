"""Options under Black and Scholes: vanilla and digital pay-offs by Monte Carlo, with every price and Greek in closed form."""

from emulate.simulators.option.simulator import Option

__all__ = ["Option"]
