"""Two nodes of one process each, started by `torchrun` on the loopback interface, against a single process."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import loader, quiet_trainer
from torch.testing import assert_close
from torchrun_worker import ROWS, data, main, make

WORKER = Path(__file__).with_name("torchrun_worker.py")


def run_two_nodes(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [str(WORKER.parents[2]), str(WORKER.parents[1])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--master-addr", "127.0.0.1", "--master-port", str(port)),
    ]
    nodes = [
        subprocess.Popen(
            [*command, "--node-rank", str(rank), str(WORKER), str(folder), "2", "24"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for node in nodes:
            output, _ = node.communicate(timeout=240)
            assert node.returncode == 0, output[-3000:]
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.slow
@pytest.mark.thorough
def test_two_nodes_equal_one_process(tmp_path: Path) -> None:
    run_two_nodes(tmp_path)
    quiet_trainer()  # ignores Lightning's warnings
    main(tmp_path, num_nodes=1, batch_size=48)

    def load(name: str, num_nodes: int, rank: int) -> dict[str, Any]:
        report: dict[str, Any] = torch.load(tmp_path / f"{name}_{num_nodes}_{rank}.pt", weights_only=True)
        return report

    x, y = data()
    for name in ("deterministic", "mean_field"):
        first, second, alone = load(name, 2, 0), load(name, 2, 1), load(name, 1, 0)
        assert first["world_size"] == second["world_size"] == 2
        assert (first["node"], second["node"]) == (0, 1)
        assert first["num_data"] == second["num_data"] == alone["num_data"] == ROWS
        assert first["metrics"] == pytest.approx(second["metrics"])
        assert torch.equal(first["pred"], second["pred"])
        assert all(torch.equal(value, second["state"][key]) for key, value in first["state"].items())
        # The trained weights give the same test metrics and predictions in one process.
        method = make(name)
        method.load_state_dict(first["state"], strict=False)
        (metrics,) = quiet_trainer().test(method, loader(x, y, batch_size=12), verbose=False)
        assert metrics == pytest.approx(first["metrics"], rel=1e-4)
        assert_close(method.predict(x, seed=3).mean, first["pred"])
    # Without noise, training is the same too: each step sees all rows.
    first, alone = load("deterministic", 2, 0), load("deterministic", 1, 0)
    for key, value in first["state"].items():
        assert_close(value, alone["state"][key], rtol=1e-4, atol=1e-5)
    assert first["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)
