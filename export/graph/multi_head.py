"""Attention as one node: ONNX Runtime has a kernel for it that never holds the matrix of logits.

The operator is ONNX Runtime's own, com.microsoft.MultiHeadAttention. The graph also carries it as an ONNX function of
standard operators, so that parsers that do not know it (ONNX's reference) read the products it stands for;
TensorRT-RTX 1.7's parser knows it and makes its own attention of it, with this scale. From opset 23 on it is the
standard's Attention instead, which TensorRT's parser is documented to know (10.14); ONNX Runtime's CPU kernel for that
takes a quarter longer and holds the logits.
At 6912 tokens and five heads the logits alone are 955 MB a copy; the kernel keeps blocks of them.

N batch, T L tokens, h heads, d channels a head.
"""

import onnx_ir as ir
import torch
from onnx import helper
from torch import Tensor

DOMAIN = "com.microsoft"
NAME = "MultiHeadAttention"


def _packed(x_NhTd: Tensor) -> Tensor:
    return x_NhTd.transpose(1, 2).flatten(2)


def multi_head_attention(query_NhTd: Tensor, key_NhLd: Tensor, value_NhLd: Tensor) -> Tensor:
    """softmax(query key^T) value [N, h, T, d] as one node; only inside torch.onnx.export, elsewhere it gives zeros.

    Args:
        query_NhTd: float32, already scaled.
        key_NhLd: float32.
        value_NhLd: float32.
    """
    N, h, T, d = query_NhTd.shape
    mixed_NTC: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{NAME}",
        (_packed(query_NhTd), _packed(key_NhLd), _packed(value_NhLd)),
        {"num_heads": h, "scale": 1.0},
        dtype=value_NhLd.dtype,
        shape=(N, T, h * d),
        version=1,
    )
    return mixed_NTC.reshape(N, T, h, d).transpose(1, 2)


def _function(opset: int) -> ir.Function:
    """MultiHeadAttention with scale 1 of packed query [N, T, h d], key and value [N, L, h d] in standard operators."""
    heads = helper.make_node("Constant", [], ["heads"])
    reference = heads.attribute.add()
    reference.name, reference.ref_attr_name = "value_int", "num_heads"
    reference.type = 2  # AttributeProto.INT; the value is the calling node's num_heads
    nodes = [
        heads,
        helper.make_node("Constant", [], ["axis"], value_ints=[0]),
        helper.make_node("Constant", [], ["kept"], value_ints=[0, 0]),
        helper.make_node("Constant", [], ["rest"], value_ints=[-1]),
        helper.make_node("Unsqueeze", ["heads", "axis"], ["heads_1"]),
        helper.make_node("Concat", ["kept", "heads_1", "rest"], ["split"], axis=0),
        helper.make_node("Concat", ["kept", "rest"], ["joined"], axis=0),
    ]
    # The key goes transposed straight away, for the product.
    for name, axes in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        nodes.append(helper.make_node("Reshape", [name, "split"], [f"{name}_NThd"]))
        nodes.append(helper.make_node("Transpose", [f"{name}_NThd"], [f"{name}_heads"], perm=axes))
    nodes += [
        helper.make_node("MatMul", ["query_heads", "key_heads"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "value_heads"], ["mixed_NhTd"]),
        helper.make_node("Transpose", ["mixed_NhTd"], ["mixed_NThd"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed_NThd", "joined"], ["mixed"]),
    ]
    function = helper.make_function(
        DOMAIN,
        NAME,
        ["query", "key", "value"],
        ["mixed"],
        nodes,
        [helper.make_opsetid("", opset)],
        attributes=["num_heads", "scale"],
    )
    return ir.serde.deserialize_function(function)


STANDARD_OPSET = 23
"""From here on the standard has the operator Attention."""


def settle_attention(model: ir.Model) -> None:
    """What every MultiHeadAttention of a traced ``model`` needs: the function, or from opset 23 on to be Attention."""
    nodes = [node for node in model.graph if node.op_identifier() == (DOMAIN, NAME, "")]
    opset = model.opset_imports[""]
    if opset >= STANDARD_OPSET:
        for node in nodes:
            heads = node.attributes.pop("num_heads").value
            node.domain, node.op_type = "", "Attention"
            node.attributes.add(ir.AttrInt64("q_num_heads", heads))
            node.attributes.add(ir.AttrInt64("kv_num_heads", heads))
        model.opset_imports.pop(DOMAIN, None)
    elif nodes:
        function = _function(opset)
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = 1
