"""What must hold between the parts of a program that was read from data, before anything of it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Node

from hcompile.checks import check_int, shown
from hcompile.operator import attention
from hcompile.patterns.linear import FEATURES
from hcompile.program import SITE_META, Program
from hcompile.refit_operator import refit_linear
from hcompile.site import Site

_ARGUMENTS = tuple(argument.name for argument in attention._schema.arguments)
_DEFAULTS = (None,) * len(_ARGUMENTS)


def check_program(program: Program) -> None:
    """Raise ValueError unless inputs, outputs, sites, plan and guards fit the graph.

    Kernels read memory as the sites and parameters say, so these must be true of the nodes they stand for.
    """
    placeholders = [str(node.target) for node in program.graph.graph.find_nodes(op="placeholder")]
    names = [spec.name for spec in program.inputs]
    if placeholders != names:
        raise ValueError(f"the graph takes {shown(placeholders)}, its inputs are {shown(names)}")
    outputs: Any = program.graph.graph.output_node().args[0]
    positional, keyword = program.input_tree
    if not isinstance(positional, list) or not isinstance(keyword, dict):
        raise ValueError(f"input tree {shown(program.input_tree)} is no pair of a list and an object")
    for kind, tree, count in (
        ("input", program.input_tree, len(names)),
        ("output", program.output_tree, len(outputs)),
    ):
        if sorted(_leaves(tree)) != list(range(count)):
            raise ValueError(f"{kind} tree {shown(tree)} does not hold each of {count} {kind}s once")
    for symbol, (low, high) in program.dims.items():
        check_int(f"least size of {symbol}", low)
        if high is not None:
            check_int(f"largest size of {symbol}", high, low)
    for guard in program.guards:
        if guard.input not in names:
            raise ValueError(f"a guard speaks of {guard.input!r}, which is no input")
    _check_sites(program)
    _check_refits(program)


def _leaves(tree: Any) -> Iterator[int]:
    if isinstance(tree, (list, dict)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(branch)
    elif type(tree) is int:
        yield tree
    else:
        raise ValueError(f"a tree holds {shown(tree)}, wanted indices in lists and objects")


def _check_sites(program: Program) -> None:
    nodes = program.graph.graph.nodes
    marked = [node for node in nodes if SITE_META in node.meta or node.target is attention]
    named = [node.meta.get(SITE_META) for node in marked]
    if named != [site.name for site in program.sites] or len(set(named)) != len(named):
        raise ValueError(f"attention nodes {shown(named)} do not fit the sites")
    if program.plan is not None:
        program.plan.check(program.sites)
    for site, node in zip(program.sites, marked, strict=True):
        if node.target is not attention or node.kwargs:
            raise ValueError(f"site {site.name} is no attention node")
        call = dict(zip(_ARGUMENTS, (*node.args, *_DEFAULTS[len(node.args) :]), strict=True))
        constants = (
            *(call["scale"], call["causal"], call["block_count"], call["block_index"]),
            *(call["q_offset"], call["binding"]),
        )
        # False equals 0, and is no position.
        if constants != (site.scale, site.causal, None, None, 0, "") or type(call["q_offset"]) is not int:
            raise ValueError(f"site {site.name} and its node differ: {shown(constants)}")
        _check_params(program, site, call["head_params"])
        _check_far_field(program, site, call["maps"], call["far_heads"])
        _check_widening(program, site, call["widening"])


def _check_params(program: Program, site: Site, node: Any) -> None:
    if not isinstance(node, Node) or node.op != "get_attr":
        raise ValueError(f"site {site.name} has no tensor of parameters")
    params = program.tensors[str(node.target)]
    if params.dtype != torch.int32 or tuple(params.shape) != (site.q_heads, 2):
        raise ValueError(f"site {site.name}: parameters are {params.dtype} {tuple(params.shape)}")
    if program.plan is not None and [pattern.params() for pattern in program.plan[site.name]] != [
        tuple(row) for row in params.tolist()
    ]:
        raise ValueError(f"site {site.name}: its parameters are not those of the plan")


def _check_far_field(program: Program, site: Site, maps: Any, heads: Any) -> None:
    """A site has the far field that its plan says, and the features for it."""
    if maps is None and heads is None:
        if program.plan is not None and any(each.has_far_field for each in program.plan[site.name]):
            raise ValueError(f"site {site.name} lacks the far field that the plan gives it")
        return
    if not all(isinstance(each, Node) and each.op == "get_attr" for each in (maps, heads)):
        raise ValueError(f"site {site.name} has no tensors of a far field")
    learned, using = (program.tensors[str(each.target)] for each in (maps, heads))
    sizes = tuple(learned.shape)
    if not (learned.is_floating_point() and sizes == (site.q_heads, 2, FEATURES, site.head_dim + 1)):
        raise ValueError(f"site {site.name}: its feature maps are {learned.dtype} {sizes}")
    if using.dtype != torch.bool or tuple(using.shape) != (site.q_heads,):
        raise ValueError(f"site {site.name}: heads with a far field are {using.dtype} {tuple(using.shape)}")
    planned = None if program.plan is None else [each.has_far_field for each in program.plan[site.name]]
    if using.tolist() != planned or not site.causal:
        raise ValueError(f"site {site.name}: its far field is not that of the plan")


def _check_widening(program: Program, site: Site, node: Any) -> None:
    planned = [] if program.plan is None else [pattern.widening for pattern in program.plan[site.name]]
    if node is None:
        if any(planned):
            raise ValueError(f"site {site.name} lacks what the plan's windows gain")
        return
    if not isinstance(node, Node) or node.op != "get_attr":
        raise ValueError(f"site {site.name} has no tensor of what its windows gain")
    gains = program.tensors[str(node.target)]
    if gains.dtype != torch.int32 or gains.dim() != 1 or gains.tolist() != planned:
        raise ValueError(f"site {site.name}: its windows gain something else than the plan's")


def _check_refits(program: Program) -> None:
    for node in program.graph.graph.nodes:
        if node.target is not refit_linear:
            continue
        _, *weights, _, mask, start, onednn = node.args
        if any(not isinstance(weight, Node) or weight.op != "get_attr" for weight in weights):
            raise ValueError(f"{node.name} has no two tensors of weights")
        own, second = (program.tensors[str(weight.target)] for weight in weights)
        if (own.shape, own.dtype) != (second.shape, second.dtype) or own.dim() != 2:
            raise ValueError(f"{node.name}: weights are {tuple(own.shape)} and {tuple(second.shape)}")
        check_int(f"{node.name}: start", start)
        if onednn is not False or not (mask is None or isinstance(mask, Node)) or node.kwargs:
            raise ValueError(f"{node.name} is no projection of an artifact's")
