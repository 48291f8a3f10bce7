"""vLLM serves with fewer image tokens: a plugin for a stock vLLM, which does nothing until a plan is set.

    vllm serve MODEL --hf-overrides '{"foveate": {"method": "divprune", "keep": 0.222}}'

The front end writes as many placeholders as tokens will stay (`processor`), the worker chooses which (`worker`), and
kept tokens hold the positions they had (`positions`). A request may ask for another plan or for a budget of its own
(`settings`). docs/serving.md says what works, and on which versions.
"""

import logging

__all__ = ["register"]


def register() -> None:
    """Entry point of `vllm.general_plugins`: runs in every process of vLLM, and perhaps more than once in one.

    An exception here would stop every vLLM on the machine, so whatever this vLLM lacks is only logged. `foveate serve`
    sees from the answers whether the plan is in force.
    """
    try:
        from foveate.engines.vllm.hook import install

        install()
    except Exception:
        logging.getLogger("vllm.foveate").exception("Foveate cannot hook into this vLLM; plans will have no effect")
