"""What every test may rely on: where the real data is, and which tests can run on this machine."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says something of the machine, and nothing of what is tested.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
if "PYTEST_XDIST_WORKER" in os.environ:
    # As many test workers as there are cores: each computes on one, and so do the processes that it starts.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
PROJECT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("QUILTWORK_DATA") or PROJECT.parent / "shared" / "data")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "/usr/bin/chromium")


def _no_page() -> str | None:
    """Why a page cannot be driven here, or None."""
    if find_spec("playwright") is None:
        return "playwright is not installed"
    return None if any(map(shutil.which, BROWSERS)) else "there is no Chromium on this machine"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("realdata") is not None and not DATA.is_dir():
        _no_data()
    if item.get_closest_marker("page") is not None and (reason := _no_page()) is not None:
        if os.environ.get("QUILTWORK_REQUIRE_PAGE") == "1":
            pytest.fail(f"{reason}, and QUILTWORK_REQUIRE_PAGE says that there must be", pytrace=False)
        pytest.skip(reason)


def _no_data() -> None:
    if os.environ.get("QUILTWORK_DATA"):
        pytest.fail(f"$QUILTWORK_DATA names no folder: {DATA}", pytrace=False)
    pytest.skip(f"real data is not here: {DATA} ($QUILTWORK_DATA)")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data; a test without it is skipped."""
    if not DATA.is_dir():
        _no_data()
    return DATA


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray cluster of two nodes on this host, and this process connected to it. One for all tests: a process has one.

    Each node has a CPU, and is what the cluster's room calls a server: ``a`` with four V100, ``b`` with two T4.
    """
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "resources": {"srv_a": 1, "V100": 4}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, resources={"srv_b": 1, "T4": 2})
    ray.init(address=cluster.address, namespace="quiltwork", log_to_driver=False, configure_logging=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
