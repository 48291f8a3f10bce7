"""The methods: one file a paper, each a function that returns a `Plan`."""

from foveate.methods.anchorprune import anchorprune
from foveate.methods.cdpruner import cdpruner
from foveate.methods.clse import clse
from foveate.methods.crisp import crisp
from foveate.methods.dart import dart
from foveate.methods.divprune import divprune
from foveate.methods.eadp import eadp
from foveate.methods.evs import evs
from foveate.methods.fastervlm import fastervlm
from foveate.methods.fastv import fastv
from foveate.methods.feather import feather
from foveate.methods.gots import gots
from foveate.methods.hired import hired
from foveate.methods.holov import holov
from foveate.methods.mmtok import mmtok
from foveate.methods.pool import pool
from foveate.methods.priortr import priortr
from foveate.methods.prumerge import prumerge
from foveate.methods.psigmoid import psigmoid
from foveate.methods.pyramiddrop import pyramiddrop
from foveate.methods.random import random
from foveate.methods.registry import Method, find, method, parameters
from foveate.methods.resprune import resprune
from foveate.methods.scope import scope
from foveate.methods.sfpruner import sfpruner
from foveate.methods.sms import sms
from foveate.methods.sparsevlm import sparsevlm
from foveate.methods.sts import sts
from foveate.methods.tome import tome
from foveate.methods.tops import tops
from foveate.methods.trim import trim
from foveate.methods.uniform import uniform
from foveate.methods.vidcom2 import vidcom2
from foveate.methods.visionzip import visionzip
from foveate.methods.vispruner import vispruner
from foveate.methods.vtw import vtw

METHODS: dict[str, Method] = {
    # Baselines.
    "random": random,
    "uniform": uniform,
    "pool": pool,
    # Before the LLM, whatever is asked.
    "fastervlm": fastervlm,
    "divprune": divprune,
    "visionzip": visionzip,
    "prumerge": prumerge,
    "vispruner": vispruner,
    "holov": holov,
    "hired": hired,
    "scope": scope,
    "gots": gots,
    "tome": tome,
    "sts": sts,
    # Before the LLM, by the question too.
    "cdpruner": cdpruner,
    "trim": trim,
    "mmtok": mmtok,
    "resprune": resprune,
    "anchorprune": anchorprune,
    "eadp": eadp,
    "sfpruner": sfpruner,
    "crisp": crisp,
    # Inside the LLM.
    "fastv": fastv,
    "pyramiddrop": pyramiddrop,
    "sparsevlm": sparsevlm,
    "dart": dart,
    "feather": feather,
    "priortr": priortr,
    "clse": clse,
    "vtw": vtw,
    # Both.
    "tops": tops,
    "sms": sms,
    "psigmoid": psigmoid,
    # Videos.
    "evs": evs,
    "vidcom2": vidcom2,
}
"""Name to function. All take `keep`; those that place cuts by the depth of the LLM also take `depth`, its layers."""

__all__ = ["METHODS", "Method", "find", "method", "parameters"]
