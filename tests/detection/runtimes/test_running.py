"""Networks that another library holds, where they are copied or sent to a process."""

import copy
import pickle

import pytest
import torch

from detection.runtimes.running import run_onnx
from divdet.engine.errors import UserError


def test_a_network_of_a_runtime_is_copied_but_not_sent() -> None:
    """Python's own words would name a local object of divdet."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, ["N", 2]) for name in ("images", "out")]
    node = onnx.helper.make_node("Identity", ["images"], ["out"])
    graph = onnx.helper.make_graph([node], "graph", ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    network = run_onnx(onnx.helper.make_model(graph, ir_version=9, opset_imports=opset).SerializeToString())
    assert copy.deepcopy(network)(torch.ones(3, 2, dtype=torch.uint8))[0].sum() == 6
    with pytest.raises(UserError, match="cannot be sent to another process: load it there"):
        pickle.dumps(network)
